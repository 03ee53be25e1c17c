"""Promise 5: one at a time for each database, across all processes, whoever of them dies; and what is made is right."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from fixtures.waiting import DEADLINE, wait_for
from processes import ENDLESS, NAME, REQUIRED, Record, Running, Selfheald, children, digests, marker, members, status
from projects import NOTES, OWN_TABLES, copy_project, fixed, own_database, staging_left, tables, told

from selfheald.config import bundled_project_dir
from selfheald.locks import held
from selfheald.marker import read_history
from selfheald.workspace import Database

# Hold the flock, say so, and keep it until standard input ends.
_HOLD_LOCK = """
import fcntl, sys
lock = open(sys.argv[1], "w")
fcntl.flock(lock, fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The small project, which is read once for this module."""
    return {"DBT__PROJECT_DIR": str(copy_project(tmp_path_factory.mktemp("site") / "project"))}


def test_three_at_once_make_one_initialization(root: Path, selfheald: Selfheald, settings: dict[str, Any]) -> None:
    """A daemon with a waiter, and two ``ensure``: one of them makes the tables, and all end ready."""
    database = own_database(root / "workspace")
    with selfheald.daemon(root, WATCH__HEAL="requested", **settings), ExitStack() as stack:
        started = [
            stack.enter_context(selfheald.started(name, database, "--json", **settings))
            for name in ("wait", "ensure", "ensure")
        ]
        for running in started:
            assert running.wait() == 0, running.stderr
        waited, *ensured = map(_document, started)

    history = read_history(Database(database))
    assert [attempt["outcome"] for attempt in history] == ["initialized"]
    assert waited["outcome"] == "ready"
    outcomes = sorted(document["outcome"] for document in ensured)
    assert set(outcomes) <= {"initialized", "adopted", "nothing_to_do"}
    assert outcomes.count("initialized") == (history[0]["trigger"] == "ensure")
    assert marker(database)["tables"] == {"seed": 1, "foundation": 2}
    assert tables(database) == OWN_TABLES | NOTES
    assert staging_left(database) == []


def test_another_goes_on_when_one_is_killed(tmp_path: Path, selfheald: Selfheald, settings: dict[str, Any]) -> None:
    """``kill -9`` in the middle: the lock is free, the child dies with its parent, and who waited makes the tables."""
    database = own_database(tmp_path / "workspace")
    before = fixed(database)
    slow = {**settings, "DBT__PRE_SQL": ENDLESS}
    with selfheald.started("ensure", database, **slow) as first:
        wait_for(lambda: status(database).get("state") == "in_progress", what=lambda: first.stderr)
        [child] = wait_for(lambda: [pid for pid in children(first.pid) if staging_left(database)])
        with selfheald.started("ensure", database, "--json", **settings) as second:
            # It has found the lock taken, and says so.
            wait_for(lambda: "queued" in second.stderr, what=lambda: second.stderr)
            assert held(Database(database).lock)
            assert fixed(database) == before
            os.kill(first.pid, signal.SIGKILL)
            wait_for(lambda: not members(child), what=lambda: members(child))
            assert second.wait() == 0, second.stderr
            document = _document(second)

    assert document["outcome"] == "initialized"
    assert set(document["tables_created"]) == OWN_TABLES
    assert [attempt["outcome"] for attempt in read_history(Database(database))] == ["initialized"]
    assert tables(database) == OWN_TABLES | NOTES
    assert staging_left(database) == []
    marker(database)


def test_a_lock_that_somebody_keeps(tmp_path: Path, selfheald: Selfheald, settings: dict[str, Any]) -> None:
    """``ensure`` gives up at its timeout and tells of the lock; then it is free, and the next one goes through."""
    database = own_database(tmp_path / "workspace")
    before = fixed(database)
    lock = Database(database).lock
    lock.parent.mkdir()
    with _locked(lock):
        began = time.monotonic()
        with selfheald.started("ensure", database, "--timeout", "2", "--json", **settings) as ensuring:
            assert ensuring.wait() == 1
        assert time.monotonic() - began > 2
        error = _document(ensuring)["error"]
        assert (error["code"], error["path"], error["retryable"]) == ("concurrent_initialization", str(lock), True)
        first, second = told(ensuring)
        assert first.startswith("error[concurrent_initialization]: ")
        assert str(lock) in first
        assert "--timeout" in second
        assert fixed(database) == before
        assert not database.with_name(f"{NAME}.ready").exists()
        inode = lock.stat().st_ino
    assert lock.stat().st_ino == inode
    assert selfheald.document("ensure", database, **settings)["outcome"] == "initialized"


def test_a_daemon_waits_for_a_lock_that_somebody_keeps(
    root: Path, selfheald: Selfheald, settings: dict[str, Any]
) -> None:
    """It neither begins nor fails nor counts an attempt; when the lock is free, it goes on by itself."""
    database = own_database(root / "workspace")
    before = fixed(database)
    lock = Database(database).lock
    lock.parent.mkdir()
    with selfheald.daemon(root, WATCH__HEAL="requested", **settings) as daemon, ExitStack() as stack:
        with _locked(lock):
            waiter = stack.enter_context(selfheald.started("wait", database, "--json"))
            wait_for(lambda: len(daemon.log_lines("queued", database)) > 2, what=daemon.told)
            assert waiter.process.poll() is None
            assert children(daemon.pid) == []
            assert staging_left(database) == []
            assert fixed(database) == before
        assert waiter.wait() == 0, waiter.stderr
    assert [attempt["trigger"] for attempt in read_history(Database(database))] == ["request"]
    assert (status(database)["state"], status(database)["attempt"]) == ("completed", 1)
    assert tables(database) == OWN_TABLES | NOTES


def test_the_rows_are_those_of_plain_dbt(finished: Path, environment: dict[str, str], tmp_path: Path) -> None:
    """Each required table, with a census, equals what ``dbt seed`` and ``dbt run`` make: row for row, in order."""
    plain = tmp_path / NAME
    project = bundled_project_dir()
    for command in ("seed", "run"):
        done = subprocess.run(
            [
                sys.executable, "-c", "from dbt.cli.main import cli; cli()", command,
                "--project-dir", str(project), "--profiles-dir", str(project),
                "--target-path", str(tmp_path / "target"), "--log-path", str(tmp_path / "logs"),
                "--vars", environment["SELFHEALD_DBT__VARS"],
            ],
            cwd=tmp_path,
            env=environment | {"DATABASE_PATH": str(plain), "DBT_SEND_ANONYMOUS_USAGE_STATS": "false"},
            capture_output=True, text=True, timeout=DEADLINE, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
    expected, found = digests(plain), digests(finished)
    assert set(found) == set(REQUIRED)
    assert found == {name: expected[name] for name in REQUIRED}
    assert found["int_baseline_workforce"][0] > 100


@contextmanager
def _locked(lock: Path) -> Iterator[None]:
    """Another process holds the ``flock`` while the body runs."""
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD_LOCK, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "locked\n"
            yield
        finally:
            process.kill()


def _document(running: Running) -> Record:
    document: Record = json.loads(running.stdout)
    return document
