"""``selfheald doctor --bundle``: what is in the archive, and that no row and no secret is."""

from __future__ import annotations

import gzip
import json
import os
import stat
import subprocess
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fixtures.waiting import DEADLINE
from processes import NAME, OWN_PROJECT, Selfheald, change, command
from projects import copy_project

#: Each secret has this in it, and another word that tells where it was.
SESAME = "Sesam0"
#: A row as it stands in a table, and in messages about it.
ROW = ("Ottilie Nachname", "85231", "1980-02-29")
MEMBERS = ["README.txt", "versions.json", "doctor.json", "configuration.toml", "plan.json", "status.json"]
MEMBERS += ["history.json", "log.jsonl", "service.txt"]


@dataclass(frozen=True)
class Bundle:
    path: Path
    told: str
    root: Path
    raw: bytes
    members: Mapping[str, str]

    def document(self, name: str) -> Any:
        return json.loads(self.members[name])


@pytest.fixture(scope="module")
def bundle(shared_selfheald: Selfheald, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """An archive about a set-up that has secrets wherever somebody might have put one."""
    folder = tmp_path_factory.mktemp("bundle")
    root, home = folder / "root", folder / "home"
    _plant_service(home)
    settings = _plant_settings(folder, root)
    environment = {
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / ".config"),
        "AWS_SECRET_ACCESS_KEY": f"{SESAME}-aws",
        "UNSUSPICIOUS": f"{SESAME}-random",
        "SELFHEALD_DBT__ENV__LAKE": f"{SESAME}-lake",
        "DBT_ENV_SECRET_GIT": f"{SESAME}-git",
        "SELFHEALD_STATE_DIR": str(folder / "state"),
        "SELFHEALD_LOG__FILE": str(folder / "log"),
    }
    options: dict[str, Any] = {"env": environment, "cwd": folder}
    # A real failure, whose message quotes a value: it is in the status file and in the history then.
    failed = shared_selfheald.run("ensure", root / "failed", "--config", settings, **options)
    assert f"{SESAME}-cast" in failed.stderr
    _plant_records(root / "planted", folder)
    _plant_lines(folder / "log", root)
    target = folder / "support.tar.gz"
    done = shared_selfheald.run("doctor", "--config", settings, "--bundle", target, **options)
    assert done.returncode in (0, 1), done.stderr
    raw = gzip.decompress(target.read_bytes())
    with tarfile.open(target) as archive:
        files = {each.name: archive.extractfile(each) for each in archive.getmembers()}
        members = {name.partition("/")[2]: file.read().decode() for name, file in files.items() if file}
    return Bundle(target, done.stdout, root, raw, members)


def _plant_settings(folder: Path, root: Path) -> Path:
    project = copy_project(folder / "project")
    output = {"type": "duckdb", "path": "{{ env_var('DATABASE_PATH') }}"}
    other = {"type": "postgres", "user": "me", "password": f"{SESAME}-profile"}
    profile = {"own_profile": {"target": "dev", "outputs": {"dev": output, "prod": other}}}
    (project / "profiles.yml").write_text(json.dumps(profile))
    program = folder / "variables"
    program.write_text(f'#!/bin/sh\necho {SESAME}-stderr >&2\necho \'{{"made": "{SESAME}-made"}}\'\n')
    program.chmod(0o755)
    settings = folder / "my.toml"
    settings.write_text(f"""
        watch.roots = ["{root}"]
        templates.inputs = ["https://store/x?sig={SESAME}-query", "https://me:{SESAME}-login@store/y"]
        [dbt]
        project_dir = "{project}"
        vars_command = ["{program}", "--token", "{SESAME}-command", "{SESAME}-bare"]
        pre_sql = "select '{SESAME}-cast'::integer"
        [dbt.vars]
        api_password = "{SESAME}-password"
        greeting = "{SESAME}-greeting"
        nested = {{ deep = ["{SESAME}-deep"] }}
        [dbt.env]
        LAKE_TOKEN = "{SESAME}-token"
    """)
    settings.chmod(0o600)
    (root / "failed").mkdir(parents=True)
    (root / "failed" / NAME).touch()
    return settings


