"""Sees what happens in the roots: keeps a watch over all of them alive, and scans, since events are but hints.

While events can be had, a scan every ``watch.rescan`` seconds finds what they did not tell; where it finds that they
were lost, the watch is made anew. While none can be had, the scan itself does the watching: often, but so that it
takes a small share of the time at most.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
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
from selfheald.mounts import MountTable, is_remote
from selfheald.scan import Scan, is_ignored, is_watched, scan
from selfheald.sight import Sight, Sights, same_database
from selfheald.threads import run_in_thread
from selfheald.watch import (
    EventsLostError,
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

#: A scan of everything takes at most this share of a core while events tell of everything, but comes after so many
#: seconds at the latest: what it could find was told by no event though the kernel lost none.
SCAN_SHARE, SCAN_SECONDS = 0.001, 900.0

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
        self._sights = Sights()
        self._blind: dict[str, float] = {}
        self._came_blind = anyio.Event()
        #: When the last scan of everything ended, and the seconds of a core that it took.
        self._scanned_at, self._cost = float("-inf"), 0.0

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
            with MountTable(roots) as mounted:
                async with anyio.create_task_group() as group:
                    self._watch_scope = group.cancel_scope
                    await watcher.watch(group)
                    found, _ = await self._look(self.roots, watcher)
                    dead = await watcher.prove(PROOF_SECONDS)
                    if watcher.is_whole:  # until it was proven, who knows
                        found, _ = await self._look(self.roots, watcher)
                    self._watcher, self._sound = watcher, not dead and roots == self.roots
                    watcher.unreadable = self._unreadable
                    await self._tell_of(found, everything=True)
                    self._set_state()
                    if self._trouble is not None:
                        self._trouble = None
                        event_log("watch_restored", "events come again: watching natively")
                    started(found)
                    group.start_soon(self._see_roots_go_and_come, watcher, mounted)
                    group.start_soon(self._look_where_no_events_come, watcher)
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
        if isinstance(trouble, EventsLostError):
            event_log("events_lost", f"{trouble}: looking at everything", "WARNING")
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
            self._tell_if_ours(path, quiet=True)
        if hints.folders or hints.added:
            await self.scan(topmost(hints.folders | hints.added))
            self._set_state()

    async def _see_roots_go_and_come(self, watcher: Watcher, mounted: MountTable) -> None:
        """No event tells that a root is moved, unmounted or back, or hidden in part: look."""
        while True:
            await anyio.sleep(LOOK_SECONDS)
            if watcher.is_stale() or watcher.roots != self._roots_there():
                raise RootGoneError("a root was moved, deleted or replaced, or has come")
            if mounted.has_changed():
                raise EventsLostError("something was mounted or unmounted in a root")

    async def _look_where_no_events_come(self, watcher: Watcher) -> None:
        """Look often at folders for which events cannot be had, while they can for all others."""
        while True:
            if not self._blind:
                self._came_blind = anyio.Event()
                await self._came_blind.wait()
            began = anyio.current_time()
            found = await self._look_for_changes(self._blind.keys(), deep=False)
            # A folder that has come is told of by nobody; the next one in it by events.
            further = found.below - watcher.followed() - self._blind.keys() - set(map(str, self._unreadable))
            if further and not watcher.is_whole:
                await self.scan(map(Path, further))
            self._set_state()
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
        found, changed = await self._look(folders, self._watcher, deep=deep)
        # A marker may have come and gone between two looks at it, which then are alike.
        unsettled = (path for path in self._unsettled(found) if self._known.was_settled(path))
        for path in changed.keys() | set(unsettled):
            self._tell_if_ours(path, quiet=True)
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

    async def rescan(self) -> bool:
        """Scan all roots, whatever events were lost, and prove that the watch lives: else it is made again.

        False if it was too soon for a scan, so that nothing but the proof was done.
        """
        watcher, watch = self._watcher, self.config.watch
        # What macOS has lost it does not say.
        says_so = watcher is not None and not watcher.is_whole
        is_told = says_so and self.state == "native" and "rescan" not in watch.model_fields_set
        if not is_due(anyio.current_time() - self._scanned_at, watch.rescan, self._cost, is_told=is_told):
            await self._prove(watcher, (), set())
            return False
        told = set[Path]()
        if watcher is not None:
            told, watcher.told = watcher.told, set()
        found, before = await self._look(self.roots, watcher)
        await self._tell_of(found, everything=True)
        changed = [
            path
            for path, earlier in before.items()
            if not same_database(earlier, found.sights.get(path, ())) and str(path.parent) not in self._blind
        ]
        lost: Collection[Path] = ()
        if watcher is not None and watcher is self._watcher:
            self._set_state()
            lost = await self._prove(watcher, changed, told)
        self._figures.rescanned("events_missed" if lost else "nothing_missed", len(lost))
        return True

    async def _prove(self, watcher: Watcher | None, changed: Collection[Path], told: set[Path]) -> Collection[Path]:
        """Have the watch made again if it is dead, or what has changed was not ``told``, nor is until then: what."""
        if watcher is None:
            return ()
        proven = watcher.roots == self._roots_there() and not await watcher.prove(PROOF_SECONDS)
        if changed:
            await watcher.catch_up()
        told |= watcher.told
        lost = [path for path in changed if told.isdisjoint([path, *path.parents])]
        if lost:
            event_log("events_lost", f"no event told of {len(lost)} databases, such as {lost[0]}", "WARNING")
        if lost or not proven:
            self._watch_scope.cancel()
        return lost

    async def scan(self, folders: Iterable[Path]) -> Scan:
        """Walk the folders, and look at what is new or not as it was when it was settled."""
        folders = list(folders)
        found, _ = await self._look(folders, self._watcher)
        await self._tell_of(found, everything=folders == self.roots)
        return found

    async def _tell_of(self, found: Scan, *, everything: bool) -> None:
        """Have those looked at that a scan has found, or found gone."""
        for number, path in enumerate(self._unsettled(found)):
            self._on_database(path, self._known.was_settled(path))
            if number % AT_A_STRETCH == 0:
                await anyio.lowlevel.checkpoint()
        for path in found.requested:
            self._on_database(path, False)
        if everything:
            closed = _prefixes(found.unreadable)
            for path in self._known.settled():
                if path not in found.databases and not str(path).startswith(closed):
                    self._tell_if_ours(path, quiet=False)

    def _tell_if_ours(self, path: Path, *, quiet: bool) -> None:
        if self.root_of(path) is not None:
            self._on_database(path, quiet)

    async def _look(
        self, folders: Collection[str | Path], watcher: Watcher | None = None, *, deep: bool = True
    ) -> tuple[Scan, dict[Path, Sight]]:
        """Walk the folders; also, how each database looked before that looks otherwise now.

        Each folder is watched before it is listed, and those that are gone, or blind, no longer. What is unreadable,
        what is blind, and how each database looks, is remembered.
        """
        everything = folders == self.roots

        def walk() -> Scan:
            began = time.thread_time()
            before = watcher.followed() if watcher is not None and everything else set()
            follow = None if watcher is None else watcher.follow
            found = scan(folders, self.config.watch.database, self.exclude, deep=deep, follow=follow, passed=blind)
            if watcher is not None:
                watcher.leave((before - found.watchable) | found.blind)
            if everything:
                self._cost = time.thread_time() - began
            return found

        async with self._one_scan:
            blind = frozenset(self._blind)
            began = anyio.current_time()
            found, now = await run_in_thread(walk, limiter=self._threads), anyio.current_time()
            if everything:
                self._figures.scanned(now - began)
            if watcher is not None:
                watcher.end_if_incomplete()
            places = None if everything else [Path(folder, self.config.watch.database) for folder in folders]
            changed = self._sights.renew(found.sights, places, hidden=_prefixes(found.unreadable))
            if everything:
                self._scanned_at = now
                self._blind = {folder: seen for folder, seen in self._blind.items() if now - seen < BLIND_SECONDS}
            self._blind |= dict.fromkeys(found.blind, now)
            if self._blind:
                self._came_blind.set()
            self._tell_unreadable(found, everything=everything)
        return found, changed

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


def is_due(since: float, rescan: float, cost: float, *, is_told: bool) -> bool:
    """True if everything is to be scanned, ``since`` seconds after the last time, which took ``cost`` s of a core.

    This is asked every ``rescan`` seconds. ``is_told``: events tell of everything, and nobody has set ``rescan``.
    """
    pause = min(cost / SCAN_SHARE, SCAN_SECONDS)
    return not is_told or pause <= rescan or since >= pause


def pause_after(cost: float) -> float:
    """Seconds until the next look after one that took ``cost`` seconds."""
    return max(LOOK_SECONDS, LOOK_SHARE * cost)


def _prefixes(folders: Iterable[str | Path]) -> tuple[str, ...]:
    """What the paths of all that lies in the folders begin with."""
    return tuple(f"{folder}/" for folder in folders)
