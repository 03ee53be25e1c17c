"""``selfheald doctor``: what it finds out about real set-ups, right and wrong ones. It changes nothing."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fixtures.waiting import DEADLINE
from namespaces import namespaces
from processes import NAME, Record, Selfheald, command, snapshot
from projects import copy_project

from selfheald.diagnosis.findings import CHECKS, GROUPS, OPTIONAL

Copied = Callable[[Path], Path]
Found = dict[str, tuple[str, str, str | None]]

#: Somebody who may do nothing here.
NOBODY = 65534


@pytest.fixture
def doctor(selfheald: Selfheald, finished: Path) -> Callable[..., Record]:
    """The document for roots; dbt has read the bundled project already, when the finished database was made."""
    assert finished.exists()

    def run(*arguments: object, code: int = 0, **settings: object) -> Record:
        return selfheald.document("doctor", *arguments, code=code, **settings)

    return run


def found(document: Record) -> Found:
    """The worst finding of each id: status, message, hint."""
    assert list(document) == ["format", "ok", "checks"]
    order = ["green", "yellow", "red"]
    worst: Found = {}
    for each in document["checks"]:
        assert list(each) == ["id", "status", "message", "hint"]
        assert each["hint"] or each["status"] != "red", each
        known = worst.get(each["id"])
        if known is None or order.index(each["status"]) > order.index(known[0]):
            worst[each["id"]] = (each["status"], each["message"], each["hint"])
    assert set(CHECKS) - OPTIONAL <= set(worst) <= set(CHECKS)
    assert document["ok"] == ("red" not in {status for status, _, _ in worst.values()})
    return worst


def those(findings: Found, status: str) -> set[str]:
    return {check for check, (each, _, _) in findings.items() if each == status}


class TestSetUp:
    def test_one_that_is_right_and_nothing_is_changed(
        self, doctor: Callable[..., Record], root: Path, complete: Copied, environment: dict[str, str]
    ) -> None:
        complete(root / "alpha")
        state = Path(environment["SELFHEALD_STATE_DIR"])
        before = snapshot(root), snapshot(state)
        findings = found(doctor(root))
        assert (snapshot(root), snapshot(state)) == before
        assert not those(findings, "red")
        assert findings["project"][1].startswith("selfheald_foundation in ")
        assert findings["selection"][1] == "5 seeds and 3 foundation tables are required"
        assert findings["daemon"][:2] == ("yellow", f"no daemon watches {root}")
        assert findings["root_access"] == ("green", f"{root} can be read and written", None)
        assert "2 folders to watch" in findings["inotify_watches"][1] or sys.platform != "linux"

    def test_a_project_that_dbt_has_not_read_yet_leaves_no_trace(self, selfheald: Selfheald, root: Path) -> None:
        project = copy_project(selfheald.folder / "project")
        state = selfheald.folder / "state"
        before = snapshot(selfheald.folder)
        document = selfheald.document("doctor", root, STATE_DIR=str(state), DBT__PROJECT_DIR=str(project), DBT__VARS={})
        assert snapshot(selfheald.folder) == before
        findings = found(document)
        assert findings["project"][:2] == ("green", f"own_project in {project} parses")
        assert "is generated" in findings["profile"][1]
        assert findings["state_folder"][:2] == ("green", f"{state} is still to be made, and can be")

    def test_a_daemon_that_runs(self, selfheald: Selfheald, doctor: Callable[..., Record], root: Path) -> None:
        (root / "alpha").mkdir()
        with selfheald.daemon(root) as daemon:
            findings = found(doctor(root / "alpha", root))
            assert findings["daemon"][:2] == ("green", f"PID {daemon.pid} watches {root}: ready, native")
            assert findings["roots"][:2] == ("yellow", f"{root}/alpha lies in {root}: both are watched as one")
            assert f"PID {daemon.pid}" in findings["open_files"][1]
            assert found(doctor(root / "alpha"))["daemon"][1].endswith(
                f"{root}/alpha, as part of {root}: ready, native"
            )
            other = found(doctor(root, WATCH__DATABASE="other.duckdb", code=1))["daemon"]
            assert other[0] == "red"
            assert "looks for simulation.duckdb, not other.duckdb" in other[1]

    def test_leftovers(
        self, doctor: Callable[..., Record], root: Path, complete: Copied, environment: dict[str, str], tmp_path: Path
    ) -> None:
        private = complete(root / "alpha").parent / ".selfheald"
        (private / "staging-dead").mkdir(parents=True)
        (private / "staging-live").mkdir()
        (root / "alpha" / f"{NAME}.corrupt-20260101T000000").write_bytes(bytes(1500))
        notes = tmp_path / "state" / "checks" / "1-abc.notes"
        notes.parent.mkdir(parents=True)
        shutil.copytree(Path(environment["SELFHEALD_STATE_DIR"]) / "plans", tmp_path / "state" / "plans")
        lines = [
            ["+", f"{root}/alpha/{NAME}", None],
            ["+", f"{root}/beta/{NAME}", None],
            ["-", f"{root}/beta/{NAME}", None],
        ]
        notes.write_text("".join(json.dumps(line) + "\n" for line in lines))
        handle = os.open(private / "staging-live", os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            findings = found(doctor(root, STATE_DIR=str(tmp_path / "state")))
        finally:
            os.close(handle)
        status, message, hint = findings["leftovers"]
        assert (status, message) == ("yellow", f"1 staging folder of killed attempts: {private}/staging-dead")
        assert f"selfheald ensure {root}/alpha" in (hint or "")
        assert findings["set_aside"][0] == "green"
        assert findings["set_aside"][1].startswith("1 file set aside")
        assert findings["suspects"][:2] == (
            "yellow",
            f"a daemon died while it read 1 database: {root}/alpha/{NAME}",
        )


class TestConfiguration:
    def test_a_wrong_one_is_red_and_the_rest_is_told(self, selfheald: Selfheald) -> None:
        file = selfheald.folder / "my.toml"
        file.write_text("[watch]\nsetle = 1\n[log]\nlevel = 'LOUD'\n")
        document = selfheald.document("doctor", "--config", file, code=1)
        findings = found(document)
        assert those(findings, "red") == {"configuration"}
        lines = [each["message"] for each in document["checks"] if each["id"] == "configuration"]
        assert lines[0] == f"{file}:2: watch.setle: unknown key; did you mean watch.settle?"
        assert lines[1].startswith(f"{file}:4: log.level")
        assert findings["roots"][:2] == ("yellow", "not checked: the configuration is wrong")
        assert findings["daemon_python"][0] == "green"

    def test_passed_over_and_hardly_meant(self, selfheald: Selfheald, root: Path) -> None:
        file = selfheald.folder / "selfheald.toml"
        file.write_text("")
        file.chmod(0o666)
        findings = found(selfheald.document("doctor", root, METRICS__LISTEN="0.0.0.0:1"))
        assert findings["passed_over"][0] == "yellow"
        assert f"passed over {file}" in findings["passed_over"][1]
        assert findings["settings"][0] == "yellow"
        assert findings["settings"][1].startswith("metrics.listen: other machines can reach 0.0.0.0")

    def test_no_roots(self, doctor: Callable[..., Record]) -> None:
        assert those(found(doctor(code=1)), "red") == {"roots"}

    def test_nobody_of_that_name(self, selfheald: Selfheald) -> None:
        done = selfheald.run("doctor", "--user", "nobody-of-this-name")
        assert done.returncode == 2
        assert "there is no user nobody-of-this-name" in done.stderr


def _no_project(project: Path) -> None:
    shutil.rmtree(project)


def _broken(project: Path) -> None:
    (project / "models" / "mart" / "fct_headcount.sql").write_text("select * from {{ ref('nowhere') }}\n")


def _elsewhere(project: Path) -> None:
    output = {"type": "duckdb", "path": "/elsewhere/simulation.duckdb"}
    profile = {"own_profile": {"target": "dev", "outputs": {"dev": output}}}
    (project / "profiles.yml").write_text(json.dumps(profile))


@pytest.mark.parametrize(
    ("change", "settings", "red", "told"),
    [
        (_no_project, {}, "project", "there is no dbt project in"),
        (_broken, {}, "project", "nowhere"),
        (_elsewhere, {}, "profile", "whatever DATABASE_PATH says"),
        (None, {"REQUIRED__SELECT": ["tag:Foundation"]}, "selection", "matches nothing"),
        (None, {"DBT__VARS_COMMAND": ["false"]}, "settings", "ended with exit code 1"),
    ],
    ids=["missing", "broken", "profile", "selection", "vars_command"],
)
def test_a_project_that_is_wrong(
    selfheald: Selfheald,
    root: Path,
    change: Callable[[Path], None] | None,
    settings: dict[str, object],
    red: str,
    told: str,
) -> None:
    project = copy_project(selfheald.folder / "project")
    if change is not None:
        change(project)
    findings = found(
        selfheald.document("doctor", root, code=1, DBT__PROJECT_DIR=str(project), **{"DBT__VARS": {}, **settings})
    )
    assert those(findings, "red") == {red}
    assert told in findings[red][1]


class TestInterpreter:
    def test_one_that_is_missing(self, doctor: Callable[..., Record], root: Path) -> None:
        findings = found(doctor(root, DBT__PYTHON="/nowhere/bin/python", code=1))
        assert findings["dbt_python"][0] == "red"
        assert "cannot start /nowhere/bin/python" in findings["dbt_python"][1]
        assert findings["dbt_versions"][1].startswith("not checked")

    def test_one_without_dbt(self, doctor: Callable[..., Record], root: Path) -> None:
        python = Path(sys.base_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}")
        if not python.exists() or sys.prefix == sys.base_prefix:
            pytest.skip("there is no interpreter here beside this one")
        document = doctor(root, DBT__PYTHON=str(python), DBT__ENV={"PYTHONPATH": ""}, code=1)
        told = [each["message"] for each in document["checks"] if each["id"] == "dbt_versions"]
        assert told == [f"{python} has no {name}" for name in ("dbt-core", "dbt-duckdb", "duckdb")]

    @pytest.mark.pinned
    def test_the_pinned_one(self, doctor: Callable[..., Record], root: Path) -> None:
        python = os.environ.get("SELFHEALD_TEST_PINNED")
        if not python:
            pytest.skip("SELFHEALD_TEST_PINNED names no interpreter")
        findings = found(doctor(root, DBT__PYTHON=python, DBT__STORAGE_VERSION="v1.4.0"))
        assert findings["dbt_versions"][:2] == ("green", "dbt-core 1.8.8, dbt-duckdb 1.8.1, duckdb 1.0.0")
        assert findings["daemon_duckdb"][0] == findings["project"][0] == "green"
        assert findings["storage_format"][0] == "yellow"
        assert "has no effect" in findings["storage_format"][1]

    def test_a_simulators_environment_is_found(
        self, doctor: Callable[..., Record], root: Path, tmp_path: Path, selfheald: Selfheald
    ) -> None:
        (tmp_path / "simulator/lib/python3.11/site-packages/duckdb-1.0.0.dist-info").mkdir(parents=True)
        selfheald.environment["VIRTUAL_ENV"] = str(tmp_path / "simulator")
        python = tmp_path / "simulator" / "bin" / "python"
        assert found(doctor(root))["simulator_duckdb"][:2] == (
            "green",
            f"DuckDB 1.0.0 of {python} can read databases made here",
        )
        status, message, hint = found(doctor(root, DBT__STORAGE_VERSION="latest"))["simulator_duckdb"]
        assert (status, message) == ("yellow", f"DuckDB 1.0.0 of {python} cannot read databases made here")
        assert "set dbt.storage_version to v1.0.0" in (hint or "")


class TestPlaces:
    def test_a_root_that_is_missing_and_one_that_is_none(self, doctor: Callable[..., Record], tmp_path: Path) -> None:
        (tmp_path / "plain").touch()
        document = doctor(tmp_path / "missing", tmp_path / "plain", code=1)
        told = [each["message"] for each in document["checks"] if each["id"] == "roots"]
        assert told == [f"{tmp_path}/missing does not exist", f"{tmp_path}/plain is not a folder"]
        assert those(found(document), "red") == {"roots"}

    def test_a_link_in_the_place_of_the_private_folder(
        self, doctor: Callable[..., Record], root: Path, tmp_path: Path
    ) -> None:
        (root / ".selfheald").symlink_to(tmp_path)
        findings = found(doctor(root, code=1))
        assert those(findings, "red") == {"private_folder"}
        assert "symbolic link" in findings["private_folder"][1]

    def test_rights_of_another_user(
        self, doctor: Callable[..., Record], open_path: Path, selfheald: Selfheald, environment: dict[str, str]
    ) -> None:
        if os.geteuid() != 0 or shutil.which("setpriv") is None:
            pytest.skip("needs root and setpriv to become another user")
        others, own = open_path / "others", open_path / "own"
        others.mkdir()
        own.mkdir(mode=0o700)
        os.chown(own, NOBODY, NOBODY)
        judged = found(doctor(others, own, "--user", NOBODY, code=1, STATE_DIR=str(own / "state"), LOG__FILE=""))
        status, message, hint = judged["root_access"]
        assert (status, message) == ("red", f"{others} cannot be read and written")
        assert "chmod g+rwxs" in (hint or "")
        assert judged["state_folder"][0] == "green"
        # The same, asked by that user himself: no judgement from owners and modes, but the kernel's own word.
        packages = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, sys.path)])
        become = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "sh", "-c", 'exec "$0" "$@"']
        python = shutil.which(
            f"python{sys.version_info.major}.{sys.version_info.minor}", path="/usr/bin:/usr/local/bin"
        )
        for each in filter(None, [sys.executable, python]):
            done = subprocess.run(
                [*become, each, "-m", "selfheald", "doctor", str(others), str(own), "--json"],
                env=environment | {
                    "PYTHONPATH": packages, "SELFHEALD_STATE_DIR": str(own / "state"), "HOME": str(own),
                    "SELFHEALD_LOG__FILE": "", "XDG_CONFIG_HOME": str(own),
                },
                cwd=open_path, capture_output=True, text=True, timeout=DEADLINE, check=False,
            )  # fmt: skip
            if done.stdout:
                break
        else:
            pytest.skip(f"nobody else may run this Python, or read this folder: {done.stderr}")
        assert done.returncode == 1
        asked = found(json.loads(done.stdout))
        assert asked["root_access"] == judged["root_access"]
        assert asked["private_folder"][0] == "green"
        assert list(own.iterdir()) == []

    def test_disks(self, doctor: Callable[..., Record], selfheald: Selfheald, tmp_path: Path) -> None:
        place = tmp_path / "disk"
        place.mkdir()
        with namespaces("m") as shell:
            shell.run(f"mount -t tmpfs -o size=20000000 tmpfs {place}")
            selfheald.prefix = shell.enter
            findings = found(doctor(place, code=1))
            assert those(findings, "red") == {"disk_space"}
            assert "100 MB must be free" in (findings["disk_space"][2] or "")
            assert findings["file_system"][0] == "yellow"
            assert "in memory (tmpfs)" in findings["file_system"][1]
            shell.run(f"mount -o remount,ro {place}")
            findings = found(doctor(place, code=1, LIMITS__MIN_FREE_BYTES=1))
            assert those(findings, "red") == {"file_system"}
            assert "read-only" in findings["file_system"][1]


class TestMachine:
    def test_open_files(self, doctor: Callable[..., Record], selfheald: Selfheald, root: Path) -> None:
        if shutil.which("prlimit") is None:
            pytest.skip("lowers a limit with prlimit")
        selfheald.prefix = ["prlimit", "--nofile=128:"]
        status, message, hint = found(doctor(root))["open_files"]
        assert (status, message) == ("yellow", "a process that is started here may open 128 files at once")
        assert "LimitNOFILE=" in (hint or "")

    def test_inotify(self, doctor: Callable[..., Record], selfheald: Selfheald, root: Path) -> None:
        for number in range(10):
            (root / f"folder-{number}").mkdir()
        with namespaces("Ur") as shell:
            shell.limit("inotify_watches", 5)
            shell.limit("inotify_instances", 1)
            selfheald.prefix = shell.enter
            findings = found(doctor(root))
            assert findings["inotify_watches"][0] == findings["inotify_instances"][0] == "yellow"
            assert findings["inotify_watches"][1].startswith("11 folders to watch, ")
            assert "user.max_inotify_watches = 524288" in (findings["inotify_watches"][2] or "")
            assert "user.max_inotify_instances = 512" in (findings["inotify_instances"][2] or "")
            findings = found(doctor(root, WATCH__MODE="native", code=1))
            assert those(findings, "red") == {"inotify_watches", "inotify_instances"}


class TestOutput:
    def test_plain_lines_in_a_pipe(self, selfheald: Selfheald, tmp_path: Path) -> None:
        missing = tmp_path / "a\x1b[31mb\nc"
        done = selfheald.run("doctor", missing)
        assert done.returncode == 1
        *lines, total = done.stdout.splitlines()
        fields = [line.split("\t") for line in lines]
        assert {len(each) for each in fields} == {3}
        assert {word for word, _, _ in fields} == {"ok", "note", "bad"}
        bad = next(text for word, check, text in fields if (word, check) == ("bad", "roots"))
        assert " → mkdir -p " in bad
        assert "\x1b" not in done.stdout
        assert total.endswith(" 1 bad")

    @pytest.mark.parametrize("colours", [True, False])
    def test_groups_on_a_terminal(self, selfheald: Selfheald, root: Path, colours: bool) -> None:
        environment = (
            selfheald.environment | {"TERM": "xterm", "COLUMNS": "100"} | ({} if colours else {"NO_COLOR": "1"})
        )
        text = _on_a_terminal(command("doctor", str(root)), selfheald.folder, environment)
        assert ("\x1b[32mok" in text) == colours
        assert "ok" in text
        assert "note" in text
        assert [group for group in GROUPS if group not in text and set(GROUPS[group]) - OPTIONAL] == []
        assert " 0 bad" in text


def _on_a_terminal(line: list[str], folder: Path, environment: dict[str, str]) -> str:
    """What a command shows on a terminal; it must end with 0."""
    ours, its = pty.openpty()
    with subprocess.Popen(
        line, cwd=folder, env=environment, stdin=its, stdout=its, stderr=subprocess.DEVNULL, close_fds=True
    ) as process:
        os.close(its)
        shown = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # how Linux tells that the other side has been closed
                break
            if not part:
                break
            shown += part
        os.close(ours)
        assert process.wait(DEADLINE) == 0, shown
    return shown.decode()


def test_the_mode_of_a_folder_is_not_touched(doctor: Callable[..., Record], root: Path) -> None:
    root.chmod(0o775)
    status, _, hint = found(doctor(root))["root_group"]
    assert (status, hint) == ("yellow", f"chmod g+s {root}")
    assert stat.S_IMODE(root.stat().st_mode) == 0o775