def _plant_records(workspace: Path, folder: Path) -> None:
    """A database with rows, and files beside it that strangers may have written."""
    private = workspace / ".selfheald"
    private.mkdir(parents=True)
    change(workspace / NAME, f"create table people as select '{ROW[0]}' as name, '{SESAME}-row' as note")
    error = {
        "code": "dbt_failed",
        "message": f"Conversion Error: Could not convert string '{ROW[0]}' to INT32\nLINE 3: {ROW[1]}, {SESAME}-error",
        "hint": f"Ask {SESAME}-hint.",
        "path": f"/elsewhere/{SESAME}-path",
        "step": "load_seeds",
        "log": f"{workspace}/{SESAME}-missing",
        "retryable": False,
    }
    record = {
        "format": 1,
        "database": str(workspace / NAME),
        "state": "failed",
        "reason": "needs_person",
        "holder": {"pid": 4711, "command": f"psql --password {SESAME}-holder", "mode": "write"},
        "attempt_id": f"{SESAME}-attempt",
        "missing_tables_found": ["fct_headcount", f"{SESAME}-table"],
        "error": error,
        "started_at": f"{SESAME}-moment",
        "completed_at": "2026-11-23T16:00:00.000Z",
        f"{SESAME}-key": 1,
        "note": f"{SESAME}-note",
    }
    (private / f"{NAME}.status").write_text(json.dumps(record))
    (private / f"{NAME}.history").write_text(json.dumps({**record, "outcome": "failed", "trigger": "event"}) + "\n")
    (workspace / f"{NAME}.ready").write_text(json.dumps({"state": "ready", "host": f"{SESAME}-host"}))
    elsewhere = folder / "elsewhere"
    elsewhere.write_text(json.dumps({"state": "failed", "reason": "linked", "attempt": 987654}))
    linked = workspace.with_name("linked")
    (linked / ".selfheald").mkdir(parents=True)
    (linked / NAME).touch()
    (linked / ".selfheald" / f"{NAME}.status").symlink_to(elsewhere)


def _plant_lines(log: Path, root: Path) -> None:
    words = f"logged in to postgres://me:{SESAME}-url@host with password={SESAME}-pair, {','.join(ROW)}"
    fields: dict[str, Any] = {
        "timestamp": "2026-11-23T16:00:00.000Z",
        "level": "ERROR",
        "event": "initialization_failed",
    }
    fields |= {"database": f"{root}/failed/{NAME}", "error_code": "dbt_failed", "duration_seconds": 0.25}
    with log.open("a") as file:
        file.write(json.dumps({**fields, "message": words, "exception": f"ValueError: {SESAME}-exception"}) + "\n")
        file.write(f"2026-11-23 16:00:01.000 WARNING  [{root}/failed/{NAME}] load_seeds: {words}\n")
        file.write(f"{SESAME}-print from a plug-in\n")


def _plant_service(home: Path) -> None:
    unit = home / ".config" / "systemd" / "user" / "selfheald.service"
    unit.parent.mkdir(parents=True)
    unit.write_text(
        f"[Service]\nType=notify\nWatchdogSec=60\nMemoryMax=1234\nEnvironment=TOKEN={SESAME}-unit PIN=4711\n"
        f"ExecStart=/usr/bin/env selfheald run --config /etc/{SESAME}-argument\n# {SESAME}-comment\n"
    )


