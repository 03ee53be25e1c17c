"""Sees what happens in the roots: keeps one watch over all of them alive, and scans, since events are but hints."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Protocol

import anyio
import anyio.abc
import anyio.lowlevel

from selfheald import watch
from selfheald.config import Config
from selfheald.errors import InitializationError
from selfheald.log import event_log
from selfheald.threads import run_in_thread
from selfheald.watch import Hints, Scan, Watcher

#: Seconds within which a new watch must have proved itself, and one that has run for long.
PROOF_SECONDS = 5.0
#: Seconds before a watch that ended is made again: doubled from the first to the second.
WATCH_PAUSE_SECONDS = (0.5, 30.0)

#: A database to look at, and whether to wait first until it is quiet.
OnDatabase = Callable[[Path, bool], None]
#: So many databases are told of before anything else gets its turn.
AT_A_STRETCH = 100


class Known(Protocol):
    """What is known of the databases already. One is settled if nothing is left to do about it unless it changes."""

    def settled(self) -> Collection[Path]:
        """Those that were settled when they were last looked at."""

    def was_settled(self, path: Path) -> bool:
        """True if it was settled when it was last looked at."""

    def is_settled(self, path: Path) -> bool:
        """True if it still looks as it did then. Asked in a worker thread."""


class Lookout:
    """Tells ``on_database`` of each database that may have changed, or that nobody has looked at yet.

    ``known`` tells what needs no look; ``on_state`` is called when :attr:`state` changes, ``before_watch`` before a
    watch is made; ``threads`` limits the worker threads of scans.
    """

    def __init__(
        self,
        config: Config,
        roots: Sequence[Path],
        threads: anyio.CapacityLimiter,
        *,
        on_database: OnDatabase,
        known: Known,
        on_state: Callable[[], None],
        before_watch: Callable[[], None],
    ) -> None:
        self.config = config
        self.roots = list(roots)
        self.exclude = frozenset(config.watch.exclude)
        #: ``native``, ``polling``, or ``degraded``: then the scan alone tells what happens.
        self.state = "degraded"
        self._threads = threads
        self._on_database = on_database
        self._known = known
        self._on_state = on_state
        self._before_watch = before_watch
        self._watcher: Watcher | None = None
        self._watch_scope = anyio.CancelScope()
        self._unreadable: set[Path] = set()

    def root_of(self, path: Path) -> Path | None:
        """The root in which ``path`` is looked after; ``None`` if it is passed over or ignored."""
        root = next((root for root in self.roots if watch.is_watched(path, [root], self.exclude)), None)
        return None if root is None or watch.is_ignored(path.parent, root) else root

    async def keep_watch(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Keep one watch over all roots alive; ``started`` once it stands, or is known not to."""
        pause, first = WATCH_PAUSE_SECONDS[0], True
        while True:
            began = anyio.current_time()
            self._before_watch()
            roots = [root for root in self.roots if root.is_dir()]
            watcher = Watcher(roots, self.config.watch.database, self.exclude, polling=self._must_poll())
            try:
                async with anyio.create_task_group() as group:
                    self._watch_scope = group.cancel_scope
                    group.start_soon(watcher.stop_when_cancelled)
                    group.start_soon(self._follow, watcher)
                    dead = await watcher.prove(PROOF_SECONDS)
                    self._watcher = watcher
                    sound = not dead and len(roots) == len(self.roots)
                    self._set_watcher("polling" if watcher.polling else "native", sound=sound)
                    if first:
                        task_status.started()
                        first = False
                    else:
                        await self.scan(self.roots)
                reason = "it was ended to be made again"
            except Exception as error:  # noqa: BLE001 - whatever it was: the watch is made again, and a scan makes up for it
                reason = str(only_error(error))
            self._watcher = None
            self._set_watcher("degraded", sound=False)
            event_log("watch_ended", f"the watch ended ({reason}); it is made again", "WARNING")
            with suppress(InitializationError):  # no thread could be started: the next scan makes up for it
                await self.scan(self.roots)
            if first:
                task_status.started()
                first = False
            if anyio.current_time() - began > 60:
                pause = WATCH_PAUSE_SECONDS[0]
            await anyio.sleep(pause)
            pause = min(pause * 2, WATCH_PAUSE_SECONDS[1])

    async def _follow(self, watcher: Watcher) -> None:
        async for hints in watcher.hints():
            await self._take(hints)
        await anyio.lowlevel.checkpoint()  # told to stop: no failure
        raise RuntimeError("no more events")

    async def _take(self, hints: Hints) -> None:
        for path in hints.databases:
            self._on_database(path, True)
        if hints.folders:
            await self.scan(hints.folders)

    def _must_poll(self) -> bool:
        if self.config.watch.mode == "auto":
            remote = watch.must_poll(self.roots)
            if remote is not None:
                event_log("watch_polling", f"{remote} is on a network file system: polling")
            return remote is not None
        return self.config.watch.mode == "polling"

    def _set_watcher(self, state: str, *, sound: bool) -> None:
        state = state if sound else "degraded"
        if state != self.state:
            self.state = state
            self._on_state()

    async def rescan(self) -> None:
        """Scan all roots, whatever events were lost, and prove that the watch lives: else it is made again."""
        await self.scan(self.roots)
        watcher = self._watcher
        if watcher is None:
            return
        there = [root for root in self.roots if root.is_dir()]
        if watcher.is_stale() or watcher.roots != there or await watcher.prove(PROOF_SECONDS):
            self._watch_scope.cancel()

    async def scan(self, folders: Collection[Path]) -> Scan:
        """Walk the folders, and look at what is new or not as it was when it was settled."""
        look = partial(watch.scan, list(folders), self.config.watch.database, self.exclude)
        found = await run_in_thread(look, limiter=self._threads)
        for folder in set(found.unreadable) - self._unreadable:
            self._unreadable.add(folder)
            event_log("folder_unreadable", f"cannot read {folder}: what is in it is not watched", "WARNING")

        def changed() -> list[Path]:
            return [path for path in found.databases if not self._known.is_settled(path)]

        for number, path in enumerate(await run_in_thread(changed, limiter=self._threads)):
            self._on_database(path, self._known.was_settled(path))
            if number % AT_A_STRETCH == 0:
                await anyio.lowlevel.checkpoint()
        for path in found.requested:
            self._on_database(path, False)
        if list(folders) == self.roots:
            for path in self._known.settled():
                if path not in found.databases:
                    self._on_database(path, False)
        return found


def only_error(error: BaseException) -> BaseException:
    """What is inside of groups that hold just one error."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
