"""Where events come from: native watches over folders, each of them named.

The folders come from a scan, which has each one watched just before it lists it, and the watches are not recursive:
what a scan passes over costs no watch, links lead nowhere, and one folder that cannot be watched does not keep the
others from it. (A recursive watch follows links; a few folders that link to each other are enough to keep it, and the
interpreter's lock, for hours.)

On macOS the kernel's own watch is recursive, costs nothing for each folder, and follows no link. But it tells nothing
of a name that a file gets by ``link``: of a request tells the draft that it was linked from, of a published database
its marker.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.abc
import anyio.lowlevel

from selfheald import client
from selfheald.errors import InitializationError, from_os_error
from selfheald.inotify import Change, Event, EventsLostError, Inotify
from selfheald.scan import database_of, is_folder, is_watched
from selfheald.spare import require_threads
from selfheald.workspace import IGNORE_FILE, PRIVATE_FOLDER, WAL_SUFFIXES, remove_file

__all__ = ["EventsLostError", "Hints", "RootGoneError", "UnreadableNameError", "WatchLimitError", "Watcher"]

#: Written by the watcher itself: the event that comes back proves that a root's watch stands.
PROBE = "watch-probe"
#: Seconds for which further events are awaited after a first one: what comes in one go is told in one go.
GATHER_SECONDS = 0.02
#: On macOS: milliseconds without a further event after which a batch is handed on, and the longest that one is held
#: back.
STEP_MS, DEBOUNCE_MS = 50, 400


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
    """Native watches over folders of the roots: :meth:`watch`, then :meth:`follow` each folder before it is listed."""

    def __init__(self, roots: Sequence[Path], name: str, exclude: frozenset[str], platform: str = sys.platform) -> None:
        self.roots = list(roots)
        #: Folders for which a change of their own mode is news.
        self.unreadable: set[Path] = set()
        #: Databases and folders that events have told of since it was emptied; of more than markers, which we write.
        self.told: set[Path] = set()
        self._name = name
        self._names = {os.fsencode(each) for each in _names_of_interest(name)}
        self._exclude = exclude
        self._platform = platform
        #: True where one watch tells of all that lies in the roots.
        self.is_whole = platform == "darwin"
        self._proven: dict[Path, anyio.Event] = {root: anyio.Event() for root in roots}
        self._identities = {root: folder_identity(root) for root in roots}
        self._inotify: Inotify | None = None
        self._failure: BaseException | None = None
        self._failed = anyio.Event()
        self._waiting: list[Hints] = []
        self._news = anyio.Event()

    def is_stale(self) -> bool:
        """True if another folder stands at a root's path than the one that is watched, or none."""
        return any(folder_identity(root) != identity for root, identity in self._identities.items())

    async def watch(self, group: anyio.abc.TaskGroup) -> None:
        """Tell from now on of what happens in folders that are followed. The group is ended by whatever ends this.

        Raises :class:`WatchLimitError`.
        """
        if self.is_whole:
            stop = anyio.Event()
            group.start_soon(_set_when_cancelled, stop)
            group.start_soon(self._follow_whole, sorted(map(str, self.roots)), stop)
        else:
            try:
                self._inotify = Inotify()
            except OSError as error:
                raise _explained(error) from error
            group.start_soon(self._read, self._inotify)
            group.start_soon(self._fail)
        # The task begins before it waits for anything: it closes what it was given, and macOS' watch stands then.
        await anyio.lowlevel.checkpoint()

    def follow(self, folder: str) -> None:
        """Tell of what happens in a folder from now on; list it afterwards. From any thread.

        Where that cannot be had, whoever lists it goes on, and then asks :meth:`end_if_incomplete`.
        """
        if self._inotify is not None and self._failure is None:
            try:
                self._inotify.follow(folder)
            except OSError as error:
                self._failure = _explained(error)

    def end_if_incomplete(self) -> None:
        """Let the watch end if a folder could not be followed since there was no more to be had."""
        if self._failure is not None:
            self._failed.set()

    def leave(self, folders: Iterable[str]) -> None:
        """Tell no more of what happens in these folders."""
        if self._inotify is not None:
            self._inotify.leave(folders)

    def followed(self) -> set[str]:
        """The folders that are watched by their names."""
        return set() if self._inotify is None else self._inotify.followed()

    async def catch_up(self) -> None:
        """Wait until all has been told that events had to tell when the roots were last proven."""
        if self.is_whole:
            await anyio.sleep(DEBOUNCE_MS / 1000)  # what is held back; elsewhere events come in their order

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

    async def _read(self, inotify: Inotify) -> None:
        try:
            while True:
                await anyio.wait_readable(inotify)
                await anyio.sleep(GATHER_SECONDS)
                told = {(event.change, _path_of(event)) for event in inotify.read() if self._may_concern_us(event)}
                changes = {(change, raw) for change, raw in told if self._concerns_us(change, raw)}
                if changes:
                    self._tell(changes)
        finally:
            inotify.close()

    async def _fail(self) -> None:
        await self._failed.wait()
        assert self._failure is not None
        raise self._failure

    def _may_concern_us(self, event: Event) -> bool:
        """Most events are of files that simulators write without pause: their names are enough to pass them over."""
        return event.is_folder or event.name in self._names or not event.name.isascii()

    async def _follow_whole(self, folders: list[str], stop: anyio.Event) -> None:
        import watchfiles

        meanings = {watchfiles.Change.added: Change.ADDED, watchfiles.Change.deleted: Change.DELETED}
        _require_threads()
        try:
            async for changes in watchfiles.awatch(
                *folders,
                watch_filter=lambda change, raw: self._concerns_us(meanings.get(change, Change.MODIFIED), raw),
                stop_event=stop,
                step=STEP_MS,
                debounce=DEBOUNCE_MS,
                force_polling=False,
                rust_timeout=30_000,
                recursive=True,
                ignore_permission_denied=False,  # it would swallow a limit that is reached, too
            ):
                self._tell({(meanings.get(change, Change.MODIFIED), raw) for change, raw in changes})
        except RootGoneError:
            raise
        except Exception as error:
            raise _explained(error, folders) from error
        if not stop.is_set():
            raise RuntimeError("no more events")

    def _tell(self, changes: Set[tuple[Change, str]]) -> None:
        # A root that is made again may well get the inode of the one that was deleted.
        if self.is_stale() or any(what is Change.DELETED and Path(raw) in self._proven for what, raw in changes):
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
            return change is Change.DELETED
        if not is_watched(path, self.roots, self._exclude) or path.name in self._exclude:
            return False
        if self._database_of(path) is not None or path.name == IGNORE_FILE:
            return True
        return (change is Change.ADDED or path in self.unreadable) and is_folder(path)

    def _database_of(self, path: Path) -> Path | None:
        return database_of(path, self._name, self._platform)

    def _hints_of(self, changes: Set[tuple[Change, str]]) -> Hints:
        databases, folders, added = set(), set(), set()
        for change, raw in changes:
            path = Path(raw)
            database = self._database_of(path)
            if path.name == PROBE:
                if change is not Change.DELETED and path.parent.parent in self._proven:
                    self._proven[path.parent.parent].set()
            elif database is not None:
                databases.add(database)
                if self.is_whole or path.name != f"{self._name}.ready":
                    self.told.add(database)
            elif path.name in (PRIVATE_FOLDER, IGNORE_FILE):
                folders.add(path.parent)
            else:
                added.add(path)
        self.told |= folders | added
        return Hints(frozenset(databases), frozenset(folders), frozenset(added))


def topmost(folders: Set[Path]) -> Iterator[Path]:
    """Those that lie in no other one."""
    return (folder for folder in folders if folders.isdisjoint(folder.parents))


def _path_of(event: Event) -> str:
    try:
        return f"{event.folder}/{event.name.decode()}" if event.name else event.folder
    except UnicodeDecodeError as error:
        raise UnreadableNameError(event.folder) from error


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


def _explained(error: BaseException, folders: Iterable[str] = ()) -> BaseException:
    """What a watch ended with. The library for macOS tells it in words alone, and only here are they read."""
    error = only_error(error)
    number, text = getattr(error, "errno", None), str(error)
    if number in (errno.ENOSPC, errno.ENOMEM) or "limit reached" in text or "os error 28" in text:
        return WatchLimitError(f"no more inotify watches: raise the sysctl {_setting('watches')}")
    if number in (errno.EMFILE, errno.ENFILE) or "os error 24" in text:
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


def _names_of_interest(name: str) -> Iterator[str]:
    """The names of files of which an event may be a hint, or a proof."""
    yield from (name, *(f"{name}{suffix}" for suffix in (*WAL_SUFFIXES, ".ready", ".request")), IGNORE_FILE, PROBE)


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
