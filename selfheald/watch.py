"""Where events come from: native watches over folders, each of them named.

The folders come from a scan, and the watches are not recursive: what a scan passes over costs no watch, links lead
nowhere, and one folder that cannot be watched does not keep the others from it. (A recursive watch follows links; a few
folders that link to each other are enough to keep it, and the interpreter's lock, for hours.) For new folders holds:
subscribe, then scan.

On macOS the kernel's own watch is recursive, costs nothing for each folder, and follows no link. But it tells nothing
of a name that a file gets by ``link``: of a request tells the draft that it was linked from, of a published database
its marker.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.abc
import anyio.lowlevel
from watchfiles import Change, awatch

from selfheald import client
from selfheald.errors import InitializationError, from_os_error
from selfheald.scan import database_of, is_folder, is_watched
from selfheald.spare import require_threads
from selfheald.workspace import IGNORE_FILE, PRIVATE_FOLDER, remove_file

#: Written by the watcher itself: the event that comes back proves that a root's watch stands.
PROBE = "watch-probe"
#: Milliseconds without a further event after which a batch is handed on, and the longest that one is held back.
STEP_MS, DEBOUNCE_MS = 50, 400
#: How many folders may be watched apart, as later ones, before all are watched together again; or a quarter of all.
LATER = 1000
#: How often a watch is begun with the folders that are left: some may go, or be closed, in the meantime.
ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Hints:
    """What a batch of events says: databases to look at, folders to scan, folders that have come."""

    databases: frozenset[Path]
    folders: frozenset[Path]
    added: frozenset[Path]

    def __bool__(self) -> bool:
        return bool(self.databases or self.folders or self.added)


class RootGoneError(Exception):
    """A root was moved, deleted or replaced: whoever watches it sees nothing any more."""


class WatchLimitError(Exception):
    """The kernel grants no more watches, or none at all; the message names the setting."""


class UnreadableNameError(Exception):
    """An event told of a name that is not UTF-8, which ends a watch; ``folder`` is where, if that is known."""

    def __init__(self, folder: str | None) -> None:
        super().__init__(f"a name in {folder or 'one of the folders'} is not UTF-8")
        self.folder = folder


class Watcher:
    """Native watches over folders of the roots: one over those that were there first, one over later ones."""

    def __init__(self, roots: Sequence[Path], name: str, exclude: frozenset[str], platform: str = sys.platform) -> None:
        self.roots = list(roots)
        #: The folders that are watched, as far as is known.
        self.folders: set[str] = set()
        #: Folders for which a change of their own mode is news.
        self.unreadable: set[Path] = set()
        #: Databases and folders that events have told of since it was emptied; of more than markers, which we write.
        self.told: set[Path] = set()
        self._name = name
        self._exclude = exclude
        self._platform = platform
        self._is_whole = platform == "darwin"
        self._proven: dict[Path, anyio.Event] = {root: anyio.Event() for root in roots}
        self._identities = {root: folder_identity(root) for root in roots}
        self._later: set[str] = set()
        self._stop_first, self._stop_later = anyio.Event(), anyio.Event()
        self._waiting: list[Hints] = []
        self._news = anyio.Event()
        self._group: anyio.abc.TaskGroup | None = None

    def is_stale(self) -> bool:
        """True if another folder stands at a root's path than the one that is watched, or none."""
        return any(folder_identity(root) != identity for root, identity in self._identities.items())

    async def watch(self, group: anyio.abc.TaskGroup, folders: Collection[str]) -> None:
        """Watch folders from now on. The group is ended by whatever ends a watch."""
        self._group = group
        self.folders = set(folders)
        self._stop_first = await self._start(map(str, self.roots) if self._is_whole else self.folders)

    async def hints(self) -> Hints:
        """Wait until events have come, and give all that they hint at."""
        await self._news.wait()
        self._news = anyio.Event()
        waiting, self._waiting = self._waiting, []
        return Hints(
            frozenset().union(*(each.databases for each in waiting)),
            frozenset(topmost(frozenset().union(*(each.folders for each in waiting)))),
            frozenset(topmost(frozenset().union(*(each.added for each in waiting)))),
        )

    async def add(self, folders: Set[str]) -> set[str]:
        """Watch further folders, or the same ones anew: what happens in them from now on, events will tell.

        What events had to tell until now, and had not yet, is lost: look at the folders that are returned.
        """
        self.folders |= folders
        if self._is_whole:
            return set(folders)
        before, self._later = self._later, self._later | folders
        stops = [self._stop_later]
        if len(self._later) <= max(LATER, len(self.folders) // 4):
            self._stop_later = await self._start(self._later)
        else:
            stops.append(self._stop_first)
            before, self._later = self.folders.copy(), set()
            self._stop_first, self._stop_later = await self._start(self.folders), anyio.Event()
        for stop in stops:
            stop.set()
        return before | folders

    async def prove(self, timeout: float) -> list[Path]:
        """Write to each root until the watch has seen it; the roots whose watch doesn't stand after ``timeout`` s."""
        dead: list[Path] = []

        async def prove_one(root: Path) -> None:
            self._proven[root] = seen = anyio.Event()
            with anyio.move_on_after(timeout) as scope:
                pause = 0.02
                while not seen.is_set():
                    with suppress(OSError, InitializationError):
                        _touch(root / PRIVATE_FOLDER / PROBE)
                    with anyio.move_on_after(pause):
                        await seen.wait()
                    pause = min(pause * 2, 1.0)
            if scope.cancelled_caught:
                dead.append(root)

        async with anyio.create_task_group() as group:
            for root in self.roots:
                group.start_soon(prove_one, root)
        return dead

    async def _start(self, folders: Iterable[str]) -> anyio.Event:
        """Begin a watch; setting the event that is returned ends it."""
        assert self._group is not None
        stop = anyio.Event()
        self._group.start_soon(_set_when_cancelled, stop)
        self._group.start_soon(self._follow, sorted(folders), stop)
        # The watch is set in the first step of its task, before that waits for anything.
        await anyio.lowlevel.checkpoint()
        return stop

    async def _follow(self, folders: list[str], stop: anyio.Event) -> None:
        for attempt in range(ATTEMPTS):
            _require_threads()
            try:
                async for changes in awatch(
                    *folders,
                    watch_filter=self._concerns_us,
                    stop_event=stop,
                    step=STEP_MS,
                    debounce=DEBOUNCE_MS,
                    force_polling=False,
                    rust_timeout=30_000,
                    recursive=self._is_whole,
                    ignore_permission_denied=False,  # it would swallow a limit that is reached, too
                ):
                    self._tell(changes)
                break
            except (FileNotFoundError, PermissionError):
                folders = [folder for folder in folders if is_folder(folder) and os.access(folder, os.R_OK)]
                if attempt == ATTEMPTS - 1:
                    raise
            except RootGoneError:
                raise
            except Exception as error:
                raise _explained(error, folders) from error
        if not stop.is_set():
            raise RuntimeError("no more events")

    def _tell(self, changes: set[tuple[Change, str]]) -> None:
        # A root that is made again may well get the inode of the one that was deleted.
        if self.is_stale() or any(what is Change.deleted and Path(raw) in self._proven for what, raw in changes):
            raise RootGoneError("a root was moved, deleted or replaced")
        hints = self._hints_of(changes)
        if hints:
            self._waiting.append(hints)
            self._news.set()

    def _concerns_us(self, change: Change, raw: str) -> bool:
        path = Path(raw)
        if path.name == PROBE and path.parent.name == PRIVATE_FOLDER:
            return True
        if PRIVATE_FOLDER in path.parent.parts:
            return path.parent.name == PRIVATE_FOLDER and self._database_of(path) is not None
        if path in self._proven:
            return change is Change.deleted
        if not is_watched(path, self.roots, self._exclude) or path.name in self._exclude:
            return False
        if self._database_of(path) is not None or path.name == IGNORE_FILE:
            return True
        if change is Change.deleted:
            self.folders.discard(raw)
        return (change is Change.added or path in self.unreadable) and is_folder(path)

    def _database_of(self, path: Path) -> Path | None:
        return database_of(path, self._name, self._platform)

    def _hints_of(self, changes: set[tuple[Change, str]]) -> Hints:
        databases, folders, added = set(), set(), set()
        for change, raw in changes:
            path = Path(raw)
            database = self._database_of(path)
            if path.name == PROBE:
                if change is not Change.deleted and path.parent.parent in self._proven:
                    self._proven[path.parent.parent].set()
            elif database is not None:
                databases.add(database)
                if self._is_whole or path.name != f"{self._name}.ready":
                    self.told.add(database)
            elif path.name == PRIVATE_FOLDER:
                self.folders.discard(raw)  # another one, perhaps
                folders.add(path.parent)
            elif path.name == IGNORE_FILE:
                folders.add(path.parent)
            else:
                added.add(path)
        self.told |= folders | added
        return Hints(frozenset(databases), frozenset(folders), frozenset(added))


def topmost(folders: Set[Path]) -> Iterator[Path]:
    """Those that lie in no other one."""
    return (folder for folder in folders if folders.isdisjoint(folder.parents))


def folder_identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of a folder; ``None`` if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISDIR(found.st_mode) else None


async def _set_when_cancelled(stop: anyio.Event) -> None:
    """A watch's thread cannot be cancelled, but looks for its event every ``STEP_MS``."""
    try:
        await stop.wait()
    finally:
        stop.set()


def only_error(error: BaseException) -> BaseException:
    """What is inside of groups that hold just one error."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _require_threads() -> None:
    """Raise unless a watch's two threads can be started. If they cannot, the library ends the whole process."""
    try:
        require_threads(2)
    except OSError as error:
        raise from_os_error(error, None, "start a thread for a watch") from error


def _explained(error: BaseException, folders: Collection[str]) -> BaseException:
    """What a watch ended with. The library tells it in words alone, and only here are they read."""
    error = only_error(error)
    text = str(error)
    if "limit reached" in text or "os error 28" in text:
        return WatchLimitError(f"no more inotify watches: raise the sysctl {_setting('watches')}")
    if "os error 24" in text:
        setting = _setting("instances")
        return WatchLimitError(f"no more inotify instances or open files: raise the sysctl {setting}, or `ulimit -n`")
    if "decode path" in text:
        return UnreadableNameError(max((each for each in folders if f"{each}/" in text), key=len, default=None))
    return error


def _setting(what: str) -> str:
    """The kernel setting that limits what a user may have of ``watches`` or ``instances``, and its value."""
    found = {}
    for name, file in {
        f"fs.inotify.max_user_{what}": f"/proc/sys/fs/inotify/max_user_{what}",
        f"user.max_inotify_{what}": f"/proc/sys/user/max_inotify_{what}",
    }.items():
        with suppress(OSError, ValueError):
            found[name] = int(Path(file).read_text())
    name = min(found, key=lambda name: found[name], default=f"fs.inotify.max_user_{what}")
    return f"{name} (now {found.get(name, 'unknown')})"


def _touch(path: Path) -> None:
    """Make an event that needs no space on a disk that is full."""
    try:
        handle = client.open_file(path, os.O_WRONLY | os.O_CREAT, 0o644)
    except PermissionError:
        if not os.path.lexists(path):
            raise
        remove_file(path)  # of a daemon that was another user's: that one is over, or we would not be here
        handle = client.open_file(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        if os.fstat(handle).st_nlink == 1:
            os.utime(handle)
        else:  # a file of somebody else's under this name: the next one is our own
            remove_file(path)
    finally:
        os.close(handle)
