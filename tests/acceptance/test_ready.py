"""A simulator waits, in whatever way, from whatever start, and then its database is ready, and nothing is lost."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import duckdb
import pytest
from conftest import Copied
from fixtures.waiting import DEADLINE, throughout, wait_for
from processes import (
    NAME,
    OWN_PROJECT,
    REQUIRED,
    Daemon,
    Running,
    Selfheald,
    change,
    command,
    digests,
    holding,
    lock_on,
    marker,
    rows,
    running,
    snapshot,
    status,
    steps_of,
    wait_until_marked,
    watched_locks,
)

# What a simulator does, and then it opens its database. The last of them is the loop of the contract.
_SIMULATE = """
import asyncio, duckdb, os, sys
from selfheald.client import wait_until_ready, wait_until_ready_async
"""
_LOOK = """
with duckdb.connect(sys.argv[1], read_only=True) as connection:
    print(connection.execute("select count(*) from int_baseline_workforce").fetchone()[0])
"""
_COUNT = [sys.executable, "-c", f"import duckdb, sys{_LOOK}"]
_LOOP = 'D=$1; shift; [ -e "$D" ] || touch "$D"; until [ -e "$D.ready" ]; do sleep 1; done; exec "$@" "$D"'
SIMULATORS: dict[str, Callable[[Path], list[str]]] = {
    "wait": lambda database: ["sh", "-c", '"$@" >&2', "sh", *command("wait", database)],
    "client": lambda database: [
        sys.executable, "-c", _SIMULATE + "wait_until_ready(sys.argv[1], 60)" + _LOOK, str(database),
    ],
    "async": lambda database: [
        sys.executable, "-c", _SIMULATE + "asyncio.run(wait_until_ready_async(sys.argv[1], 60))" + _LOOK, str(database),
    ],
    "exec": lambda database: command("exec", database, "--", *_COUNT, database),
    "shell": lambda database: ["sh", "-c", _LOOP, "sh", str(database), *_COUNT],
}  # fmt: skip
#: `exec` waits as `wait` does, and has tests of its own.
EACH = ("wait", "client", "async", "shell")


def simulate(selfheald: Selfheald, database: Path, names: list[str], running_ones: ExitStack) -> dict[str, Running]:
    return {
        name: running_ones.enter_context(running(SIMULATORS[name](database), selfheald.folder, selfheald.environment))
        for name in names
    }


def expect_ready(simulators: dict[str, Running]) -> None:
    """Each has ended well, and found its tables when it looked."""
    for name, simulator in simulators.items():
        assert simulator.wait() == 0, (name, simulator.stderr)
        assert simulator.stdout == ("" if name == "wait" else "500\n")


def expect_made(database: Path, tables: list[str]) -> None:
    """Just these were made, as the status tells and the marker certifies."""
    found = marker(database)
    assert (found["state"], found["origin"], found["tables"]) == ("ready", "dbt", {"seed": 5, "foundation": 3})
    assert found["initialized_at"] is not None
    told = status(database)
    assert (told["state"], told["reason"], told["error"]) == ("completed", None, None)
    assert (told["missing_tables_found"], told["tables_created"]) == (tables, tables)
    assert set(steps_of(told).values()) == {"completed"}
    assert list(steps_of(told)) == ["check_tables", "load_seeds", "build_foundation", "verify", "publish"]


class TestEachStart:
    """Simulators of several kinds, all at once, for one database. Promises 1 and 3."""

    @pytest.mark.parametrize("names", [["wait", "client", "async", "exec"], ["shell"]], ids=["asked", "shell"])
    def test_nothing_at_all(self, names: list[str], selfheald: Selfheald, daemon: Daemon, workspace: Path) -> None:
        database = workspace / NAME
        with ExitStack() as stack:
            expect_ready(simulate(selfheald, database, names, stack))
        expect_made(database, REQUIRED)
        assert [name for name, *_ in rows(database, "select table_name from duckdb_tables() order by 1")] == REQUIRED
        assert len(daemon.log_lines("initialization_start", database)) == 1

    def test_a_zero_byte_database(self, selfheald: Selfheald, daemon: Daemon, workspace: Path) -> None:
        database = workspace / NAME
        database.touch()
        with ExitStack() as stack:
            expect_ready(simulate(selfheald, database, [*EACH], stack))
        expect_made(database, REQUIRED)
        assert len(daemon.log_lines("initialization_start", database)) == 1

    def test_a_database_without_tables(self, selfheald: Selfheald, daemon: Daemon, workspace: Path) -> None:
        database = workspace / NAME
        change(database, "select 1")
        inode = database.stat().st_ino
        with ExitStack() as stack:
            expect_ready(simulate(selfheald, database, [*EACH], stack))
        expect_made(database, REQUIRED)
        assert database.stat().st_ino == inode
        assert len(daemon.log_lines("initialization_start", database)) == 1

    def test_some_tables_are_missing(
        self, selfheald: Selfheald, daemon: Daemon, workspace: Path, complete: Copied, tmp_path: Path
    ) -> None:
        dropped = ["config_irs_limits", "int_employee_benefits"]
        database = complete(tmp_path / "outside")
        change(
            database,
            *(f"drop table {name}" for name in dropped),
            "create table own_results as select range as id, 'x' || range as name from range(1000)",
            "delete from own_results where id % 3 = 0",
            "create view own_view as select count(*) as n from own_results",
            "update config_job_levels set source = 'edited'",
        )
        before = digests(database)
        assert set(before) == {*REQUIRED, "own_results"} - set(dropped)
        database = database.rename(workspace / NAME)
        inode = database.stat().st_ino

        with ExitStack() as stack:
            expect_ready(simulate(selfheald, database, [*EACH], stack))

        expect_made(database, dropped)
        after = digests(database)
        assert set(after) == {*before, *dropped}
        assert {name: after[name] for name in before} == before
        assert (after["config_irs_limits"][0], after["int_employee_benefits"][0]) == (3, 482)
        assert rows(database, "select n from own_view") == [(666,)]
        assert database.stat().st_ino == inode
        assert len(daemon.log_lines("initialization_start", database)) == 1

    def test_all_tables_are_there(
        self, selfheald: Selfheald, daemon: Daemon, workspace: Path, complete: Copied, tmp_path: Path
    ) -> None:
        database = complete(tmp_path / "outside")
        database = database.rename(workspace / NAME)
        before, stat = digests(database), database.stat()
        with ExitStack() as stack:
            expect_ready(simulate(selfheald, database, [*EACH], stack))
        found = marker(database)
        assert (found["origin"], found["tables"], found["initialized_at"]) == (
            "adopted",
            {"seed": 5, "foundation": 3},
            None,
        )
        assert daemon.log_lines("adopted", database)
        assert not daemon.log_lines("initialization_start", database)
        assert not (workspace / ".selfheald" / "logs").exists()
        now = database.stat()
        assert (now.st_ino, now.st_mtime_ns, now.st_size) == (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        assert digests(database) == before


def test_a_large_database_keeps_all_that_it_has(
    selfheald: Selfheald, daemon: Daemon, workspace: Path, complete: Copied, tmp_path: Path
) -> None:
    """A million rows stay as they are, an edited seed too, and the table is built from the edited seed."""
    database = complete(tmp_path / "outside")
    change(
        database,
        "create table fct_yearly_events as select range as event_id, 'E' || (range * 7919) % 100000 as employee_id,"
        " 2020 + range % 6 as simulation_year, (range * 31 % 1000) / 7.0 as amount from range(1000000)",
        "update config_age_bands set age_band = 'the young' where min_age = 0",
        "update config_age_bands set age_band = 'the old' where min_age = 65",
        "drop table int_baseline_workforce",
    )
    before = digests(database)
    assert before["fct_yearly_events"][0] == 1_000_000
    (workspace / "in" / "dbt").mkdir(parents=True)
    database = database.rename(workspace / "in" / "dbt" / NAME)

    # Without being asked for: the file alone is enough.
    wait_until_marked(database)

    expect_made(database, ["int_baseline_workforce"])
    after = digests(database)
    assert {name: after[name] for name in before} == before
    labels = "select age_band, count(*) > 0 from int_baseline_workforce where current_age < 25 group by 1"
    assert rows(database, labels) == [("the young", True)]
    assert rows(database, "select distinct age_band from int_baseline_workforce where current_age >= 65") == [
        ("the old",)
    ]


@pytest.mark.parametrize("mode", ["write", "read"])
def test_a_database_that_somebody_holds_is_left_alone(
    mode: str, selfheald: Selfheald, root: Path, complete: Copied
) -> None:
    """Promise 2: it can be checked, nothing is begun, the waiting one is told, and then it goes on by itself."""
    database = complete(root / "held")
    change(database, "drop table int_employee_benefits")
    words = {"write": "writing", "read": "reading"}[mode]
    with holding(database, mode) as holder, selfheald.daemon(root) as daemon:
        with selfheald.started("wait", database) as waiter:
            busy = f"has it open for {words}"
            wait_for(lambda: busy in waiter.stderr, what=lambda: waiter.stderr)
            assert f"busy: PID {holder.pid} (" in waiter.stderr
            with watched_locks(database) as holders:
                found = selfheald.document("check", database, code=1)
                # And several looks of the daemon: nothing but the holder's own lock is ever there.
                throughout(1.5, lambda: lock_on(database) == (mode, holder.pid))
            assert holders == {holder.pid}
            assert (found["missing"], found["error"]) == (["int_employee_benefits"], None)
            assert (found["holder"]["pid"], found["holder"]["mode"]) == (holder.pid, mode)
            told = status(database)
            assert (told["state"], told["reason"]) == ("not_started", "busy")
            assert (told["holder"]["pid"], told["holder"]["mode"]) == (holder.pid, mode)
            assert not daemon.log_lines("initialization_start")
            assert not list(database.parent.glob(".selfheald/staging-*"))
            assert len(daemon.log_lines("busy")) == 1

            if mode == "write":
                assert holder.execute("create table kept as select 42 as answer") == "[(1,)]"
            holder.close()
            wait_for(lambda: daemon.log_lines("initialization_start"), 3.0, "it goes on soon after the closing")
            assert waiter.wait() == 0
    expect_made(database, ["int_employee_benefits"])
    assert mode == "read" or rows(database, "from kept") == [(42,)]


def test_the_look_at_locks_sees_them(complete: Copied, tmp_path: Path) -> None:
    """What the tests above rely on: a lock that is held for just a read-only look doesn't go unseen."""
    database = complete(tmp_path / "seen")
    with watched_locks(database) as holders, holding(database, "read") as holder:
        assert lock_on(database) == ("read", holder.pid)
        holder.close()
    assert holders == {holder.pid}
    assert lock_on(database) is None


