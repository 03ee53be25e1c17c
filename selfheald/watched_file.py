"""A database file while it is looked at: proof that what was read is what it holds.

WARNING: it opens the file. See :func:`selfheald.locks.holder` for the processes that must not.
"""

from __future__ import annotations

import contextlib
import math
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from selfheald.client import OPEN_SAFELY, open_folder
from selfheald.file_header import not_regular
from selfheald.locks import Holder, holder_of

#: What DuckDB keeps beside a database; the last two since 2.0.
WAL_SUFFIXES = (".wal", ".wal.checkpoint", ".wal.recovery")

#: An mtime that is at least so many seconds old proves that nobody wrote meanwhile, whoever holds a lock.
QUIET_SECONDS = 1.0
#: Longer than a tick of any file system that counts finer than seconds (ext4 and xfs 1 to 10 ms, exFAT 10 ms).
TICK_SECONDS = 0.020
#: Longer than a tick of those that count seconds (ext3: 1 s, FAT: 2 s).
COARSE_TICK_SECONDS = 2.050

_Stats = tuple[os.stat_result | None, ...]


@dataclass(slots=True)
class Watched:
    """A database file while it is looked at: open for reading, if there is one, with what it was at the beginning.

    ``seen`` are the stats of the database and of its WALs. ``holder`` is who else holds a lock, as last seen.
    """

    path: Path
    folder: int
    descriptor: int | None
    seen: _Stats
    opened_at: float
    holder: Holder | None = None
    written_beside: bool = False

    @property
    def database(self) -> os.stat_result | None:
        return self.seen[0]

    @property
    def size(self) -> int:
        return 0 if self.database is None else self.database.st_size

    def held_still(self) -> bool:
        """True if the very file is there that is open, and neither it nor a WAL has changed since the beginning."""
        if self.descriptor is not None:
            now = os.fstat(self.descriptor)
            if self.database is None or _facts(now) != _facts(self.database):
                return False
        return list(map(_facts, _stats(self.path.name, self.folder))) == list(map(_facts, self.seen))

    def ask_holder(self) -> None:
        """Look who holds a lock; a writer is remembered."""
        if self.descriptor is not None:
            self.holder = holder_of(self.descriptor) or (self.holder if self.written_beside else None)
            self.written_beside |= self.holder is not None and self.holder.mode == "write"

    def certain(self) -> bool:
        """True if what was read since the beginning is what the files hold.

        That they held still proves it only if another write would have given them other stamps, and if nobody had a
        write lock, before and after: who has one may have set the stamps already and write only now. After a second of
        quiet nobody does.
        """
        self.ask_holder()
        age, tick = self.age(), self.tick()
        # A stamp of the future, of another host's clock perhaps, differs from any of now but tells of no quiet.
        quiet = age >= max(QUIET_SECONDS, tick) or (abs(age) >= tick and not self.written_beside)
        return self.held_still() and quiet

    def age(self) -> float:
        """Seconds since the newest of the files was written; infinite if there are none."""
        return self.opened_at - max((found.st_mtime for found in self.seen if found is not None), default=-math.inf)

    def tick(self) -> float:
        """Seconds in which two writes may leave the same stamps."""
        stamps = (stamp for found in self.seen if found is not None for stamp in (found.st_mtime_ns, found.st_ctime_ns))
        return TICK_SECONDS if any(stamp % 1_000_000_000 for stamp in stamps) else COARSE_TICK_SECONDS

    def let_a_tick_pass(self) -> None:
        """Wait until what is seen tells of every later write, if that takes but a moment and nobody writes now."""
        young = TICK_SECONDS - abs(self.age())
        if young > 0 and not self.written_beside and self.tick() == TICK_SECONDS:
            time.sleep(young)
            self.look()

    def look(self) -> None:
        """The beginning: first the stamps, then the locks."""
        self.opened_at = time.time()
        self.seen = _stats(self.path.name, self.folder)
        self.ask_holder()


@contextlib.contextmanager
def watch_database(path: Path) -> Iterator[Watched]:
    """Open the database at ``path`` for looking at it; ``descriptor`` is ``None`` unless it is a regular file.

    No link in its path is followed.
    """
    descriptor: int | None = None
    with open_folder(path.parent) as folder:
        try:
            opened_at = time.time()
            seen = _stats(path.name, folder)
            if seen[0] is not None and not_regular(seen[0], path) is None:
                descriptor = os.open(path.name, os.O_RDONLY | OPEN_SAFELY, dir_fd=folder)
            watched = Watched(path, folder, descriptor, seen, opened_at)
            watched.ask_holder()
            watched.let_a_tick_pass()
            yield watched
        finally:
            if descriptor is not None:
                os.close(descriptor)


def _stats(name: str, folder: int) -> _Stats:
    """The database and its WALs; what is not there is ``None``. Links are not followed."""
    found: list[os.stat_result | None] = []
    for suffix in ("", *WAL_SUFFIXES):
        try:
            found.append(os.stat(name + suffix, dir_fd=folder, follow_symlinks=False))
        except FileNotFoundError:
            found.append(None)
    return tuple(found)


def _facts(found: os.stat_result | None) -> tuple[int, ...] | None:
    """What changes when a file is written or replaced."""
    if found is None:
        return None
    return (
        found.st_dev, found.st_ino, stat.S_IFMT(found.st_mode), found.st_size, found.st_mtime_ns, found.st_ctime_ns,
    )  # fmt: skip
