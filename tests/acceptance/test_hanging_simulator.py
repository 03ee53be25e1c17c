"""An analyst's simulator hangs: ``selfheald status DB`` names the reason and the next step, whatever the reason is.

Each is played for real; ``selfheald wait``, which is what hangs, says the same in its own words meanwhile.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import Copied
from fixtures.waiting import wait_for
from processes import ENDLESS, OWN_PROJECT, Daemon, Running, Selfheald, holding, status
from projects import copy_project, own_database, two_lines

#: A daemon of the small project, which hardly scans: events must do.
SMALL: dict[str, object] = {"DBT__PROJECT_DIR": str(OWN_PROJECT), "WATCH__RESCAN": 600}


@dataclass(frozen=True)
class Told:
    """What ``selfheald status DB`` says: its second line, what stands behind each label, the step, the commands."""

    why: str
    facts: dict[str, list[str]]
    advice: str
    commands: list[str]


def explained(selfheald: Selfheald, database: Path) -> Told:
    """Ask about one database."""
    first, why, *lines = selfheald.ok("status", database).stdout.splitlines()
    assert first == str(database)
    [number] = [number for number, line in enumerate(lines) if line.startswith("→ ")]
    facts: dict[str, list[str]] = {}
    label = ""
    for line in lines[:number]:
        label = line[2:12].rstrip() or label
        facts.setdefault(label, []).append(line[12:])
    return Told(why, facts, lines[number][2:], [line.strip() for line in lines[number + 1 :]])


@pytest.fixture(scope="module")
def watched(shared_selfheald: Selfheald, shared_root: Path) -> Iterator[Daemon]:
    with shared_selfheald.daemon(shared_root, **SMALL) as daemon:
        yield daemon


class TestSomebodyHasItOpen:
    @pytest.mark.parametrize(("mode", "doing"), [("write", "writing"), ("read", "reading")])
    def test_a_notebook(
        self, mode: str, doing: str, selfheald: Selfheald, watched: Daemon, shared_root: Path, tmp_path: Path
    ) -> None:
        made = own_database(tmp_path / f"{mode}-it's here")
        with holding(made, mode) as notebook:
            database = made.parent.rename(shared_root / made.parent.name) / made.name
            with selfheald.started("wait", database, "--timeout", "30") as simulator:
                busy = f"busy: PID {notebook.pid} ("
                wait_for(lambda: busy in simulator.stderr, what=lambda: simulator.stderr)
                # What is being written while it is looked at is looked at again before it is told what it lacks.
                wait_for(lambda: status(database).get("missing_tables_found"), what=lambda: status(database))
                told = explained(selfheald, database)
                assert told.why.startswith(f"not ready: {busy}")
                assert told.why.endswith(f") has it open for {doing}")
                assert told.advice.startswith("Close it there")
                assert told.facts["missing"] == ["3: regions, dim_regions, fct_headcount"]
                assert told.facts["daemon"] == [f"PID {watched.pid} watches {shared_root}: ready, native"]
                assert any(busy in line for line in told.facts["events"])
                assert told.commands == [f"selfheald wait {shlex.quote(str(database))}"]
                # What it says to do helps.
                notebook.close()
                assert simulator.wait() == 0
        told = explained(selfheald, database)
        assert told.why == "ready: all required tables are there"
        assert told.facts["tables"][0].startswith("1 seed, 2 foundation; made by dbt ")
        assert " initialized in " in told.facts["attempts"][0]
        assert told.commands == []

    def test_one_that_keeps_it_when_it_is_ready(self, selfheald: Selfheald, watched: Daemon, shared_root: Path) -> None:
        """Then it is in nobody's way, and told all the same."""
        database = own_database(shared_root / "kept")
        selfheald.ok("wait", database)
        with holding(database, "read") as notebook:
            told = explained(selfheald, database)
            assert told.why.startswith("ready")
            assert told.facts["held by"][0].startswith(f"PID {notebook.pid} (")

    def test_the_time_is_up(self, selfheald: Selfheald, watched: Daemon, shared_root: Path, tmp_path: Path) -> None:
        """``wait`` says which command tells why."""
        made = own_database(tmp_path / "up")
        with holding(made):
            database = made.parent.rename(shared_root / "up") / made.name
            done = selfheald.run("wait", database, "--timeout", "1")
            assert done.returncode == 3
            _, hint = two_lines(done.stderr)
            assert f"`selfheald status {database}`" in hint