class TestContent:
    def test_no_secret_and_no_row_is_in_any_byte_of_it(self, bundle: Bundle) -> None:
        # Also in names and headers of the archive, and also in part.
        for word in (SESAME, *ROW, *ROW[0].split(), "plug-in", "me:", "4711 ", 'linked"'):
            assert word.encode() not in bundle.raw, [name for name, text in bundle.members.items() if word in text]

    def test_it_has_what_helps(self, bundle: Bundle) -> None:
        assert list(bundle.members) == MEMBERS
        for name in MEMBERS[1:]:
            assert f"\n{name} " in bundle.members["README.txt"]
        versions = bundle.document("versions.json")
        assert versions["libraries"]["duckdb"] == versions["dbt.python"]["duckdb"]
        assert {"AWS_SECRET_ACCESS_KEY", "UNSUSPICIOUS"}.isdisjoint(versions["set"])
        assert "SELFHEALD_DBT__ENV__LAKE" in versions["set"]
        checks = {each["id"]: each for each in bundle.document("doctor.json")["checks"]}
        assert checks["roots"]["message"] == f"{bundle.root} is a folder"
        assert "own_project in " in checks["project"]["message"]
        assert {"name": "fct_headcount", "tier": "foundation"} in bundle.document("plan.json")["required"]

    def test_the_configuration_has_names_and_no_values(self, bundle: Bundle) -> None:
        text = bundle.members["configuration.toml"]
        assert f'roots = ["{bundle.root}"]  # file' in text
        assert 'vars = { api_password = "<hidden>", greeting = "<hidden>", nested = "<hidden>", ' in text
        assert 'env = { LAKE_TOKEN = "<hidden>", LAKE = "<hidden>" }' in text
        assert 'pre_sql = "<hidden>"' in text

    def test_a_failure_is_told_without_what_it_quotes(self, bundle: Bundle) -> None:
        databases = {each["database"]: each for each in bundle.document("status.json")["databases"]}
        failed = databases[f"{bundle.root}/failed/{NAME}"]["status"]
        assert failed["state"] == "failed"
        assert failed["error"]["code"] == "config_invalid"
        assert failed["error"]["message"].startswith("dbt.pre_sql: Conversion Error: Could not convert string '…' to ")
        assert [step["name"] for step in failed["steps"]][:2] == ["check_tables", "load_seeds"]
        planted = databases[f"{bundle.root}/planted/{NAME}"]["status"]
        assert planted["error"]["path"] == "…"
        assert planted["error"]["log"] == f"{bundle.root}/planted/…"
        assert planted["holder"] == {"pid": 4711, "mode": "write"}
        assert planted["missing_tables_found"][0] == "fct_headcount"
        assert planted["completed_at"] == "2026-11-23T16:00:00.000Z"

    def test_no_link_is_followed(self, bundle: Bundle) -> None:
        databases = {each["database"]: each for each in bundle.document("status.json")["databases"]}
        assert databases[f"{bundle.root}/linked/{NAME}"]["status"] is None
        assert b"987654" not in bundle.raw

    def test_the_history_and_the_log_are_there(self, bundle: Bundle) -> None:
        attempts = {each["database"]: each["attempts"] for each in bundle.document("history.json")["databases"]}
        assert attempts[f"{bundle.root}/failed/{NAME}"][0]["trigger"] == "ensure"
        *lines, last = map(json.loads, bundle.members["log.jsonl"].splitlines())
        assert last == {"left_out_lines_of_others": 1}
        planted = [line for line in lines if line["timestamp"] == "2026-11-23T16:00:00.000Z"]
        assert planted[0]["database"] == f"{bundle.root}/failed/{NAME}"
        assert planted[0]["error_code"] == "dbt_failed"
        assert planted[0]["event"] == "initialization_failed"

    def test_the_units_own_lines_are_told_as_they_are(self, bundle: Bundle) -> None:
        text = bundle.members["service.txt"]
        assert "\nWatchdogSec=60\n" in text
        assert "\nMemoryMax=1234\n" in text
        assert "\nExecStart=/usr/bin/…" not in text
        assert "selfheald run --config …" in text