_HOOK = """
import duckdb, json, sys, time
from selfheald import AutoInitializer, InitializationError, TableExistenceChecker
path = sys.argv[1]
connection = duckdb.connect(path)
connection.execute("create table mine as select 1 as one")

def tell(**what):
    print(json.dumps(what), flush=True)
    sys.stdin.readline()

tell(opened=True)
checker = TableExistenceChecker(path)
tell(missing=[table.name for table in checker.get_missing_tables()], tables=sorted(checker.get_existing_tables()))
began = time.monotonic()
result = AutoInitializer(path).ensure_initialized()
tell(success=result.success, state=result.state.value, error=result.error.as_dict(), took=time.monotonic() - began)
connection.execute("insert into mine values (2)")
connection.close()
result = AutoInitializer(path).ensure_initialized()
tell(success=result.success, created=result.tables_created)
"""


def test_a_hook_whose_own_connection_is_open(selfheald: Selfheald, complete: Copied, tmp_path: Path) -> None:
    """The caller is told so at once, and its lock survives: nobody else gets in."""
    database = complete(tmp_path / "hook")
    change(database, "drop table int_employee_benefits")
    with subprocess.Popen(
        [sys.executable, "-c", _HOOK, str(database)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=selfheald.environment,
    ) as hook:
        assert hook.stdin is not None
        assert hook.stdout is not None

        def next_word() -> dict[str, object]:
            assert hook.stdout is not None
            told: dict[str, object] = json.loads(hook.stdout.readline())
            return told

        def go_on() -> None:
            assert hook.stdin is not None
            hook.stdin.write("\n")
            hook.stdin.flush()

        def expect_locked() -> None:
            assert lock_on(database) == ("write", hook.pid)
            with pytest.raises(duckdb.IOException, match="lock"):
                duckdb.connect(str(database))

        try:
            assert next_word() == {"opened": True}
            expect_locked()
            go_on()
            found = next_word()
            assert found["missing"] == ["int_employee_benefits"]
            assert found["tables"] == sorted({*REQUIRED, "mine"} - {"int_employee_benefits"})
            expect_locked()
            go_on()
            refused = next_word()
            error = refused["error"]
            assert isinstance(error, dict)
            assert (refused["success"], refused["state"], error["code"]) == (False, "failed", "locked")
            assert f"this very process (PID {hook.pid})" in error["message"]
            assert "Close your own connection" in error["hint"]
            assert isinstance(refused["took"], float)
            assert refused["took"] < 10
            expect_locked()
            go_on()
            assert next_word() == {"success": True, "created": ["int_employee_benefits"]}
            go_on()
            assert hook.wait(DEADLINE) == 0
        finally:
            hook.kill()
    assert rows(database, "from mine order by 1") == [(1,), (2,)]


class TestOwnProject:
    """The administrator's own dbt project in place of the bundled one."""

    def test_ensure_and_a_daemon(self, selfheald: Selfheald, root: Path, tmp_path: Path) -> None:
        before = snapshot(OWN_PROJECT)
        settings: dict[str, Any] = {"DBT__PROJECT_DIR": str(OWN_PROJECT), "DBT__VARS": "{}"}
        here = tmp_path / "here"
        here.mkdir()
        made = selfheald.document("ensure", here, **settings)
        tables = ["dim_regions", "fct_headcount", "regions"]
        assert (made["outcome"], sorted(made["tables_created"])) == ("initialized", tables)
        assert marker(here / NAME)["tables"] == {"seed": 1, "foundation": 2}

        with selfheald.daemon(root, **settings) as daemon:
            (root / "w").mkdir()
            selfheald.ok("wait", root / "w", **settings)
            assert not daemon.log_lines("plan")  # it was read by `ensure`, and kept
        database = root / "w" / NAME
        assert sorted(status(database)["tables_created"]) == tables
        contents = digests(database)
        assert contents == digests(here / NAME)
        assert all(count for count, *_ in contents.values())
        assert snapshot(OWN_PROJECT) == before
