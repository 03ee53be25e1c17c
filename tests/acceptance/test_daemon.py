"""The daemon as a process: what it sees, when it is still, how it ends, and how it comes back."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
from conftest import Copied
from fixtures.waiting import throughout, wait_for
from processes import (
    ENDLESS,
    NAME,
    Daemon,
    Selfheald,
    arguments,
    change,
    children,
    cpu_seconds,
    digests,
    holding,
    marker,
    members,
    snapshot,
    status,
    wait_until_marked,
)

from selfheald.client import daemon_root, is_ready

#: Seconds in which what an event tells must have come: far less than until the next scan, which is a minute away.
SOON = 20.0
#: Seconds in which nothing of what must not happen has happened: several times as long as it would take.
LONG_ENOUGH = 1.0


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return [tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second")]


@pytest.fixture(scope="module")
def restless(shared_selfheald: Selfheald, roots: list[Path]) -> Iterator[Daemon]:
    """A daemon that scans twice a second."""
    with shared_selfheald.daemon(*roots, WATCH__RESCAN=0.5) as daemon:
        yield daemon


def marker_of(database: Path) -> Path:
    return database.with_name(f"{database.name}.ready")


class TestSeeing:
    """Promise 7: events are hints, but they come."""

    def test_trees_made_in_a_burst(self, workspace: Path, finished: Path) -> None:
        databases = [workspace / f"{number}" / "a" / "b" / "c" / NAME for number in range(20)]
        for database in databases:
            database.parent.mkdir(parents=True)
            shutil.copyfile(finished, database)
        for database in databases:
            assert wait_until_marked(database, SOON)["origin"] == "adopted"

    def test_a_tree_that_is_moved_in(self, workspace: Path, complete: Copied, tmp_path: Path) -> None:
        complete(tmp_path / "tree" / "deep" / "dbt")
        (tmp_path / "tree").rename(workspace / "tree")
        assert wait_until_marked(workspace / "tree" / "deep" / "dbt" / NAME, SOON)["origin"] == "adopted"

    def test_a_folder_that_is_to_be_left_alone(self, workspace: Path, complete: Copied) -> None:
        (workspace / "left").mkdir()
        sign = workspace / "left" / ".selfheald-ignore"
        sign.touch()
        database = complete(workspace / "left" / "deep")
        wait_until_marked(complete(workspace / "watched"), SOON)
        throughout(LONG_ENOUGH, lambda: list(database.parent.iterdir()) == [database])
        sign.unlink()
        wait_until_marked(database, SOON)

    def test_a_lost_table_takes_the_marker_with_it(self, daemon: Daemon, workspace: Path, complete: Copied) -> None:
        """Promise 1, while a simulator has it open; when that is over, it is healed and marked again."""
        database = complete(workspace / "dropped")
        wait_until_marked(database, SOON)
        with holding(database) as simulator:
            simulator.execute("drop table int_employee_benefits")
            assert not is_ready(database)
            wait_for(lambda: not marker_of(database).exists(), 5.0, lambda: status(database))
            simulator.close()
        found = wait_until_marked(database)
        assert (found["origin"], status(database)["tables_created"]) == ("dbt", ["int_employee_benefits"])
        assert daemon.log_lines("marker_removed", database)

    def test_a_marker_that_somebody_deletes(self, workspace: Path, complete: Copied) -> None:
        database = complete(workspace / "unmarked")
        wait_until_marked(database, SOON)
        marker_of(database).unlink()
        assert wait_until_marked(database, SOON)["origin"] == "adopted"

    def test_a_database_that_is_deleted(self, workspace: Path, complete: Copied) -> None:
        database = complete(workspace / "deleted")
        wait_until_marked(database, SOON)
        database.unlink()
        wait_for(lambda: not marker_of(database).exists(), SOON)
        throughout(LONG_ENOUGH, lambda: not database.exists())

    def test_a_database_that_is_replaced(self, workspace: Path, complete: Copied, tmp_path: Path) -> None:
        database = complete(workspace / "replaced")
        first = wait_until_marked(database, SOON)["database"]
        # Of the same size and with the same times: only that it is another file tells.
        other = complete(tmp_path / "other")
        stat = database.stat()
        os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        other.rename(database)
        assert not is_ready(database)
        second = wait_until_marked(database, SOON)["database"]
        assert second["inode"] == database.stat().st_ino != first["inode"]

    def test_nothing_to_be_seen_in_a_bare_folder(self, workspace: Path) -> None:
        (workspace / "bare" / "dbt").mkdir(parents=True)
        throughout(LONG_ENOUGH, lambda: not list(workspace.rglob("*selfheald*")))


class TestStillness:
    """A daemon that scans twice a second, over two roots."""

    def test_nothing_happens_when_nothing_changes(self, restless: Daemon, roots: list[Path], complete: Copied) -> None:
        databases = [complete(root / f"w{number}") for root in roots for number in range(5)]
        for database in databases:
            wait_until_marked(database, SOON)

        def state() -> object:
            files = {f"{root}/{name}": stat for root in roots for name, stat in snapshot(root).items()}
            probes = [name for name in files if name.endswith("/.selfheald/watch-probe")]
            assert len(probes) == 2
            return {name: stat for name, stat in files.items() if name not in probes}, len(restless.log_lines())

        def settled() -> bool:
            before = state()
            end = time.monotonic() + 1
            wait_for(lambda: time.monotonic() > end)
            return state() == before

        wait_for(settled)
        before, cpu, end = state(), cpu_seconds(restless.pid), time.monotonic() + 3
        wait_for(lambda: time.monotonic() > end)
        assert cpu_seconds(restless.pid) - cpu < 0.2
        assert state() == before

    def test_a_root_that_is_deleted_and_made_again(
        self, restless: Daemon, roots: list[Path], complete: Copied, selfheald: Selfheald
    ) -> None:
        root = roots[1]
        shutil.rmtree(root)
        wait_for(lambda: _watcher(roots[0]) == "degraded", what=lambda: restless.told())
        root.mkdir()
        wait_for(lambda: _watcher(root) == "native", what=lambda: restless.told())
        assert daemon_root(root / NAME) == root
        database = complete(root / "again")
        wait_until_marked(database, SOON)
        # And a simulator finds its daemon there.
        assert selfheald.document("wait", database)["outcome"] == "ready"


def _watcher(root: Path) -> object:
    from selfheald.presence import daemon_record

    return daemon_record(root)["watcher"]


class TestHeal:
    """``watch.heal``: what is made ready without being asked for."""

    @pytest.fixture
    def incomplete(self, root: Path, complete: Copied) -> Path:
        database = complete(root / "incomplete")
        change(database, "drop table int_employee_benefits")
        return database

    def test_requested(self, selfheald: Selfheald, root: Path, incomplete: Path, complete: Copied) -> None:
        with selfheald.daemon(root, WATCH__HEAL="requested", WATCH__RESCAN=0.3) as daemon:
            assert wait_until_marked(complete(root / "all"), SOON)["origin"] == "adopted"
            throughout(LONG_ENOUGH, lambda: not daemon.log_lines("initialization_start"))
            assert not marker_of(incomplete).exists()
            selfheald.ok("wait", incomplete)
            assert marker(incomplete)["origin"] == "dbt"

    def test_never(self, selfheald: Selfheald, root: Path, incomplete: Path, complete: Copied) -> None:
        before = digests(incomplete)
        with selfheald.daemon(root, WATCH__HEAL="never", WATCH__RESCAN=0.3) as daemon:
            assert wait_until_marked(complete(root / "all"), SOON)["origin"] == "adopted"
            waited = selfheald.run("wait", incomplete, "--json")
            assert waited.returncode != 0
            assert '"outcome": "failed"' in waited.stdout
            assert "watch.heal" in waited.stderr
            throughout(LONG_ENOUGH, lambda: not daemon.log_lines("initialization_start"))
        assert not marker_of(incomplete).exists()
        assert digests(incomplete) == before


class TestOneDaemon:
    """Whom a root belongs to."""

    def test_a_second_one(self, selfheald: Selfheald, daemon: Daemon, shared_root: Path) -> None:
        nested = shared_root / "nested" / "deep"
        nested.mkdir(parents=True)
        for root in (shared_root, nested, shared_root.parent / "." / shared_root.name):
            second = selfheald.run("run", root)
            assert second.returncode == 1
            assert len(second.stderr.splitlines()) == 2, second.stderr
            assert f"PID {daemon.pid} " in second.stderr
            assert str(shared_root) in second.stderr
        assert not list(nested.iterdir())

    def test_a_root_around_a_watched_one(self, selfheald: Selfheald, root: Path) -> None:
        """What lies below a root is found by the first scan, before anything is checked."""
        inner = root / "inner"
        inner.mkdir()
        with selfheald.daemon(inner) as first:
            second = selfheald.run("run", root)
            assert second.returncode == 1
            assert len(second.stderr.splitlines()) == 2, second.stderr
            assert f"PID {first.pid} " in second.stderr
            assert str(inner) in second.stderr

    @pytest.mark.parametrize("what", ["nothing", "file", "good and missing"])
    def test_a_root_that_is_none(self, what: str, selfheald: Selfheald, tmp_path: Path) -> None:
        place = tmp_path / "place"
        place.mkdir()
        roots = [place / "root"]
        if what == "file":
            (place / "root").write_text("text")
        elif what == "good and missing":
            (place / "good").mkdir()
            roots.insert(0, place / "good")
        before = snapshot(place)
        refused = selfheald.run("run", *roots)
        assert refused.returncode == 2
        assert len(refused.stderr.splitlines()) == 2, refused.stderr
        assert str(place / "root") in refused.stderr
        assert snapshot(place) == before


class TestEnding:
    """Signals, and what can't be handled. Promise 4."""

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_an_idle_daemon(self, number: signal.Signals, selfheald: Selfheald, root: Path) -> None:
        with selfheald.daemon(root) as daemon:
            daemon.stop(number, deadline=10)
            assert daemon.log_lines("daemon_stopped")
            assert daemon_root(root / NAME) is None
            assert members(daemon.pid) == []

    def test_the_first_signal_lets_the_running_one_end(
        self, selfheald: Selfheald, root: Path, complete: Copied
    ) -> None:
        """And begins no other; the next daemon goes on by itself."""
        databases = [complete(root / name) for name in ("a", "b")]
        for database in databases:
            change(database, "drop table int_employee_benefits")
        with selfheald.daemon(root) as daemon:
            begun = wait_for(lambda: [each for each in databases if status(each).get("state") == "in_progress"])
            daemon.stop()
            assert marker(begun[0])["origin"] == "dbt"
            other = next(each for each in databases if each != begun[0])
            assert not marker_of(other).exists()
            assert len(daemon.log_lines("initialization_start")) == 1
            daemon.start()
            assert wait_until_marked(other)["origin"] == "dbt"
            assert status(other)["tables_created"] == ["int_employee_benefits"]

    @pytest.mark.parametrize("how", ["second signal", "grace"])
    def test_an_initialization_that_is_aborted(
        self, how: str, selfheald: Selfheald, root: Path, complete: Copied
    ) -> None:
        database = complete(root / "aborted")
        change(database, "drop table int_employee_benefits")
        before = digests(database)
        settings = {"DBT__PRE_SQL": ENDLESS, "SHUTDOWN__GRACE": 1 if how == "grace" else 60}
        with selfheald.daemon(root, **settings) as daemon:
            child = self._endless_child(daemon, database)
            assert daemon.process is not None
            daemon.process.send_signal(signal.SIGTERM)
            throughout(0.5, lambda: daemon.process is not None and daemon.process.poll() is None)
            assert members(child)
            if how == "second signal":
                daemon.process.send_signal(signal.SIGTERM)
            assert daemon.process.wait(10) == 0
            assert "Traceback" not in daemon.told()
            assert members(child) == []
        assert not list(database.parent.glob(".selfheald/staging-*"))
        assert not marker_of(database).exists()
        assert digests(database) == before
        told = status(database)
        assert (told["state"], told["error"]["code"]) == ("failed", "interrupted")

    def test_a_daemon_that_is_killed(self, selfheald: Selfheald, root: Path, complete: Copied) -> None:
        """Its child dies with it, no marker lies, and the next daemon cleans up and gets there by itself."""
        database = complete(root / "killed")
        change(database, "drop table int_employee_benefits", "create table mine as select range as id from range(9)")
        before = digests(database)
        killed = selfheald.daemon(root, DBT__PRE_SQL=ENDLESS)
        killed.start()
        try:
            child = self._endless_child(killed, database)
            began = time.monotonic()
        finally:
            killed.kill()
        wait_for(lambda: not members(child), began + 2 - time.monotonic(), "the child's group is gone")
        assert not marker_of(database).exists()
        assert len(list(database.parent.glob(".selfheald/staging-*"))) == 1
        assert digests(database) == before
        # With nobody there, the truth is told all the same.
        summary = selfheald.document("status", root)["summary"]
        assert (summary["building"], summary["waiting"]) == (0, 1)

        with selfheald.daemon(root) as daemon:
            found = wait_until_marked(database)
            assert daemon.log_lines("leftover_removed")
        assert (found["origin"], status(database)["tables_created"]) == ("dbt", ["int_employee_benefits"])
        assert not list(database.parent.glob(".selfheald/staging-*"))
        after = digests(database)
        assert {name: after[name] for name in before} == before

    def _endless_child(self, daemon: Daemon, database: Path) -> int:
        """The process that dbt runs in; it is the leader of its group."""

        def at_work() -> list[int]:
            staged = list(database.parent.glob(f".selfheald/staging-*/{NAME}"))
            return [pid for pid in children(daemon.pid) if staged and arguments(pid)[-2:] == ["build", ""]]

        [child] = wait_for(at_work, what=daemon.told)
        assert os.getpgid(child) == child
        return child


def test_a_workspace_that_goes_while_it_is_queued(selfheald: Selfheald, root: Path) -> None:
    """Its status cannot be written any more; the daemon goes on with the others, and ends as it should."""
    first, second, third = (root / name / NAME for name in ("first", "second", "third"))
    with (
        selfheald.daemon(root, DBT__PRE_SQL=ENDLESS, DBT__TIMEOUT=4, RETRY__ATTEMPTS=1),
        ExitStack() as waiters,
    ):
        for database in (first, second, third):
            database.parent.mkdir()
            waiters.enter_context(selfheald.started("wait", database))
            wait_for(partial(is_on_its_way, database))
        shutil.rmtree(third.parent)
        for database in (first, second):
            wait_for(partial(has_failed, database))


def is_on_its_way(database: Path) -> bool:
    """True once it is being built, or has a place in the queue."""
    found = status(database)
    return found.get("state") == "in_progress" or found.get("queue_position") is not None


def has_failed(database: Path) -> bool:
    return status(database).get("state") == "failed"