class TestFile:
    def test_it_is_its_owners_alone_and_is_told_of(self, bundle: Bundle) -> None:
        assert stat.S_IMODE(bundle.path.stat().st_mode) == 0o600
        assert bundle.path.stat().st_size < 100_000
        with tarfile.open(bundle.path) as archive:
            entries = archive.getmembers()
        assert all(each.isfile() and each.mode == 0o600 and not each.uname for each in entries)
        assert f"Wrote {bundle.path} (" in bundle.told
        assert all(name in bundle.told for name in MEMBERS)

    @pytest.mark.parametrize("kind", ["file", "link", "folder"])
    def test_nothing_is_replaced(self, kind: str, selfheald: Selfheald, tmp_path: Path) -> None:
        target = tmp_path / "there"
        makers: Mapping[str, Callable[[], object]] = {
            "file": lambda: target.write_text("mine"),
            "link": lambda: target.symlink_to(tmp_path / "nowhere"),
            "folder": target.mkdir,
        }
        makers[kind]()
        done = selfheald.run("doctor", "--bundle", target)
        assert done.returncode == 2
        assert f"error[config_invalid]: {target} exists already" in done.stderr
        assert not (tmp_path / "nowhere").exists()
        assert kind != "file" or target.read_text() == "mine"

    def test_its_folder_must_be_there(self, selfheald: Selfheald, tmp_path: Path) -> None:
        done = selfheald.run("doctor", "--bundle", tmp_path / "no" / "file")
        assert done.returncode == 2
        assert f"{tmp_path}/no is not a folder" in done.stderr

    def test_a_disk_that_is_full_leaves_no_half_of_it(self, selfheald: Selfheald, tmp_path: Path) -> None:
        """By a limit on the size of files: what doctor found is told all the same."""
        (tmp_path / "wrong.toml").write_text("[watch]\nsetle = 1\n")
        limited = Selfheald(selfheald.folder, selfheald.environment, ["prlimit", "--fsize=1000"])
        done = limited.run("doctor", "--config", tmp_path / "wrong.toml", "--bundle", tmp_path / "out.tar.gz")
        assert done.returncode == 2
        assert "did you mean watch.settle?" in done.stdout
        assert f"{tmp_path}/out.tar.gz cannot be written" in done.stderr
        assert not (tmp_path / "out.tar.gz").exists()


class TestUse:
    """With a configuration that is wrong, which needs no dbt: what could be found out is in it all the same."""

    @pytest.fixture
    def words(self, tmp_path: Path) -> list[object]:
        (tmp_path / "wrong.toml").write_text(f"[watch]\nsetle = 1\n[log]\nlevel = '{SESAME}'\n")
        return ["doctor", "--config", tmp_path / "wrong.toml", "--bundle", tmp_path / "out.tar.gz"]

    def test_one_document_on_stdout_and_the_word_on_stderr(
        self, words: list[object], selfheald: Selfheald, tmp_path: Path
    ) -> None:
        old = os.umask(0)
        try:
            done = selfheald.run(*words, "--json")
        finally:
            os.umask(old)
        assert done.returncode == 1
        assert json.loads(done.stdout)["ok"] is False
        assert f"Wrote {tmp_path}/out.tar.gz" in done.stderr
        assert stat.S_IMODE((tmp_path / "out.tar.gz").stat().st_mode) == 0o600
        raw = gzip.decompress((tmp_path / "out.tar.gz").read_bytes())
        assert SESAME.encode() not in raw
        assert b"did you mean watch.settle?" in raw

    def test_a_reader_that_goes_away(self, words: list[object], selfheald: Selfheald, tmp_path: Path) -> None:
        """Like ``selfheald doctor --bundle FILE | head -1``: the archive is there."""
        with subprocess.Popen(
            command(*words), env=selfheald.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.close()
            assert process.stderr.read() == ""
            process.wait(DEADLINE)
        with tarfile.open(tmp_path / "out.tar.gz") as archive:
            assert len(archive.getnames()) >= 3


def test_own_project_is_what_the_tests_believe() -> None:
    assert (OWN_PROJECT / "models" / "mart" / "fct_headcount.sql").exists()