def test_the_queue_is_long_and_then_the_daemon_is_down(selfheald: Selfheald, root: Path) -> None:
    first, second, third = (root / name / "simulation.duckdb" for name in ("first", "second", "third"))
    for database in (first, second, third):
        database.parent.mkdir()
    daemon = selfheald.daemon(root, **SMALL, DBT__PRE_SQL=ENDLESS)
    daemon.start()
    try:
        with ExitStack() as waiting:
            one = waiting.enter_context(selfheald.started("wait", first))
            wait_for(lambda: status(first).get("state") == "in_progress", what=lambda: one.stderr)
            two = waiting.enter_context(selfheald.started("wait", second))
            wait_for(lambda: status(second).get("reason") == "queued", what=lambda: two.stderr)
            simulator = waiting.enter_context(selfheald.started("wait", third))
            wait_for(lambda: "queued: 1 before you" in simulator.stderr, what=lambda: simulator.stderr)
            told = explained(selfheald, third)
            assert told.why.startswith(f"not ready: queued: 1 before it; being made now: {first} (")
            assert told.why.endswith("; 2 wait in all")
            assert told.advice.startswith("Wait for it")
            assert told.facts["missing"][0].startswith("3: ")
            assert told.commands == [f"selfheald wait {third}"]
            working = explained(selfheald, first)
            assert working.advice.startswith("Wait")
            assert working.facts["missing"][0].startswith("3: ")
    finally:
        daemon.kill()

    with selfheald.started("wait", third) as simulator:
        told = explained(selfheald, third)
        assert told.why == "not ready: no daemon watches it"
        assert told.facts["decision"] == ["nothing is done until a daemon runs"]
        assert told.advice == "Start one, or make it ready here."
        assert told.commands == [f"selfheald run {root}", f"selfheald ensure {third}"]
        # The one that was being built is not: whoever did so is dead.
        assert explained(selfheald, first).why == "not ready: no daemon watches it"
        assert simulator.wait() == 4
        assert no_daemon(simulator, third)
    # What it says to do helps.
    with selfheald.daemon(root, **SMALL):
        selfheald.ok("wait", third)
    assert explained(selfheald, third).why.startswith("ready")


def no_daemon(simulator: Running, database: Path) -> bool:
    error, hint = two_lines(simulator.stderr)
    return error == f"error[no_daemon]: no daemon watches {database}" and "`selfheald run ROOT`" in hint


def test_the_service_is_down(selfheald: Selfheald, root: Path, tmp_path: Path) -> None:
    """Where it is installed for this root, what starts it is its manager's command."""
    database = own_database(root / "here")
    unit = tmp_path / "config" / "systemd" / "user" / "selfheald.service"
    unit.parent.mkdir(parents=True)
    own = {"XDG_CONFIG_HOME": str(tmp_path / "config")}
    environment = Selfheald(selfheald.folder, {**selfheald.environment, **own})
    printed = environment.run("service", "install", "--dry-run", root)
    unit.write_text(printed.stdout)
    assert explained(environment, database).commands[0] == "systemctl --user start selfheald"
    elsewhere = own_database(tmp_path / "elsewhere")
    assert explained(environment, elsewhere).commands[0].startswith("selfheald run ")


def test_a_model_fails(selfheald: Selfheald, root: Path, tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project")
    model = project / "models" / "mart" / "dim_regions.sql"
    right = model.read_text()
    model.write_text("select no_such_column from {{ ref('regions') }}")
    database = own_database(root / "here")
    settings = {**SMALL, "DBT__PROJECT_DIR": str(project)}
    with selfheald.daemon(root, **settings):
        asked = selfheald.run("wait", database)
        assert asked.returncode == 1
        assert "error[dbt_failed]" in asked.stderr
        assert "no_such_column" in asked.stderr
        told = explained(selfheald, database)
        assert told.why.startswith("not ready: dbt_failed: ")
        assert "no_such_column" in told.why
        assert told.facts["decision"][0].startswith("it is not tried again by itself")
        assert str(project / "models") in " ".join(told.facts["path"])
        [log] = map(Path, told.facts["log"])
        assert "no_such_column" in log.read_text()
        assert told.facts["attempts"][0].endswith(": dbt_failed")
        assert told.advice == status(database)["error"]["hint"]
        assert told.commands == [f"selfheald wait {database}"]
        # What it says to do helps.
        model.write_text(right)
        selfheald.ok(*shlex.split(told.commands[0])[1:])
    assert explained(selfheald, database).why.startswith("ready")


def test_the_disk_is_full(selfheald: Selfheald, root: Path) -> None:
    database = own_database(root / "here")
    with (
        selfheald.daemon(root, **SMALL, LIMITS__MIN_FREE_BYTES=10**15, RETRY__BASE=30, RETRY__ATTEMPTS=4),
        selfheald.started("wait", database) as simulator,
    ):
        wait_for(lambda: "; attempt 2 of 4 in " in simulator.stderr, what=lambda: simulator.stderr)
        told = explained(selfheald, database)
        assert told.why.startswith("not ready: disk_full: ")
        assert "; attempt 2 of 4 in " in told.why
        assert told.facts["decision"] == ["it is tried again by itself"]
        assert "disk space" in told.advice
        assert told.commands == [f"selfheald wait {database}"]


def test_nothing_is_the_matter_but_the_marker_is_old(selfheald: Selfheald, complete: Copied, root: Path) -> None:
    """A database that was changed while no daemon ran."""
    database = complete(root / "here")
    selfheald.ok("ensure", database)
    assert explained(selfheald, database).why.startswith("ready")
    database.touch()
    told = explained(selfheald, database)
    assert told.why == "not ready: no daemon watches it, and it has changed since it was last checked"
    selfheald.ok(*shlex.split(told.commands[1])[1:])
    assert explained(selfheald, database).why.startswith("ready")
