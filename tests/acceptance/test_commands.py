"""Each command's documents, exit codes and words, on good days and on bad ones."""

from __future__ import annotations

import json
import os
import re
import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import Copied
from fixtures.waiting import wait_for
from processes import (
    ENDLESS,
    MODELS,
    NAME,
    REQUIRED,
    SEEDS,
    Daemon,
    Record,
    Selfheald,
    change,
    digests,
    holding,
    marker,
    snapshot,
    status,
    wait_until_marked,
)

from selfheald.client import status_path

# The contract's documents, key by key.
CHECK = set(
    "format database workspace exists complete marker tables missing holder project fingerprint duration_seconds"
    " error".split()
)
WAIT = set("format database outcome origin waited_seconds steps error".split())
ENSURE = set(
    "format database outcome attempt_id state steps missing_tables_found tables_created started_at completed_at"
    " error".split()
)
DRY_RUN = set("format database missing nodes vars project template".split())
STATUS = set("format daemons summary databases".split())
STATUS_FILE = set(
    "format database state reason queue_position holder attempt_id attempt next_attempt_at steps progress eta_seconds"
    " missing_tables_found tables_created answers error started_at completed_at".split()
)
STEP = set("name display_name status started_at completed_at duration_seconds success error_message".split())
ERROR = set("code message hint path step log retryable".split())
MARKER = set(
    "format state database fingerprint tables origin answers initialized_at checked_at host pid version".split()
)

#: The name of a folder with what breaks things: in SQL, shells, templates and markup.
HARD_NAME = """it's "quoted" größe 東京 🦆 -- %s {x} {{y}} $HOME [red] * & ,"""


def expect_error(document: Record, code: str) -> None:
    error = document["error"]
    assert set(error) == ERROR
    assert error["code"] == code
    assert error["message"]
    assert error["hint"]


def expect_two_lines(stderr: str, code: str) -> None:
    """A line of what and where, a line of what to do, and no other about it."""
    lines = [line for line in stderr.splitlines() if line.startswith(("error", "  "))]
    assert len(lines) == 2, stderr
    assert lines[0].startswith(f"error[{code}]: ")


