"""Sees what happens in the roots: keeps a watch over all of them alive, and scans, since events are but hints.

While events can be had, a scan every ``watch.rescan`` seconds finds what they did not tell; where it finds that they
were lost, the watch is made anew. While none can be had, the scan itself does the watching: often, but so that it
takes a small share of the time at most.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import anyio
import anyio.abc
import anyio.lowlevel

from selfheald.config import Config
from selfheald.errors import InitializationError
from selfheald.figures import Figures
from selfheald.log import event_log
from selfheald.mounts import is_remote
from selfheald.scan import Scan, is_ignored, is_watched, scan
from selfheald.sight import Sight
from selfheald.threads import run_in_thread
from selfheald.watch import (
    DEBOUNCE_MS,
    Hints,
    RootGoneError,
    UnreadableNameError,
    Watcher,
    WatchLimitError,
    folder_identity,
    only_error,
    topmost,
)
from selfheald.workspace import is_reachable

#: Seconds within which a new watch must have proved itself, and one that has run for long.
PROOF_SECONDS = 5.0
#: Seconds before a watch that ended is made again: doubled from the first to the second, reset once one has lasted.
WATCH_PAUSE_SECONDS = (0.5, 30.0)
LASTING_SECONDS = 60.0
#: Seconds between two looks where there are no events; and how many times as long as a look they are at least.
LOOK_SECONDS, LOOK_SHARE = 1.0, 20
#: Seconds for which no event is awaited in a folder once a name in it was seen, or told, that is not UTF-8.
BLIND_SECONDS = 600.0

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

    def is_settled(self, path: Path, seen: Sight) -> bool:
        """True if it was settled, and looked then as it is ``seen`` now."""


class Lookout:
    """Tells ``on_database`` of each database that may have changed, or that nobody has looked at yet.

    ``known`` tells what needs no look; ``on_state`` is called when :attr:`state` changes, ``before_watch`` before a
    watch is made; ``threads`` limits the worker threads of scans; scans are counted in ``figures``.
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
        figures: Figures | None = None,
    ) -> None:
        self.config = config
        self.roots = list(roots)
        self.exclude = frozenset(config.watch.exclude)
        #: ``native``: events tell of everything; ``polling``: a scan does, often; ``degraded``: part of the roots is
        #: gone, or is without events though they are wanted.
        self.state = "degraded"
        self._threads = threads
        self._on_database = on_database
        self._known = known
        self._on_state = on_state
        self._before_watch = before_watch
        self._figures = figures or Figures()
        self._watcher: Watcher | None = None
        self._watch_scope = anyio.CancelScope()
        self._sound = False
        self._trouble: str | None = None
        self._one_scan = anyio.Lock()
        self._unreadable: set[Path] = set()
        #: How each database looked, behind its request.
        self._sights: dict[Path, Sight] = {}
        self._blind: dict[str, float] = {}

    def root_of(self, path: Path) -> Path | None:
        """The root in which ``path`` is looked after; ``None`` if it is passed over or ignored."""
        root = next((root for root in self.roots if is_watched(path, [root], self.exclude)), None)
        return None if root is None or is_ignored(path.parent, root) else root

    async def keep_watch(self, *, task_status: anyio.abc.TaskStatus[Scan]) -> None:
        """Keep a watch over all roots alive; ``started``, with a scan of all, once it stands or is known not to."""
        pause, told = WATCH_PAUSE_SECONDS[0], False

        def started(found: Scan) -> None:
            nonlocal told
            if not told:
                told = True
                task_status.started(found)

        while True:
            began = anyio.current_time()
            self._before_watch()
            only_poll = self._must_poll()
            if not only_poll:
                self._tell_trouble(await self._watch_natively(started))
                if anyio.current_time() - began > LASTING_SECONDS:
                    pause = WATCH_PAUSE_SECONDS[0]
            found = Scan()
            with suppress(InitializationError):  # no thread could be started: the next scan makes up for it
                found = await self.scan(self.roots)
            self._set_state()
            started(found)
            await self._poll(float("inf") if only_poll else pause)
            pause = min(pause * 2, WATCH_PAUSE_SECONDS[1])

    async def _watch_natively(self, started: Callable[[Scan], None]) -> BaseException:
        """Follow events until the watch ends, and return what it ended with."""
        try:
            roots = self._roots_there()
            watcher = Watcher(roots, self.config.watch.database, self.exclude)
            async with anyio.create_task_group() as group:
                self._watch_scope = group.cancel_scope
                async with self._one_scan:
                    found = await self._look(self.roots)
                await watcher.watch(group, found.watchable - self._blind.keys())
                dead = await watcher.prove(PROOF_SECONDS)
                self._watcher, self._sound = watcher, not dead and roots == self.roots
                found = await self.scan(self.roots)
                await self._watch_further(found)
                self._set_state()
                if self._trouble is not None:
                    self._trouble = None
                    event_log("watch_restored", "events come again: watching natively")
                started(found)
                group.start_soon(self._see_roots_go_and_come, watcher)
                group.start_soon(self._look_where_no_events_come)
                while True:
                    await self._take(await watcher.hints())
            return RuntimeError("it missed something")
        except Exception as error:  # noqa: BLE001 - whatever it was: the watch is made again, and a scan makes up for it
            return only_error(error)
        finally:
            self._watcher, self._sound = None, False

    def _tell_trouble(self, trouble: BaseException) -> None:
        """Once in the log, however often a new watch ends with the same."""
        if isinstance(trouble, UnreadableNameError) and trouble.folder is not None:
            self._blind[trouble.folder] = anyio.current_time()
        what = f"the watch ended ({trouble}); "
        if isinstance(trouble, WatchLimitError):
            what += "until there are enough, the folders are scanned instead"
        elif isinstance(trouble, UnreadableNameError):
            what += "such a folder is scanned instead"
        else:
            what += "it is made again"
        self._figures.watches_ended += 1
        if self._trouble != what:
            self._trouble = what
            event_log("watch_limit" if isinstance(trouble, WatchLimitError) else "watch_ended", what, "WARNING")

    async def _take(self, hints: Hints) -> None:
        for path in hints.databases:
            self._on_database(path, True)
        if hints.folders or hints.added:
            found = await self.scan(topmost(hints.folders | hints.added))
            # Another folder may have come to the path of one that is watched.
            places = _prefixes(hints.added)
            anew = {folder for folder in found.watchable if f"{folder}/".startswith(places)}
            await self._watch_further(found, anew)

    async def _watch_further(self, found: Scan, anew: Set[str] = frozenset()) -> None:
        """Watch the folders that a scan found, and look at them once more: until then no event told of them."""
        watcher = self._watcher
        while watcher is not None:
            unreadable = set(map(str, self._unreadable))
            new = ((found.watchable | found.below) - watcher.folders | anew) - self._blind.keys() - unreadable
            if not new:
                break
            found, anew = await self._look_for_changes(await watcher.add(new), deep=False), frozenset()
        self._set_state()

    async def _see_roots_go_and_come(self, watcher: Watcher) -> None:
        """No event tells that a root is moved, unmounted or back: look."""
        while True:
            await anyio.sleep(LOOK_SECONDS)
            if watcher.is_stale() or watcher.roots != self._roots_there():
                raise RootGoneError("a root was moved, deleted or replaced, or has come")

    async def _look_where_no_events_come(self) -> None:
        """Look often at folders for which events cannot be had, while they can for all others."""
        while True:
            began = anyio.current_time()
            if self._blind:
                await self._watch_further(await self._look_for_changes(self._blind.keys(), deep=False))
            await anyio.sleep(pause_after(anyio.current_time() - began))

    async def _poll(self, seconds: float) -> None:
        """Look often at everything, until ``seconds`` are over or a root has gone or come."""
        end, before = anyio.current_time() + seconds, self._identities()
        while (began := anyio.current_time()) < end and self._identities() == before:
            with suppress(InitializationError):  # no thread could be started
                await self._look_for_changes(self.roots)
            await anyio.sleep(min(pause_after(anyio.current_time() - began), max(0.0, end - anyio.current_time())))

    async def _look_for_changes(self, folders: Collection[str | Path], *, deep: bool = True) -> Scan:
        """As an event would, tell of each database that does not look as it did."""
        async with self._one_scan:
            before = self._sights.copy()
            found = await self._look(folders, deep=deep)
            changed = set(_changed(before, self._sights))
        # A marker may have come and gone between two looks at it, which then are alike.
        for path in changed.union(path for path in self._unsettled(found) if self._known.was_settled(path)):
            self._on_database(path, True)
        return found

    def _unsettled(self, found: Scan) -> list[Path]:
        """Those of the databases found that are new, or not as they were when nothing was left to do about them."""
        there = ((path, self._sights.get(path)) for path in found.databases)
        return [path for path, seen in there if seen is None or not self._known.is_settled(path, seen[1:])]

    def _must_poll(self) -> bool:
        if self.config.watch.mode == "auto":
            remote = next(filter(is_remote, self.roots), None)
            if remote is not None:
                event_log("watch_polling", f"{remote} is on a network file system: polling")
            return remote is not None
        return self.config.watch.mode == "polling"

    def _set_state(self) -> None:
        if self._watcher is not None:
            state = "native" if self._sound and not self._blind else "degraded"
        elif self.config.watch.mode != "native" and self._roots_there() == self.roots:
            state = "polling"
        else:
            state = "degraded"
        if state != self.state:
            self.state = state
            self._on_state()

    async def rescan(self) -> None:
        """Scan all roots, whatever events were lost, and prove that the watch lives: else it is made again."""
        watcher = self._watcher
        told, before = set[Path](), self._sights.copy()
        if watcher is not None:
            told, watcher.told = watcher.told, set()
        found = await self.scan(self.roots)
        if watcher is None or watcher is not self._watcher:
            self._figures.rescanned("nothing_missed")
            return
        after = self._sights.copy()
        changed = [
            path
            for path in _changed(before, after)
            if _without_marker(before, path) != _without_marker(after, path) and str(path.parent) not in self._blind
        ]
        await self._watch_further(found)
        proven = watcher.roots == self._roots_there() and not await watcher.prove(PROOF_SECONDS)
        if changed:
            await anyio.sleep(DEBOUNCE_MS / 1000)  # what a second watch holds back is not lost
        told |= watcher.told
        lost = [path for path in changed if told.isdisjoint([path, *path.parents])]
        self._figures.rescanned("events_missed" if lost else "nothing_missed", len(lost))
        if lost:
            event_log("events_lost", f"no event told of {len(lost)} databases, such as {lost[0]}", "WARNING")
        if lost or not proven:
            self._watch_scope.cancel()

    async def scan(self, folders: Iterable[Path]) -> Scan:
        """Walk the folders, and look at what is new or not as it was when it was settled."""
        folders = list(folders)
        async with self._one_scan:
            found = await self._look(folders)
        for number, path in enumerate(self._unsettled(found)):
            self._on_database(path, self._known.was_settled(path))
            if number % AT_A_STRETCH == 0:
                await anyio.lowlevel.checkpoint()
        for path in found.requested:
            self._on_database(path, False)
        if folders == self.roots:
            for path in self._known.settled():
                if path not in found.databases and not str(path).startswith(_prefixes(found.unreadable)):
                    self._on_database(path, False)
        return found

    async def _look(self, folders: Collection[str | Path], *, deep: bool = True) -> Scan:
        """Walk the folders, and remember what is unreadable, what is blind, and how each database looks."""

        def walk() -> tuple[Scan, dict[Path, Sight]]:
            found = scan(folders, self.config.watch.database, self.exclude, deep=deep)
            return found, found.sights()

        began = anyio.current_time()
        found, sights = await run_in_thread(walk, limiter=self._threads)
        everything, now = folders == self.roots, anyio.current_time()
        if everything:
            self._figures.scanned(now - began)
        places, closed = _prefixes(folders), _prefixes(found.unreadable)
        for path in list(self._sights):
            if str(path).startswith(closed):
                continue  # whatever has become of it, nothing can be done about it
            if everything or (str(path).startswith(places) if deep else str(path.parent) in folders):
                del self._sights[path]
        self._sights |= sights
        if everything:
            self._blind = {folder: seen for folder, seen in self._blind.items() if now - seen < BLIND_SECONDS}
        self._blind |= dict.fromkeys(found.blind, now)
        self._tell_unreadable(found, everything=everything)
        return found

    def _tell_unreadable(self, found: Scan, *, everything: bool) -> None:
        for folder in set(found.unreadable) - self._unreadable:
            event_log("folder_unreadable", f"cannot read {folder}: what is in it is not watched", "WARNING")
        for folder in [each for each in self._unreadable if str(each) in found.watchable or str(each) in found.blind]:
            event_log("folder_readable", f"{folder} can be read again")
            self._unreadable.discard(folder)
        self._unreadable = set(found.unreadable) if everything else self._unreadable | set(found.unreadable)
        if self._watcher is not None:
            self._watcher.unreadable = self._unreadable

    def _roots_there(self) -> list[Path]:
        return [root for root in self.roots if is_reachable(root)]

    def _identities(self) -> list[tuple[int, int] | None]:
        return list(map(folder_identity, self.roots))


def pause_after(cost: float) -> float:
    """Seconds until the next look after one that took ``cost`` seconds."""
    return max(LOOK_SECONDS, LOOK_SHARE * cost)


def _changed(before: Mapping[Path, Sight], after: Mapping[Path, Sight]) -> list[Path]:
    return [path for path in before.keys() | after.keys() if before.get(path) != after.get(path)]


def _without_marker(sights: Mapping[Path, Sight], path: Path) -> Sight | None:
    seen = sights.get(path, ())[:-1]
    return seen if any(seen) else None


def _prefixes(folders: Iterable[str | Path]) -> tuple[str, ...]:
    """What the paths of all that lies in the folders begin with."""
    return tuple(f"{folder}/" for folder in folders)
