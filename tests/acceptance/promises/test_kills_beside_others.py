"""Promises 4, 5 and 6: what others see of a kill: who waits, who initializes too; and a daemon that is only stopped."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fixtures.figures import Figures, scaled
from fixtures.waiting import DEADLINE, throughout, wait_for
from killing import TOKEN, marked_processes
from processes import ENDLESS, NAME, Daemon, Selfheald, arguments, change, children, marker, status, wait_until_marked
from projects import NOTES, OWN_TABLES, copy_project, own_database, staging_left, tables

from selfheald.dbt_host import OVERTIME_SECONDS
from selfheald.locks import held
from selfheald.marker import has_request, read_history
from selfheald.workspace import Database, write_atomically

#: Seconds that an undisturbed initialization takes, about: kills are spread over them.
USUAL = 4.0
SEED = int(os.environ.get("SELFHEALD_KILLS_SEED") or random.randrange(1_000_000))


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The small project, which is read once for this module; tried again at once."""
    return {
        "DBT__PROJECT_DIR": str(copy_project(tmp_path_factory.mktemp("site") / "project")),
        "STATE_DIR": str(tmp_path_factory.mktemp("state")),
        "RETRY__BASE": 0.05,
        "RETRY__MAX": 0.2,
        "RETRY__ATTEMPTS": 100,
    }


@pytest.mark.promise(4)
@pytest.mark.soak
@pytest.mark.timeout(scaled(240, 1200))
def test_who_waits_sees_no_kill(root: Path, selfheald: Selfheald, settings: dict[str, Any], figures: Figures) -> None:
    """``wait`` ends ready, with exit code 0, across kills and restarts of the daemon."""
    rounds, kills, wrong = scaled(2, 12), 0, []
    rng = random.Random(SEED)
    daemon = selfheald.daemon(root, **settings)
    with daemon:
        for number in range(rounds):
            workspace = root / f"workspace-{number}"
            workspace.mkdir()
            with selfheald.started("wait", workspace / NAME, "--timeout", "180", "--json") as waiting:
                wait_for((workspace / ".selfheald").exists, what=waiting.stderr)
                for _ in range(rng.choice((1, 2))):
                    time.sleep(rng.uniform(0, USUAL))
                    daemon.kill()
                    kills += 1
                    daemon.start()
                code = waiting.wait(180)
                outcome = json.loads(waiting.stdout)["outcome"]
            if (code, outcome) != (0, "ready") or tables(workspace / NAME) != OWN_TABLES:
                wrong.append(f"round {number}: {code}, {outcome}, {waiting.stderr}")
            marker(workspace / NAME)
            wait_for(partial(_has_no_request, Database(workspace / NAME)), what=workspace)
    figures.tell(
        4, "`wait` while its daemon is killed and started again", tried=kills, survived=kills - len(wrong),
        wrong=len(wrong), note=f"{rounds} waiters; seed {SEED}",
    )  # fmt: skip
    assert not wrong, wrong


@pytest.mark.promise(5)
@pytest.mark.soak
@pytest.mark.timeout(scaled(300, 1800))
def test_one_of_two_initializers_is_killed(
    root: Path, selfheald: Selfheald, settings: dict[str, Any], figures: Figures
) -> None:
    """``ensure`` beside the daemon: whichever is killed, and whoever has the lock, the other makes the tables."""
    rounds, wrong = scaled(2, 24), []
    rng = random.Random(SEED)
    for number in range(rounds):
        database = own_database(root / f"workspace-{number}")
        with selfheald.daemon(root, **settings) as daemon:
            with selfheald.started("ensure", database, "--json", "--timeout", "120", **settings) as ensuring:
                time.sleep(rng.uniform(0, USUAL))
                victim = rng.choice(("ensure", "daemon"))
                if victim == "daemon":
                    daemon.kill()
                    code = ensuring.wait(120)
                else:
                    ensuring.process.kill()
                    ensuring.process.wait(DEADLINE)
                    code = 0
                wait_until_marked(database)
            if victim == "daemon":
                daemon.start()
            made = [attempt["outcome"] for attempt in read_history(Database(database))].count("initialized")
            wait_for(partial(_has_no_staging, database), what=database)
            if code or made > 1 or tables(database) != OWN_TABLES | NOTES or held(Database(database).lock):
                wrong.append(f"round {number}, {victim}: exit code {code}, {made} times made, {tables(database)}")
    figures.tell(
        5, "`ensure` beside the daemon, one of them killed", tried=rounds, survived=rounds - len(wrong),
        wrong=len(wrong), note=f"seed {SEED}",
    )  # fmt: skip
    assert not wrong, wrong


@pytest.mark.promise(4)
@pytest.mark.parametrize("job", ["copy", "build", "publish"])
def test_a_child_that_is_killed_is_tried_again(
    root: Path, selfheald: Selfheald, settings: dict[str, Any], job: str
) -> None:
    """By the daemon, by itself: the one that copies inputs, the one with dbt, the one that publishes."""
    database = own_database(root / "workspace")
    change(
        database,
        "create table regions (region_code varchar, region_name varchar, headcount integer)",
        "insert into regions values ('09', 'edited', 9)",
    )
    with selfheald.daemon(root, **settings) as daemon:
        os.kill(wait_for(lambda: _child(daemon, job), what=daemon.told), signal.SIGKILL)
        wait_until_marked(database)
        failed = [line["error_code"] for line in daemon.log_lines("initialization_failed", database)]
    assert failed == ["interrupted"]
    assert tables(database) == OWN_TABLES | NOTES
    assert (status(database)["state"], status(database)["attempt"]) == ("completed", 2)
    assert staging_left(database) == []


