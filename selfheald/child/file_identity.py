"""Which file a database is, by ``stat`` alone.

Nothing here opens the database: closing any descriptor of it would drop the lock that this process's DuckDB holds.
"""

from __future__ import annotations

import os
import stat
import time
from typing import Any, Mapping, NamedTuple, Optional, Tuple

from placing.file_dance import WAL_SUFFIXES

#: Device, inode, size, mtime and ctime, the last two in ns.
Stamp = Tuple[int, int, int, int, int]

#: A process that does one job has no more descriptors than that.
_DESCRIPTORS = 1024
_MS = 1_000_000
#: Longer than a tick of any file system that counts finer than seconds (ext4 and xfs 1 to 10 ms, exFAT 10 ms).
_TICK_NS = 20 * _MS
#: Longer than a tick of those that count seconds (FAT: 2 s).
_COARSE_TICK_NS = 2_050 * _MS


class Identity(NamedTuple):
    """The main file and its WAL family, as they were at one moment. ``None``: not there."""

    main: Optional[Stamp]
    wal: Optional[Stamp]
    checkpoint_wal: Optional[Stamp]
    recovery_wal: Optional[Stamp]

    @classmethod
    def of(cls, database: str) -> Identity:
        """Look at the files. Links are not followed."""
        return cls(stamp(database), *(stamp(database + suffix) for suffix in WAL_SUFFIXES))

    def is_what(self, record: Optional[Mapping[str, Any]]) -> bool:
        """True if the main file and the WAL are those of an identity record (a marker's ``database``)."""
        if record is None or self.main is None:
            return False
        keys = ("device", "inode", "size", "mtime_ns", "ctime_ns")
        return self.main == tuple(record[key] for key in keys) and self._is_wal(record.get("wal"))

    def _is_wal(self, record: Optional[Mapping[str, Any]]) -> bool:
        if record is None or self.wal is None:
            return record is None and self.wal is None
        return self.wal[2:] == tuple(record[key] for key in ("size", "mtime_ns", "ctime_ns"))

    def written_at(self) -> int:
        """When the newest of the files was written, by the file system's clock (ns)."""
        return max(time for entry in self if entry is not None for time in entry[3:])


def stamp(path: str) -> Optional[Stamp]:
    """What ``lstat`` says of a regular file; ``None`` if there is none."""
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def wait_for_a_tick(seen: Identity, clock: str) -> None:
    """Wait until any later write must give the files another time stamp than those in ``seen``.

    A write within the same tick of the file system's clock as the one before it leaves the same mtime, and cannot be
    seen by comparing. The clock is asked of the file system itself, by touching the file ``clock`` on it: a server's
    may differ from ours. A stamp in the future needs no wait, since no write of now can give it.
    """
    whole_seconds = all(time % 1_000_000_000 == 0 for e in seen if e is not None for time in e[3:])
    tick = _COARSE_TICK_NS if whole_seconds else _TICK_NS
    deadline = time.monotonic_ns() + 2 * tick
    while time.monotonic_ns() < deadline:
        age = _now_on(clock) - seen.written_at()
        if age >= tick or age < 0:
            return
        time.sleep((tick - age) / 1e9)


def _now_on(clock: str) -> int:
    descriptor = os.open(clock, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.utime(descriptor)
        return os.fstat(descriptor).st_mtime_ns
    finally:
        os.close(descriptor)


def open_here(main: Stamp) -> Optional[int]:
    """A descriptor by which this process has the very file open; found without opening or closing the file."""
    for descriptor in range(_DESCRIPTORS):
        try:
            status = os.fstat(descriptor)
        except OSError:
            continue
        if (status.st_dev, status.st_ino) == main[:2]:
            return descriptor
    return None
