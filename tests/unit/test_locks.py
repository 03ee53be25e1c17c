"""Locks are seen without being taken, and exclude each other across processes."""

from __future__ import annotations

import fcntl
import os
import stat
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from selfheald import locks
from selfheald.errors import ConcurrentInitializationError, InitializationError
from selfheald.locks import DatabaseLock, Holder, command_line, held, holder

PACKAGE = str(Path(__file__).resolve().parents[2])


@contextmanager
def process(code: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A Python process that has said "ready"; it ends when its standard input does."""
    script = (
        f"import sys, os, fcntl\nsys.path.append({PACKAGE!r})\n{code}\nprint('ready', flush=True)\nsys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        assert running.stdin is not None
        assert running.stdout.readline() == "ready\n"
        try:
            yield running
        finally:
            running.stdin.close()
            running.wait()


POSIX_LOCK = "f = open(sys.argv[1], 'r+b'); fcntl.lockf(f, getattr(fcntl, sys.argv[2]))"


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "simulation.duckdb"
    path.write_bytes(b"x" * 100)
    return path


class TestHolder:
    """Who holds a lock on a database."""

    def test_nobody(self, database: Path) -> None:
        assert holder(database) is None

    @pytest.mark.parametrize(("lock", "mode"), [("LOCK_EX", "write"), ("LOCK_SH", "read")])
    def test_another_process(self, database: Path, lock: str, mode: str) -> None:
        with process(POSIX_LOCK, database, lock) as running:
            found = holder(database)
        assert found is not None
        assert (found.pid, found.mode) == (running.pid, mode)
        assert found.command is None or "python" in found.command
        assert found.as_dict() == {"pid": running.pid, "command": found.command, "mode": mode}
        assert holder(database) is None

    def test_a_writer_elsewhere_matters_more_than_a_reader(self, database: Path) -> None:
        code = (
            "f = open(sys.argv[1], 'r+b'); fcntl.lockf(f, fcntl.LOCK_SH, 10, 0); fcntl.lockf(f, fcntl.LOCK_EX, 10, 50)"
        )
        with process(code, database):
            found = holder(database)
        assert found is not None
        assert found.mode == "write"

    @pytest.mark.skipif(sys.platform != "linux", reason="the constant is Linux'")
    def test_an_open_file_description_lock_has_no_process(self, database: Path) -> None:
        code = (
            "import struct; f = open(sys.argv[1], 'r+b')\n"
            "fcntl.fcntl(f, 37, struct.pack('hhqqi0q', fcntl.F_WRLCK, 0, 0, 0, 0))"
        )
        with process(code, database):
            assert holder(database) == Holder(pid=None, command=None, mode="write")

    def test_asking_takes_nothing(self, database: Path) -> None:
        asked = "from selfheald.locks import holder_of; f = open(sys.argv[1], 'rb'); holder_of(f.fileno())"
        with process(asked, database), database.open("r+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def test_no_regular_file(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "link").symlink_to("/dev/null")
        (tmp_path / "loop").symlink_to(tmp_path / "loop")
        for name in ("pipe", "link", "loop", "absent", "absent/below", "nul\0byte", ".", "/dev/null"):
            assert holder(tmp_path / name) is None

    def test_command_line_is_short_and_printable(self) -> None:
        with process("", "tab\tbell\a", "x" * 500) as running:
            said = command_line(running.pid)
        assert said is not None
        assert said.isprintable()
        assert len(said) <= 120
        assert command_line(2**22 + 1) is None


class TestDatabaseLock:
    """The lock that an initialization holds."""

    def test_excludes_other_processes_and_itself(self, tmp_path: Path) -> None:
        path = tmp_path / "db.lock"
        taking = "from selfheald.locks import DatabaseLock; lock = DatabaseLock(sys.argv[1]); assert lock.acquire()"
        with process(taking, path):
            assert held(path)
            assert not DatabaseLock(path).acquire()
            with pytest.raises(ConcurrentInitializationError) as caught, DatabaseLock(path):
                pass
            assert caught.value.lock_file == str(path)
        with DatabaseLock(path) as lock:
            assert lock.acquired
            assert not DatabaseLock(path).acquire()
        assert not lock.acquired
        assert not held(path)
        assert path.exists()

    def test_is_freed_when_its_holder_is_killed(self, tmp_path: Path) -> None:
        path = tmp_path / "db.lock"
        taking = "from selfheald.locks import DatabaseLock; lock = DatabaseLock(sys.argv[1]); assert lock.acquire()"
        with process(taking, path) as running:
            running.kill()
            running.wait()
            with DatabaseLock(path) as lock:
                assert lock.acquired

    def test_waits_until_it_is_free(self, tmp_path: Path) -> None:
        path = tmp_path / "db.lock"
        first, second = DatabaseLock(path), DatabaseLock(path)
        assert first.acquire()
        done = threading.Event()

        def wait() -> None:
            if second.acquire(timeout=20):
                done.set()

        waiter = threading.Thread(target=wait)
        waiter.start()
        first.release()
        waiter.join(20)
        assert done.is_set()
        assert second.acquired
        second.release()
        second.release()

    def test_probing_does_not_make_it_fail(self, tmp_path: Path) -> None:
        path = tmp_path / "db.lock"
        path.touch()
        enough = threading.Event()

        def probe() -> None:
            while not enough.is_set():
                held(path)

        prober = threading.Thread(target=probe)
        prober.start()
        try:
            for _ in range(200):
                with DatabaseLock(path):
                    pass
        finally:
            enough.set()
            prober.join()

    def test_shares_the_folder_with_its_group(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o775)
        mask = os.umask(0o077)
        try:
            with DatabaseLock(tmp_path / "db.lock"):
                pass
        finally:
            os.umask(mask)
        assert stat.S_IMODE((tmp_path / "db.lock").stat().st_mode) == 0o664

    def test_what_is_given_back_is_not_locked(self, tmp_path: Path) -> None:
        with DatabaseLock(tmp_path / "db.lock") as lock:
            assert os.fstat(lock.fileno()).st_size > 0
        with pytest.raises(ValueError, match="not locked"):
            lock.fileno()

    def test_no_link_above_it_is_followed(self, tmp_path: Path) -> None:
        (tmp_path / "elsewhere" / "below").mkdir(parents=True)
        (tmp_path / "link").symlink_to("elsewhere")
        with pytest.raises(InitializationError) as refused:
            DatabaseLock(tmp_path / "link" / "below" / "db.lock").acquire()
        assert refused.value.code == "unsafe_path"
        assert list((tmp_path / "elsewhere" / "below").iterdir()) == []

    def test_a_file_with_another_name_too_is_locked_and_not_written(self, tmp_path: Path) -> None:
        (tmp_path / "precious").write_text("a stranger's")
        (tmp_path / "db.lock").hardlink_to(tmp_path / "precious")
        with DatabaseLock(tmp_path / "db.lock"):
            assert held(tmp_path / "db.lock")
        assert (tmp_path / "precious").read_text() == "a stranger's"

    def test_a_replaced_file_locks_nothing(self, tmp_path: Path) -> None:
        path = tmp_path / "db.lock"
        first = DatabaseLock(path)
        assert first.acquire()
        path.unlink()
        with DatabaseLock(path) as second:
            assert os.fstat(second.fileno()).st_ino == path.stat().st_ino
        first.release()

    @pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
    def test_refuses_what_is_no_file(self, tmp_path: Path, kind: str) -> None:
        path = tmp_path / "db.lock"
        if kind == "link":
            path.symlink_to(tmp_path / "elsewhere")
        elif kind == "pipe":
            os.mkfifo(path)
        else:
            path.mkdir()
        with pytest.raises(InitializationError) as caught:
            DatabaseLock(path).acquire()
        assert caught.value.code == "unsafe_path"
        assert caught.value.path == str(path)
        assert not (tmp_path / "elsewhere").exists()
        assert not held(path)

    def test_nobody_holds_what_is_not_there(self, tmp_path: Path) -> None:
        assert not held(tmp_path / "absent")


@pytest.mark.parametrize(("platform", "size", "kind_at", "pid_at"), [("linux", 32, 0, 24), ("darwin", 24, 20, 16)])
def test_a_lock_is_laid_out_as_the_platform_s_kernel_has_it(
    platform: str, size: int, kind_at: int, pid_at: int
) -> None:
    """Sizes and offsets are those of C compilers for 64-bit machines. Those of macOS were never tried on one."""
    record = bytearray(locks.pack_lock(fcntl.F_WRLCK, platform))
    assert len(record) == size
    assert struct.unpack_from("h", record, kind_at) == (fcntl.F_WRLCK,)
    struct.pack_into("h", record, kind_at, fcntl.F_RDLCK)
    struct.pack_into("i", record, pid_at, 4242)
    assert locks.unpack_lock(bytes(record), platform) == (fcntl.F_RDLCK, 4242)
