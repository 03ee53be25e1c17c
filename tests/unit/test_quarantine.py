"""Setting a corrupt database aside: nothing lost, no good file moved, whoever comes in between and whenever it dies."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fixtures import databases
from fixtures.figures import Figures
from fixtures.processes import ROOT, started

import selfheald.quarantine as module
from selfheald.errors import ConcurrentInitializationError, InitializationError
from selfheald.locks import DatabaseLock
from selfheald.quarantine import quarantine
from selfheald.workspace import WAL_SUFFIXES, Database

#: Locks a file as DuckDB does, and keeps it.
HOLD = """
import fcntl
handle = open(sys.argv[1], "rb+")
fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _impatient(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of this moment count as quiet, except where that is what is tested."""
    if "quiet" not in request.node.name:
        monkeypatch.setattr(module, "QUIET_SECONDS", 0.0)


@pytest.fixture
def corrupt(corrupt_database: Path) -> Database:
    """A database that has lost its end, and its whole WAL family."""
    for suffix in WAL_SUFFIXES:
        Path(f"{corrupt_database}{suffix}").write_bytes(f"what was in {suffix}".encode())
    return Database.at(corrupt_database)


def contents(folder: Path) -> list[bytes]:
    """What all files of a folder hold, whatever they are called."""
    return sorted(file.read_bytes() for file in folder.iterdir() if file.is_file())


def refused(database: Database) -> InitializationError:
    """Nothing is moved, and why."""
    before = {file.name: file.read_bytes() for file in database.folder.iterdir() if file.is_file()}
    with pytest.raises(InitializationError) as refusal:
        quarantine(database)
    assert {file.name: file.read_bytes() for file in database.folder.iterdir() if file.is_file()} == before
    return refusal.value


def test_the_whole_family_gets_one_name(corrupt: Database) -> None:
    before = contents(corrupt.folder)
    corrupt.marker.write_text("{}")
    moved = quarantine(corrupt)
    names = [corrupt.path.name + suffix for suffix in ("", *WAL_SUFFIXES)]
    [suffix] = {path.removeprefix(str(corrupt.folder / name)) for path, name in zip(moved, names, strict=True)}
    assert re.fullmatch(r"\.corrupt-\d{8}T\d{6}", suffix)
    assert contents(corrupt.folder) == before
    assert not corrupt.marker.exists()


def test_never_over_an_existing_name(corrupt: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfheald.quarantine.time.strftime", lambda *_: "T")
    taken = [Path(f"{corrupt.path}.wal.corrupt-T"), Path(f"{corrupt.path}.corrupt-T-2")]
    for path in taken:
        path.write_text("an earlier one")
    assert quarantine(corrupt)[0] == f"{corrupt.path}.corrupt-T-3"
    assert [path.read_text() for path in taken] == ["an earlier one"] * 2


@pytest.mark.parametrize("suffix", ["", ".wal"])
def test_a_link_is_not_followed(corrupt: Database, suffix: str, tmp_path: Path) -> None:
    path = Path(f"{corrupt.path}{suffix}")
    elsewhere = path.rename(tmp_path / "elsewhere")
    path.symlink_to(elsewhere)
    error = refused(corrupt)
    assert "unsafe_path" in f"{error.code} {error.message}"
    assert path.is_symlink()


class TestRefusals:
    def test_a_good_one(self, ready_database: Path) -> None:
        assert "not corrupt" in refused(Database.at(ready_database)).message
        assert not (ready_database.parent / ".selfheald").exists()

    def test_none_at_all(self, tmp_path: Path) -> None:
        error = refused(Database.at(tmp_path / "simulation.duckdb"))
        assert "there is no database" in error.message
        assert list(tmp_path.iterdir()) == []

    def test_not_a_database(self, tmp_path: Path) -> None:
        path = tmp_path / "simulation.duckdb"
        path.write_text("no database at all\n" * 1000)
        assert "not_a_database" in refused(Database.at(path)).message

    def test_one_that_somebody_holds(self, corrupt: Database) -> None:
        with started(HOLD, corrupt.path) as holder:
            error = refused(corrupt)
            assert error.code == "locked"
            assert f"PID {holder.pid} " in error.message

    def test_one_that_is_initialized(self, corrupt: Database) -> None:
        corrupt.private.mkdir()
        with DatabaseLock(corrupt.lock):
            assert isinstance(refused(corrupt), ConcurrentInitializationError)


def test_one_that_is_not_quiet_is_waited_for(corrupt: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy that is under way looks cut short, and holds no lock."""
    good = databases.ready_database(corrupt.folder / "other" / "good.duckdb").read_bytes()
    for suffix in WAL_SUFFIXES:
        Path(f"{corrupt.path}{suffix}").unlink()
    asked: list[float] = []

    def restored_meanwhile(seconds: float) -> None:
        asked.append(seconds)
        corrupt.path.write_bytes(good)

    clock = SimpleNamespace(sleep=restored_meanwhile, time=lambda: corrupt.path.stat().st_mtime + 0.25)
    monkeypatch.setattr("selfheald.quarantine.time", clock)
    corrupt.path.touch()
    with pytest.raises(InitializationError, match="not corrupt"):
        quarantine(corrupt)
    assert asked[0] == pytest.approx(0.75)
    assert corrupt.path.read_bytes() == good


#: What a quarantine does, in this order.
MOMENTS = ["read_in_child", "_locked", "_lock", "remove_marker", "_renames", "os.rename"]


@pytest.mark.promise(3)
def test_a_good_file_that_is_restored_meanwhile_stays(
    corrupt: Database, good: bytes, monkeypatch: pytest.MonkeyPatch, figures: Figures
) -> None:
    """At each step, as another file under its name (mv) or as other bytes in it (cp): it is never set aside."""
    damaged = corrupt.path.read_bytes()
    tried, wrong = 0, []
    for how, moment in itertools.product(("mv", "cp"), MOMENTS):
        owner, name = (os, "rename") if moment == "os.rename" else (module, moment)
        restored: list[str] = []
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, after(partial(restore, corrupt, good, how), getattr(owner, name), restored))
            with pytest.raises(InitializationError) as refusal:
                quarantine(corrupt)
        tried += 1
        assert restored
        assert refusal.value.code in ("locked", "config_invalid")
        wals = [Path(f"{corrupt.path}{suffix}").exists() for suffix in WAL_SUFFIXES]
        if corrupt.path.read_bytes() != good or any(corrupt.folder.glob("*.corrupt-*")) or not all(wals):
            wrong.append((how, moment))
        corrupt.path.write_bytes(damaged)
    figures.tell(
        3,
        "a good file restored while a corrupt one is set aside, at each step",
        tried=tried,
        survived=tried - len(wrong),
        wrong=len(wrong),
    )
    assert wrong == []
    assert len(quarantine(corrupt)) == 1 + len(WAL_SUFFIXES)