@pytest.mark.promise(6)
def test_a_daemon_that_is_stopped(root: Path, selfheald: Selfheald, settings: dict[str, Any]) -> None:
    """``kill -STOP``: its child ends by itself, soon after the time limit that nobody keeps; and then all goes on."""
    database = own_database(root / "workspace")
    limit = 3.0
    with selfheald.daemon(root, DBT__PRE_SQL=ENDLESS, DBT__TIMEOUT=limit, **settings) as daemon:
        child = wait_for(lambda: _at_work(daemon, database), what=daemon.told)
        began = time.monotonic()
        os.kill(daemon.pid, signal.SIGSTOP)
        try:
            wait_for(lambda: not arguments(child)[0], limit + OVERTIME_SECONDS + 10, "the child outlives its limit")
            assert time.monotonic() - began > limit
            assert held(Database(database).lock)
        finally:
            os.kill(daemon.pid, signal.SIGCONT)
        wait_for(lambda: daemon.log_lines("initialization_failed", database), what=daemon.told)
        assert daemon.log_lines("initialization_failed", database)[0]["error_code"] in ("timeout", "interrupted")
        assert tables(database) == NOTES
        assert not Database(database).marker.exists()
        daemon.kill()
    with selfheald.daemon(root, **settings):
        wait_until_marked(database)
    assert tables(database) == OWN_TABLES | NOTES


@pytest.mark.promise(4)
def test_a_daemon_that_is_stopped_for_a_moment(root: Path, selfheald: Selfheald, settings: dict[str, Any]) -> None:
    """Its child comes to its end meanwhile; nothing is published, nothing is ready before it goes on, and then all."""
    database = own_database(root / "workspace")
    with selfheald.daemon(root, **settings) as daemon:
        child = wait_for(lambda: _at_work(daemon, database), what=daemon.told)
        os.kill(daemon.pid, signal.SIGSTOP)
        try:
            wait_for(lambda: not arguments(child)[0], what="the child does not end")
            throughout(0.3, lambda: not Database(database).marker.exists())
            assert tables(database) == NOTES
        finally:
            os.kill(daemon.pid, signal.SIGCONT)
        wait_until_marked(database)
        assert daemon.log_lines("initialization_failed", database) == []
    assert tables(database) == OWN_TABLES | NOTES


@pytest.mark.promise(4)
@pytest.mark.parametrize("victim", ["daemon", "child"])
def test_a_killed_planner_leaves_nothing(
    tmp_path: Path, root: Path, selfheald: Selfheald, settings: dict[str, Any], victim: str
) -> None:
    """Killed while dbt reads the project: it is read again, and the folder of the killed parse is removed."""
    database = own_database(root / "workspace")
    selfheald.environment[TOKEN] = tmp_path.name
    state = tmp_path / "state"
    daemon = selfheald.daemon(root, **settings | {"STATE_DIR": str(state)})
    with daemon:
        child = wait_for(lambda: _child(daemon, "plan"), what=daemon.told)
        first = wait_for(lambda: list(state.glob("plans/parse-*")))
        if victim == "daemon":
            daemon.kill()
            wait_for(lambda: not marked_processes(tmp_path.name), 5, "a child outlives the daemon")
            assert list(state.glob("plans/parse-*")) == first
            daemon.start()
        else:
            os.kill(child, signal.SIGKILL)
        wait_until_marked(database)
        assert list(state.glob("plans/parse-*")) == []
    assert tables(database) == OWN_TABLES | NOTES


@pytest.mark.promise(1)
def test_a_status_that_a_kill_left_is_put_right(root: Path, selfheald: Selfheald, settings: dict[str, Any]) -> None:
    """Killed after the tables were published, before that was told: ``ensure`` and the daemon tell it, and clean up."""
    database = Database(own_database(root / "workspace"))
    selfheald.ok("ensure", database, **settings)
    staging, draft = database.private / "staging-left", database.folder / f".{NAME}.ready.left.tmp"

    def left() -> None:
        database.marker.unlink()
        record = status(database.path) | {"state": "in_progress", "completed_at": None}
        write_atomically(database.status, json.dumps(record))
        staging.mkdir()
        os.link(database.path, staging / NAME)
        draft.touch()

    left()
    selfheald.ok("ensure", database, **settings)
    assert status(database.path)["state"] == "completed"
    marker(database.path)
    assert not staging.exists()
    assert not draft.exists()
    left()
    with selfheald.daemon(root, **settings):
        wait_until_marked(database.path)
    assert status(database.path)["state"] == "completed"
    assert not staging.exists()
    assert not draft.exists()


def _has_no_request(database: Database) -> bool:
    return not has_request(database)


def _has_no_staging(database: Path) -> bool:
    return not staging_left(database)


def _at_work(daemon: Daemon, database: Path) -> int | None:
    """The daemon's child that builds, once it has been told what: dbt writes its log then."""
    begun = any((database.parent / ".selfheald" / "logs").glob("*/dbt.log"))
    return _child(daemon, "build") if begun else None


def _child(daemon: Daemon, job: str) -> int | None:
    """The daemon's child that does this job."""
    for pid in children(daemon.pid):
        words = arguments(pid)
        if job in words or (job == "copy" and any("selfheald.check_child" in word for word in words)):
            return pid
    return None
