"""Locks: who holds one on a database, and the one that an initialization holds.

DuckDB locks a database with ``fcntl``; an initialization locks a file of its own with ``flock``. The two never meet.
Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from selfheald import client
from selfheald.client import OPEN_SAFELY
from selfheald.client import is_held as held
from selfheald.errors import ConcurrentInitializationError, InitializationError, from_os_error

__all__ = ["OPEN_SAFELY", "DatabaseLock", "Holder", "command_line", "held", "holder", "holder_of"]

_COMMAND_LENGTH = 120
_PROBE_ATTEMPTS = 20
_PROBE_PAUSE = 0.001
_WAIT_PAUSE = 0.05
_OPEN_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lock on a database.

    ``pid`` is ``None`` where the kernel cannot name one (an open-file-description lock, another PID namespace or
    host); ``command`` is its command line, shortened, ``None`` if it cannot be read; ``mode`` is ``read`` or ``write``.
    """

    pid: int | None
    command: str | None
    mode: str

    def as_dict(self) -> dict[str, Any]:
        """The record that status files and ``--json`` show."""
        return asdict(self)


def holder(path: str | os.PathLike[str]) -> Holder | None:
    """Who, other than this process, holds a lock on the file at ``path``; nothing is locked by asking.

    ``None`` if nobody does, or if there is no regular file that can be opened. Links are not followed.

    WARNING: POSIX locks belong to the process. Closing *any* descriptor of a file drops every POSIX lock that this
    process holds on it, so a process that has ``path`` open in DuckDB must never call this: DuckDB's own lock would
    be gone, and a second writer could get in.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | OPEN_SAFELY)
    except (OSError, ValueError):
        return None
    try:
        return holder_of(descriptor) if stat.S_ISREG(os.fstat(descriptor).st_mode) else None
    finally:
        os.close(descriptor)


def holder_of(descriptor: int) -> Holder | None:
    """As :func:`holder`, for a file that is open already (reading is enough, also to ask about write locks)."""
    found = _first_conflict(descriptor, fcntl.F_WRLCK)
    if found is not None and found[0] == "read":
        # Locks may cover parts of a file: beside a reader's there can be a writer's elsewhere, which matters more.
        found = _first_conflict(descriptor, fcntl.F_RDLCK) or found
    if found is None:
        return None
    mode, pid = found
    return Holder(pid=pid, command=None if pid is None else command_line(pid), mode=mode)


def _first_conflict(descriptor: int, wanted: int) -> tuple[str, int | None] | None:
    """Mode and process of the first lock that would stand in the way of a ``wanted`` one on the whole file."""
    reply = fcntl.fcntl(descriptor, fcntl.F_GETLK, pack_lock(wanted, sys.platform))
    kind, pid = unpack_lock(reply, sys.platform)
    if kind == fcntl.F_UNLCK:
        return None
    return "read" if kind == fcntl.F_RDLCK else "write", pid if pid > 0 else None


def pack_lock(kind: int, platform: str) -> bytes:
    """The kernel's ``struct flock`` for a lock of this kind on a whole file, as that platform lays it out."""
    if platform == "darwin":
        # off_t l_start, l_len; pid_t l_pid; short l_type, l_whence
        return struct.pack("qqihh", 0, 0, 0, kind, os.SEEK_SET)
    # short l_type, l_whence; off_t l_start, l_len; pid_t l_pid
    return struct.pack("hhqqi0q", kind, os.SEEK_SET, 0, 0, 0)


def unpack_lock(record: bytes, platform: str) -> tuple[int, int]:
    """The kind of lock in such a record, and the process that holds it."""
    if platform == "darwin":
        _, _, pid, kind, _ = struct.unpack("qqihh", record)
    else:
        kind, _, _, _, pid = struct.unpack("hhqqi0q", record)
    return kind, pid


def command_line(pid: int) -> str | None:
    """The command line of a process in one short printable line; ``None`` if it is gone or not ours to see."""
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        raw = _command_from_ps(pid) if sys.platform == "darwin" else b""
    text = raw.replace(b"\0", b" ").decode("utf-8", "replace").strip()
    text = "".join(character if character.isprintable() else "?" for character in text)
    if len(text) > _COMMAND_LENGTH:
        text = text[: _COMMAND_LENGTH - 1] + "…"
    return text or None