def after(first: Callable[[], object], call: Callable[..., Any], done: list[str]) -> Callable[..., Any]:
    """A function that does something else before it does what it is for, once."""

    def both(*arguments: Any, **options: Any) -> Any:
        if not done:
            done.append("once")
            first()
        return call(*arguments, **options)

    return both


@pytest.fixture
def good(tmp_path: Path) -> bytes:
    """The bytes of a database in which all is well."""
    return databases.ready_database(tmp_path / "good.duckdb").read_bytes()


def restore(database: Database, good: bytes, how: str) -> None:
    """Put a good file at the path, in one of the ways in which people do it."""
    if how == "cp":
        database.path.write_bytes(good)
    else:
        draft = database.folder.parent / "draft"
        draft.write_bytes(good)
        draft.replace(database.path)


def test_a_wal_that_changes_before_anything_is_moved(corrupt: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    wal = Path(f"{corrupt.path}.wal")
    monkeypatch.setattr(module, "_lock", after(partial(wal.write_text, "a new one"), module._lock, []))
    with pytest.raises(InitializationError, match="nothing was set aside"):
        quarantine(corrupt)
    assert corrupt.path.exists()
    assert list(corrupt.folder.glob("*.corrupt-*")) == []


def test_a_wal_that_comes_when_the_database_is_gone_stays(corrupt: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """It belongs to whatever a simulator makes there."""
    wal, set_aside = Path(f"{corrupt.path}.wal"), module._set_aside

    def beside(*arguments: Any) -> bool:
        if arguments[2] == wal.name:
            wal.unlink()
            wal.write_text("of another database")
        return set_aside(*arguments)

    monkeypatch.setattr(module, "_set_aside", beside)
    assert len(quarantine(corrupt)) == len(WAL_SUFFIXES)
    assert wal.read_text() == "of another database"


def test_a_third_file_at_the_path_is_not_overwritten_by_putting_back(
    corrupt: Database, good: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.rename

    def crowded(*arguments: Any, **options: Any) -> None:
        restore(corrupt, good, "mv")
        rename(*arguments, **options)
        corrupt.path.write_text("a third one")

    monkeypatch.setattr("selfheald.quarantine.os.rename", crowded)
    with pytest.raises(InitializationError) as refusal:
        quarantine(corrupt)
    assert corrupt.path.read_text() == "a third one"
    assert Path(str(refusal.value.path)).read_bytes() == good
    assert "mv -n" in refusal.value.hint


def test_a_simulator_that_opens_it_at_that_moment_gets_no_lock(
    corrupt: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is cut short may well be opened by DuckDB; who is about to, would write to what is set aside."""
    rename, attempts = os.rename, []

    def beside(*arguments: Any, **options: Any) -> None:
        with corrupt.path.open("rb") as early:
            rename(*arguments, **options)
            code = (
                "import fcntl, sys; print(fcntl.fcntl(0, fcntl.F_GETLK,"
                " __import__('struct').pack('hhqqi0q', fcntl.F_WRLCK, 0, 0, 0, 0))[0])"
            )
            answer = subprocess.run([sys.executable, "-c", code], stdin=early, capture_output=True, check=True)
            attempts.append(int(answer.stdout))
            monkeypatch.setattr("selfheald.quarantine.os.rename", rename)

    monkeypatch.setattr("selfheald.quarantine.os.rename", beside)
    quarantine(corrupt)
    assert attempts != [2]  # F_UNLCK


def test_who_locks_it_after_it_was_read_keeps_it(corrupt: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = module._lock

    def too_late(database: Database, handle: int) -> None:
        with started(HOLD, corrupt.path):
            lock(database, handle)

    monkeypatch.setattr(module, "_lock", too_late)
    assert refused(corrupt).code == "locked"


@pytest.mark.promise(3)
def test_killed_between_any_two_calls(figures: Figures, tmp_path: Path) -> None:
    """At the second try it comes to its end, and every byte is there still."""
    code = textwrap.dedent(
        """
        import os, sys, signal
        import selfheald.quarantine as module
        from selfheald.workspace import Database
        module.QUIET_SECONDS = 0.0
        left = int(sys.argv[2])
        def counted(call):
            def counting(*arguments, **options):
                global left
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1
                return call(*arguments, **options)
            return counting
        from types import SimpleNamespace
        names = {name: getattr(os, name) for name in dir(os)}
        calls = {name: counted(getattr(os, name)) for name in "rename link unlink fsync open close".split()}
        module.os = SimpleNamespace(**{**names, **calls})
        module.quarantine(Database.at(sys.argv[1]))
        """
    )
    killed, lost, number = 0, 0, 0
    while True:
        folder = tmp_path / str(number)
        database = Database.at(databases.corrupt_database(folder / "simulation.duckdb"))
        for suffix in WAL_SUFFIXES:
            Path(f"{database.path}{suffix}").write_bytes(f"what was in {suffix}".encode())
        before = contents(folder)
        done = subprocess.run(
            [sys.executable, "-c", code, str(database.path), str(number)],
            env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            check=False,
        )
        lost += contents(folder) != before
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        killed += 1
        left = [name for name in ("", *WAL_SUFFIXES) if Path(f"{database.path}{name}").exists()]
        if left:
            quarantine(database)
        lost += contents(folder) != before
        assert not any(Path(f"{database.path}{name}").exists() for name in ("", *WAL_SUFFIXES))
        number += 1
    figures.tell(3, "kill -9 between any two calls of a quarantine", tried=killed, survived=killed - lost, lost=lost)
    assert lost == 0
    assert killed >= 6
