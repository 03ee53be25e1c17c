"""Reads databases for the daemon: in its worker threads, and what may crash or block those, in a process apart.

A file can kill or block whoever reads it: one whose types are nested 100,000 deep overflows DuckDB's stack, one that
promises a text of 4 GB is waited for. So each check has a time limit. A thread cannot be killed: one that is late is
abandoned, and its file is read in a child from then on, which can be. A file that crashed a daemon is known from its
notes (:mod:`selfheald.crash_guard`) and read in a child too.
"""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import anyio

from selfheald.catalog import Reading
from selfheald.client import file_identity
from selfheald.crash_guard import CrashGuard, Identity
from selfheald.errors import InitializationError
from selfheald.log import event_log
from selfheald.table_checker import read_database, read_in_child
from selfheald.threads import run_in_thread

#: Seconds that a check may take in a thread; most take 0.003.
THREAD_SECONDS = 10.0
#: Seconds that it may take in a child.
CHILD_SECONDS = 20.0
#: Children at once.
CHILDREN = 3
#: Threads that may be lost to files that block them. When so many are, all is read in children.
MOST_LOST = 2


@dataclass(slots=True, eq=False)
class _Check:
    """One reading in a thread."""

    path: Path
    identity: Identity
    ended: bool = False


class GuardedReader:
    """What a file holds, whatever it does to its reader. Made inside an event loop."""

    def __init__(self, guard: CrashGuard, threads: anyio.CapacityLimiter) -> None:
        self._guard = guard
        self._threads = threads
        self._uncounted = anyio.CapacityLimiter(math.inf)
        self._children = anyio.CapacityLimiter(CHILDREN)
        self._late: list[_Check] = []
        self._verdicts: dict[Path, Reading] = {}

    @property
    def lost(self) -> int:
        """The threads that are blocked by a file now."""
        self._late = [check for check in self._late if not check.ended]
        return len(self._late)

    def forgive(self, path: Path) -> None:
        """Somebody asks for this file: what crashed its reader once is tried again, in a child."""
        self._verdicts.pop(path, None)

    async def read(self, path: Path) -> Reading:
        """What the file holds now. Never raises for what a file can be.

        A file that crashes its reader, or blocks it for too long, has the error ``check_crashed``; it is remembered,
        and not read again while it stays as it is.
        """
        identity = file_identity(path)
        verdict = self._verdicts.get(path)
        if verdict is not None and verdict.identity == identity:
            return replace(verdict, duration_seconds=0.0, read_at=time.time())
        self._verdicts.pop(path, None)
        if self._guard.is_suspect(path):
            # Suspects take no more than their share of the checks under way: the others go on beside them.
            if self._children.borrowed_tokens >= CHILDREN:
                return _not_yet(path, identity)
            return await self._read_apart(path)
        if self.lost >= MOST_LOST:
            return await self._read_apart(path)
        async with self._threads:
            check = _Check(path, file_identity(path))
            with anyio.move_on_after(THREAD_SECONDS):
                # Where it is abandoned, another thread takes its place: only we count them.
                read = partial(self._read_noted, check)
                return await run_in_thread(read, abandon_on_cancel=True, limiter=self._uncounted)
            self._late.append(check)
        self._guard.suspect(path, check.identity)
        event_log(
            "check_overdue",
            f"not read after {THREAD_SECONDS:g} s: it is read in a process apart from now on",
            "WARNING",
            database=str(path),
        )
        return await self._read_apart(path)

    def _read_noted(self, check: _Check) -> Reading:
        try:
            with self._guard.noted(check.path, check.identity):
                return read_database(check.path)
        finally:
            check.ended = True

    async def _read_apart(self, path: Path) -> Reading:
        stop = threading.Event()
        try:
            read = partial(read_in_child, path, CHILD_SECONDS, stop)
            reading = await run_in_thread(read, abandon_on_cancel=True, limiter=self._children)
        finally:
            stop.set()
        if reading.error is not None and reading.error.code == "check_crashed" and reading.certain:
            self._guard.suspect(path, reading.identity)
            self._verdicts[path] = reading
        elif reading.certain:
            self._guard.was_read(path, reading.identity)
        return reading


def _not_yet(path: Path, identity: Identity) -> Reading:
    """A reading that counts for nothing: look again soon."""
    error = InitializationError(f"{path} waits for its turn to be read apart", code="interrupted", path=path)
    return Reading(
        identity=identity, exists=identity is not None, empty=False, relations=(), certain=False, holder=None,
        error=error, duration_seconds=0.0, read_at=time.time(),
    )  # fmt: skip