class TestCheck:
    """``selfheald check`` answers, and changes nothing."""

    def test_all_and_some_and_none(self, selfheald: Selfheald, complete: Copied, tmp_path: Path) -> None:
        database = complete(tmp_path / "w" / "dbt")
        before = snapshot(tmp_path / "w")
        found = selfheald.document("check", tmp_path / "w")
        assert set(found) == CHECK
        assert (found["format"], found["exists"], found["complete"], found["marker"]) == (1, True, True, "absent")
        assert (found["database"], found["workspace"]) == (str(database), str(tmp_path / "w"))
        assert (found["missing"], found["holder"], found["error"]) == ([], None, None)
        assert sorted(table["name"] for table in found["tables"]) == REQUIRED
        assert {table["name"] for table in found["tables"] if table["tier"] == "seed"} == set(SEEDS)
        for table in found["tables"]:
            assert set(table) == {"name", "tier", "kind", "missing_columns"}
            assert (table["kind"], table["missing_columns"]) == ("table", [])
        assert snapshot(tmp_path / "w") == before

        change(database, "drop table comp_levers", "alter table config_irs_limits drop column source")
        before = snapshot(tmp_path / "w")
        found = selfheald.document("check", database, code=1)
        assert set(found) == CHECK
        assert (found["complete"], found["missing"]) == (False, ["comp_levers"])
        tables = {table["name"]: table for table in found["tables"]}
        assert tables["comp_levers"]["kind"] is None
        assert tables["config_irs_limits"]["missing_columns"] == ["source"]
        expect_error(found, "schema_mismatch")
        assert snapshot(tmp_path / "w") == before

        empty = tmp_path / "empty"
        empty.mkdir()
        found = selfheald.document("check", empty, code=1)
        assert set(found) == CHECK
        assert (found["exists"], found["complete"], sorted(found["missing"])) == (False, False, REQUIRED)
        assert found["error"] is None
        assert list(empty.iterdir()) == []

    @pytest.mark.parametrize("what", ["corrupt", "foreign", "folder", "no project"])
    def test_what_cannot_be_read(self, what: str, selfheald: Selfheald, complete: Copied, tmp_path: Path) -> None:
        database = tmp_path / "w" / NAME
        settings: dict[str, object] = {}
        if what == "folder":
            database.mkdir(parents=True)
        elif what == "foreign":
            database.parent.mkdir()
            database.write_text("no database at all\n" * 1000)
        else:
            complete(tmp_path / "w")
        if what == "corrupt":
            os.truncate(database, database.stat().st_size // 2)
        elif what == "no project":
            settings["DBT__PROJECT_DIR"] = str(tmp_path / "no project")
        before = snapshot(tmp_path / "w")
        done = selfheald.run("check", database if what != "folder" else tmp_path / "w", "--json", **settings)  # type: ignore[arg-type]
        codes = {
            "corrupt": "database_corrupt",
            "foreign": "not_a_database",
            "folder": "not_a_database",
            "no project": "dbt_project_missing",
        }
        document = json.loads(done.stdout)
        assert set(document) == CHECK
        assert document["complete"] is False
        expect_error(document, codes[what])
        expect_two_lines(done.stderr, codes[what])
        assert done.returncode == 1
        assert snapshot(tmp_path / "w") == before


class TestEnsure:
    """``selfheald ensure``, with nobody watching."""

    def test_from_nothing_and_again(self, selfheald: Selfheald, tmp_path: Path) -> None:
        """In a folder with all the characters that break things."""
        hard = tmp_path / HARD_NAME / "dbt"
        hard.mkdir(parents=True)
        database = hard / NAME
        planned = selfheald.document("ensure", hard.parent, "--dry-run")
        assert set(planned) == DRY_RUN
        assert sorted(planned["missing"]) == REQUIRED
        tiers = {node["unique_id"].rpartition(".")[2]: node["tier"] for node in planned["nodes"]}
        assert {name for name in tiers if tiers[name] == "seed"} == set(SEEDS)
        assert set(MODELS) <= {name for name in tiers if tiers[name] == "foundation"}
        assert planned["vars"] == json.loads(selfheald.environment["SELFHEALD_DBT__VARS"])
        assert set(planned["template"]) == {"usable", "why"}
        assert list(hard.iterdir()) == []

        made = selfheald.document("ensure", hard.parent)
        assert set(made) == ENSURE
        assert (made["database"], made["outcome"], made["state"]) == (str(database), "initialized", "completed")
        assert (made["missing_tables_found"], made["tables_created"], made["error"]) == (REQUIRED, REQUIRED, None)
        assert [set(step) for step in made["steps"]] == [STEP] * 5
        assert all(step["success"] for step in made["steps"])
        assert set(marker(database)) == MARKER
        assert set(status(database)) >= STATUS_FILE
        before = snapshot(hard)

        again = selfheald.document("ensure", hard.parent)
        assert set(again) == ENSURE
        assert (again["outcome"], again["tables_created"]) == ("nothing_to_do", [])
        assert snapshot(hard) == before
        assert selfheald.document("ensure", hard.parent, "--dry-run")["nodes"] == []

    def test_adopted(self, selfheald: Selfheald, complete: Copied, tmp_path: Path) -> None:
        database = complete(tmp_path / "w")
        done = selfheald.ok("ensure", database)
        assert done.stdout == ""
        assert done.stderr.splitlines()[-1].endswith("all tables are there, nothing was changed")
        database.with_name(f"{NAME}.ready").unlink()
        assert selfheald.document("ensure", database)["outcome"] == "adopted"
        assert marker(database)["origin"] == "adopted"

    def test_failed(self, selfheald: Selfheald, complete: Copied, tmp_path: Path) -> None:
        database = complete(tmp_path / "w")
        change(database, "drop table int_employee_benefits", "create view int_employee_benefits as select 1 as one")
        before = digests(database)
        done = selfheald.run("ensure", database, "--json")
        assert done.returncode == 1
        document = json.loads(done.stdout)
        assert set(document) == ENSURE
        assert (document["outcome"], document["state"], document["tables_created"]) == ("failed", "failed", [])
        expect_error(document, "schema_mismatch")
        assert "int_employee_benefits" in document["error"]["message"]
        expect_two_lines(done.stderr, "schema_mismatch")
        assert digests(database) == before

    def test_held_for_too_long(self, selfheald: Selfheald, complete: Copied, tmp_path: Path) -> None:
        database = complete(tmp_path / "w")
        change(database, "drop table int_employee_benefits")
        with holding(database, "read") as holder:
            document = selfheald.document("ensure", database, "--timeout", "1", code=1)
        assert set(document) == ENSURE
        expect_error(document, "locked")
        assert f"PID {holder.pid} " in document["error"]["message"]


class TestWait:
    """``selfheald wait``: each outcome has its code."""

    def test_ready_and_again(self, selfheald: Selfheald, daemon: Daemon, workspace: Path, complete: Copied) -> None:
        database = complete(workspace / HARD_NAME)
        change(database, "drop table int_employee_benefits")
        done = selfheald.ok("wait", database, "--json")
        document = json.loads(done.stdout)
        assert set(document) == WAIT
        assert (document["outcome"], document["origin"], document["error"]) == ("ready", "dbt", None)
        assert document["database"] == str(database)
        assert [step["status"] for step in document["steps"]] == ["completed"] * 5
        assert status(database)["tables_created"] == ["int_employee_benefits"]
        assert done.stderr
        before = snapshot(database.parent)
        again = selfheald.document("wait", database)
        assert (again["outcome"], again["origin"]) == ("ready", "dbt")
        assert again["waited_seconds"] < 1
        assert snapshot(database.parent) == before

    def test_nobody_watches(self, selfheald: Selfheald, complete: Copied, tmp_path: Path) -> None:
        """Told after 5 s, and nothing is left behind; with ``--or-ensure`` it is made here; ``exec`` runs nothing."""
        folder, ran = tmp_path / "w", tmp_path / "ran"
        folder.mkdir()
        database = complete(tmp_path / "ensured")
        with (
            selfheald.started("wait", folder, "--json") as wait,
            selfheald.started("wait", database, "--or-ensure", "--json") as ensured,
            selfheald.started("exec", folder, "--", "touch", ran) as execute,
        ):
            assert [each.wait() for each in (wait, ensured, execute)] == [4, 0, 4]
            document = json.loads(wait.stdout)
            assert set(document) == WAIT
            assert (document["outcome"], document["origin"]) == ("no_daemon", None)
            expect_error(document, "no_daemon")
            expect_two_lines(wait.stderr, "no_daemon")
            assert 5 <= document["waited_seconds"] < 8
            document = json.loads(ensured.stdout)
            assert set(document) == WAIT
            assert (document["outcome"], document["origin"]) == ("ready", "adopted")
            expect_two_lines(execute.stderr, "no_daemon")
        assert list(folder.iterdir()) == []
        assert not ran.exists()

    def test_timed_out_and_failed(
        self, selfheald: Selfheald, daemon: Daemon, workspace: Path, complete: Copied
    ) -> None:
        held = complete(workspace / "held")
        with holding(held) as holder:
            holder.execute("drop table int_employee_benefits")
            done = selfheald.run("wait", held, "--timeout", "1.5", "--json")
        assert done.returncode == 3
        document = json.loads(done.stdout)
        assert set(document) == WAIT
        assert document["outcome"] == "timeout"
        expect_error(document, "timeout")
        expect_two_lines(done.stderr, "timeout")
        assert 1.5 <= document["waited_seconds"] < 4

        broken = workspace / "broken" / NAME
        broken.parent.mkdir()
        broken.write_text("no database at all\n" * 1000)
        done = selfheald.run("wait", broken, "--json")
        assert done.returncode == 1
        document = json.loads(done.stdout)
        assert set(document) == WAIT
        assert (document["outcome"], document["origin"]) == ("failed", None)
        expect_error(document, "not_a_database")
        expect_two_lines(done.stderr, "not_a_database")
        assert document["waited_seconds"] < 10


class TestUsage:
    """Wrong usage and configuration: exit code 2, and the document all the same."""

    @pytest.mark.parametrize(
        ("words", "keys"),
        [(("check",), CHECK), (("wait",), WAIT), (("ensure",), ENSURE), (("ensure", "--dry-run"), DRY_RUN | {"error"})],
        ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
    )
    def test_a_folder_that_is_not_there(
        self, words: tuple[str, ...], keys: set[str], selfheald: Selfheald, tmp_path: Path
    ) -> None:
        done = selfheald.run(*words, tmp_path / "nowhere" / NAME, "--json")
        assert done.returncode == 2
        expect_two_lines(done.stderr, "config_invalid")
        document = json.loads(done.stdout)
        assert set(document) == keys
        expect_error(document, "config_invalid")
        assert not (tmp_path / "nowhere").exists()

    def test_two_databases_in_a_workspace(self, selfheald: Selfheald, complete: Copied, tmp_path: Path) -> None:
        first, second = complete(tmp_path / "w"), complete(tmp_path / "w" / "dbt")
        done = selfheald.run("check", tmp_path / "w")
        assert done.returncode == 2
        assert str(first) in done.stderr
        assert str(second) in done.stderr
        expect_two_lines(done.stderr, "config_invalid")

    def test_a_setting_that_is_misspelt(self, selfheald: Selfheald, tmp_path: Path) -> None:
        file = tmp_path / "own.toml"
        file.write_text("[watch]\nsettel = 1\n")
        done = selfheald.run("check", tmp_path, "--config", file)
        assert done.returncode == 2
        assert f"{file}:2: watch.settel" in done.stderr
        assert "watch.settle" in done.stderr

    def test_wrong_words(self, selfheald: Selfheald) -> None:
        wrong = [
            "chekc",
            "check --timeout 1",
            "wait --timeout soon",
            "wait --timeout -1",
            "exec",
            "exec w --",
            "repair .",
            "repair . --retry --quarantine",
            "run",
        ]
        with ExitStack() as stack:
            for words, process in [(words, stack.enter_context(selfheald.started(*words.split()))) for words in wrong]:
                assert (process.wait(), process.stdout) == (2, ""), words
                assert process.stderr, words

    def test_help(self, selfheald: Selfheald) -> None:
        """Each command shows how it is used."""
        listed = selfheald.ok("--help").stdout
        commands = "run ensure wait exec check status history logs repair doctor demo".split()
        assert all(re.search(rf"^\W*{command}\b", listed, re.MULTILINE) for command in commands), listed
        commands += [f"config {word}" for word in ("show", "validate", "schema", "init")]
        commands += ["service install", "service show"]
        with ExitStack() as stack:
            for words, process in [
                (words, stack.enter_context(selfheald.started(*words.split(), "--help"))) for words in commands
            ]:
                assert (process.wait(), process.stderr) == (0, ""), words
                assert f"Example: selfheald {words}" in re.sub(r"\s+", " ", process.stdout)


class TestStatus:
    """``selfheald status``: where each stands and why, with the daemon up and down."""

    def test_moments_that_are_none(self, selfheald: Selfheald, complete: Copied, root: Path) -> None:
        """A status file that others can write spoils no table."""
        database = complete(root / "w")
        file = status_path(database)
        file.parent.mkdir(exist_ok=True)
        moments = {"started_at": "x", "completed_at": "yesterday", "next_attempt_at": "soon"}
        file.write_text(json.dumps({"format": 1, "state": "failed", **moments}))
        terminal = Selfheald(selfheald.folder, {**selfheald.environment, "FORCE_COLOR": "1", "COLUMNS": "200"})
        assert "failed" in terminal.ok("status", root).stdout

    def test_each_state(self, selfheald: Selfheald, root: Path, complete: Copied) -> None:
        databases = {name: complete(root / name) for name in ("building", "busy", "failed", "ready", "waiting")}
        for name in ("building", "busy", "waiting"):
            change(databases[name], "drop table int_employee_benefits")
        shutil.copyfile(__file__, databases["failed"])
        waiting = databases["waiting"].rename(root / "later")
        killed = selfheald.daemon(root, DBT__PRE_SQL=ENDLESS)
        with holding(databases["busy"]) as holder:
            killed.start()
            try:
                wait_for(lambda: status(databases["building"]).get("state") == "in_progress")
                waiting.rename(databases["waiting"])
                wait_for(lambda: status(databases["waiting"]).get("reason") == "queued")
                wait_for(lambda: status(databases["busy"]).get("reason") == "busy")
                wait_until_marked(databases["ready"])
                wait_for(lambda: status(databases["failed"]).get("state") == "failed")

                found = selfheald.document("status", root)
                assert set(found) == STATUS
                assert found["summary"] == {"ready": 1, "waiting": 1, "building": 1, "busy": 1, "failed": 1}
                [watching] = found["daemons"]
                assert set(watching) == {"root", "pid", "host", "version", "state", "watcher"}
                assert (watching["root"], watching["pid"]) == (str(root), killed.pid)
                assert (watching["state"], watching["watcher"]) == ("ready", "native")
                assert [entry["database"] for entry in found["databases"]] == sorted(map(str, databases.values()))
                for entry in found["databases"]:
                    assert set(entry) == {"database", "workspace", "ready", "marker", "status"}
                    assert entry["ready"] == (entry["marker"] == "valid") == ("/ready/" in entry["database"])
                    assert entry["status"] is None or set(entry["status"]) >= STATUS_FILE

                lines = dict(line.split("\t", 1) for line in selfheald.ok("status", root).stdout.splitlines()[1:-1])
                assert set(lines) == {"ready", "waiting", "building", "busy", "failed"}
                for name, line in lines.items():
                    assert line.split("\t")[0] == str(databases[name])
                assert f"busy: PID {holder.pid} (" in lines["busy"]
                assert "not_a_database" in lines["failed"]
                assert "queued" in lines["waiting"]
                assert selfheald.run("status", root, "--fail").returncode == 1
                assert selfheald.run("status", databases["ready"], "--fail").returncode == 0
            finally:
                killed.kill()

        found = selfheald.document("status", root)
        assert found["daemons"][0]["state"] == "down"
        assert found["summary"]["building"] == 0
        assert found["summary"]["failed"] == 1
        assert selfheald.ok("status", root).stdout.startswith(f"No daemon watches {root} (")

    def test_nothing_there(self, selfheald: Selfheald, root: Path) -> None:
        assert selfheald.document("status", root)["databases"] == []
        assert "No databases here." in selfheald.ok("status", root).stdout
        assert list(root.iterdir()) == []


class TestRepair:
    """``selfheald repair``: a person's word."""

    def test_quarantine(self, selfheald: Selfheald, daemon: Daemon, workspace: Path, complete: Copied) -> None:
        """The old file and its WAL are kept, byte by byte, and a new database is made."""
        database = complete(workspace / "it's w")
        os.truncate(database, database.stat().st_size // 2)
        wal = database.with_name(f"{NAME}.wal")
        wal.write_bytes(b"what was not yet in it")
        old = database.read_bytes()
        wait_for(lambda: status(database).get("state") == "failed")
        failed = selfheald.document("wait", database, code=1)
        expect_error(failed, "database_corrupt")
        assert "repair" in failed["error"]["hint"]
        assert database.read_bytes() == old

        done = selfheald.ok("repair", database.parent, "--quarantine")
        selfheald.ok("wait", database)
        kept = sorted(database.parent.glob("*.corrupt-*"))
        assert [file.read_bytes() for file in kept] == [old, b"what was not yet in it"]
        assert all(str(file) in done.stdout for file in kept)
        assert (marker(database)["origin"], status(database)["tables_created"]) == ("dbt", REQUIRED)

        # A good one is refused.
        before = digests(database)
        refused = selfheald.run("repair", database, "--quarantine")
        assert refused.returncode != 0
        assert "not corrupt" in refused.stderr
        assert digests(database) == before
        refused = selfheald.run("repair", database, "--retry")
        assert refused.returncode != 0
        assert "nothing to retry" in refused.stderr

    def test_retry(self, selfheald: Selfheald, root: Path, complete: Copied, tmp_path: Path) -> None:
        """What was wrong lies outside of the database: a person says that it is mended."""
        needed = tmp_path / "needed.csv"
        database = complete(root / "w")
        change(database, "drop table int_employee_benefits")
        with selfheald.daemon(root, DBT__PRE_SQL=f"create temp table needed as from read_csv('{needed}')") as daemon:
            wait_for(lambda: status(database).get("state") == "failed")
            assert status(database)["reason"] == "needs_person"
            before = digests(database)
            needed.write_text("a,b\n1,2\n")
            asked = selfheald.ok("repair", database, "--retry")
            assert "selfheald wait" in asked.stdout
            assert wait_until_marked(database)["origin"] == "dbt"
            assert len(daemon.log_lines("initialization_failed")) == 1
        after = digests(database)
        assert {name: after[name] for name in before} == before


class TestConfig:
    """``selfheald config``."""

    def test_init_validate_show(self, selfheald: Selfheald, tmp_path: Path) -> None:
        folder = tmp_path / "it's here"
        folder.mkdir()
        file = folder / "selfheald.toml"
        environment = {
            name: value for name, value in selfheald.environment.items() if not name.startswith("SELFHEALD_")
        }
        plain = Selfheald(folder, environment)
        plain.ok("config", "init", folder)
        assert plain.ok("config", "validate", "--config", file).stdout == f"OK: {file}\n"
        text = file.read_text()
        again = plain.run("config", "init", folder)
        assert again.returncode == 2
        assert file.read_text() == text

        # The working folder's file is found; the environment wins over it.
        file.write_text('[watch]\nsettle = 0.7\n[dbt.env]\nAPI_TOKEN = "abracadabra"\n')
        shown = plain.document("config", "show")
        assert (shown["file"], shown["config"]["watch"]["settle"]) == (str(file), 0.7)
        assert shown["config"]["watch"]["rescan"] == 60
        assert "abracadabra" not in json.dumps(shown)
        assert "abracadabra" not in plain.ok("config", "show").stdout
        assert plain.document("config", "show", WATCH__SETTLE=0.9)["config"]["watch"]["settle"] == 0.9

        file.write_text("[watch]\nsettle = -1\nrescann = 3\n")
        wrong = plain.run("config", "validate")
        assert wrong.returncode == 2
        assert f"{file}:2: watch.settle" in wrong.stderr
        assert f"{file}:3: watch.rescann" in wrong.stderr
        assert "watch.rescan?" in wrong.stderr