def _command_from_ps(pid: int) -> bytes:
    try:
        return subprocess.run(
            ["/bin/ps", "-o", "command=", "-p", str(pid)], capture_output=True, check=False, timeout=2
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return b""


class DatabaseLock:
    """The ``flock`` that an initialization holds from its second check to the marker.

    The kernel frees it when its holder dies; the file stays, and is never unlinked: whoever removed it would let a
    third process lock a new file of the same name. The holder's PID in it is for people, nothing reads it.

    ``path`` is absolute, and no link in it is followed. The lock belongs to the open file: two of these objects in one
    process exclude each other, and a forked child keeps the lock alive.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._descriptor: int | None = None

    @property
    def acquired(self) -> bool:
        """True while this object holds the lock."""
        return self._descriptor is not None

    def acquire(self, timeout: float = 0.0) -> bool:
        """Try to take the lock for ``timeout`` seconds; 0 answers at once. True if it is held now.

        Raises ``unsafe_path`` if something other than a regular file stands there, ``permission_denied`` and
        ``disk_full`` if the file cannot be made.
        """
        deadline = time.monotonic() + timeout
        attempts = 0
        while self._descriptor is None:
            self._descriptor = self._try()
            attempts += 1
            if self._descriptor is not None:
                break
            # held() takes a shared lock for an instant: one refusal does not prove that somebody is at work.
            if attempts < _PROBE_ATTEMPTS:
                time.sleep(_PROBE_PAUSE)
            elif time.monotonic() >= deadline:
                return False
            else:
                time.sleep(min(_WAIT_PAUSE, max(0.0, deadline - time.monotonic())))
        return True

    def release(self) -> None:
        """Give the lock back; nothing happens if it is not held."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def fileno(self) -> int:
        """The descriptor that holds the lock: a child that inherits it keeps the lock for as long as it lives."""
        if self._descriptor is None:
            raise ValueError(f"{self.path} is not locked")
        return self._descriptor

    def __enter__(self) -> Self:
        if not self.acquire():
            raise ConcurrentInitializationError(
                f"Another process initializes this database: it holds {self.path}", lock_file=self.path
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _try(self) -> int | None:
        descriptor = self._open()
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not self._is_current(descriptor):
                # Somebody replaced the file between our opening and our locking it: ours locks nothing.
                os.close(descriptor)
                return None
            self._sign(descriptor)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _open(self) -> int:
        with _as_initialization_error(self.path), client.open_folder(self.path.parent) as folder:
            for _ in range(_OPEN_ATTEMPTS):
                try:
                    descriptor = self._open_existing(folder)
                except FileNotFoundError:
                    try:
                        descriptor = self._create(folder)
                    except FileExistsError:
                        continue
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    os.close(descriptor)
                    raise _unsafe(self.path)
                return descriptor
        raise _unsafe(self.path)

    def _open_existing(self, folder: int) -> int:
        try:
            return os.open(self.path.name, os.O_RDWR | OPEN_SAFELY, dir_fd=folder)
        except PermissionError:
            # A reader can hold a flock too, where the group may not write.
            return os.open(self.path.name, os.O_RDONLY | OPEN_SAFELY, dir_fd=folder)

    def _create(self, folder: int) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | OPEN_SAFELY
        descriptor = os.open(self.path.name, flags, 0o600, dir_fd=folder)
        around = os.stat(".", dir_fd=folder)
        with contextlib.suppress(OSError):
            # Whoever may work in the folder may take its locks, whatever this process' umask says.
            os.fchown(descriptor, -1, around.st_gid)
        with contextlib.suppress(OSError):
            os.fchmod(descriptor, 0o666 & stat.S_IMODE(around.st_mode))
        return descriptor

    def _is_current(self, descriptor: int) -> bool:
        try:
            with client.open_folder(self.path.parent) as folder:
                there = os.stat(self.path.name, dir_fd=folder, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return os.path.samestat(there, os.fstat(descriptor))

    @staticmethod
    def _sign(descriptor: int) -> None:
        if os.fstat(descriptor).st_nlink != 1:
            return  # it may be a file of somebody else's, under this name too
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)


def _unsafe(path: Path) -> InitializationError:
    return InitializationError(
        f"{path} is not a regular file, so it cannot serve as a lock", code="unsafe_path", path=path
    )


@contextlib.contextmanager
def _as_initialization_error(path: Path) -> Iterator[None]:
    """What opening a lock file can meet, in the project's words."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK, errno.EISDIR, errno.ENXIO, errno.ENOTDIR):
            raise _unsafe(path) from error
        raise from_os_error(error, path, "open") from error
