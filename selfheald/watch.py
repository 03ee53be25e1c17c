"""Where events come from: the watch over all roots, and the scan that makes lost events harmless."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import anyio
from watchfiles import Change, awatch

from selfheald.workspace import IGNORE_FILE, PRIVATE_FOLDER, WAL_SUFFIXES, is_under

#: Written by the watcher itself: the event that comes back proves that a root's watch stands.
PROBE = "watch-probe"
#: Milliseconds without a further event after which a batch is handed on, and the longest that one is held back.
STEP_MS, DEBOUNCE_MS = 50, 400
#: File systems whose changes by other hosts the kernel doesn't tell of; in user space they are called `fuse.sshfs`.
NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "lustre", "glusterfs", "afs", "sshfs"})


@dataclass(frozen=True, slots=True)
class Hints:
    """What a batch of events says: databases to look at, folders to scan."""

    databases: frozenset[Path]
    folders: frozenset[Path]

    def __bool__(self) -> bool:
        return bool(self.databases or self.folders)


@dataclass(slots=True)
class Scan:
    """What a walk over the roots found: databases (or their markers), requests, status files, daemons' locks."""

    databases: set[Path] = field(default_factory=set)
    requested: set[Path] = field(default_factory=set)
    tried: set[Path] = field(default_factory=set)
    claimed: set[Path] = field(default_factory=set)
    folders: int = 0
    unreadable: list[Path] = field(default_factory=list)


def database_of(path: Path, name: str) -> Path | None:
    """The database that a path tells of (itself, its WAL, marker or request), or ``None``."""
    if path.name == name or path.name == f"{name}.ready":
        return path.with_name(name)
    if path.name in {name + suffix for suffix in WAL_SUFFIXES}:
        return path.with_name(name)
    if path.parent.name == PRIVATE_FOLDER and path.name == f"{name}.request":
        return path.parent.parent / name
    return None


def is_watched(path: Path, roots: Sequence[Path], exclude: frozenset[str]) -> bool:
    """True if ``path`` lies in a root and not in a folder that is passed over."""
    for root in roots:
        if is_under(path, root):
            return exclude.isdisjoint(path.parts[len(root.parts) : -1])
    return False


def is_ignored(folder: Path, root: Path) -> bool:
    """True if a ``.selfheald-ignore`` lies in the folder or above it, up to the root."""
    if not is_under(folder, root):
        return False
    # Plain strings: this is asked for each event.
    place, top = os.fspath(folder), os.fspath(root)
    while not os.path.lexists(f"{place}/{IGNORE_FILE}"):
        if place == top:
            return False
        place = place.rpartition("/")[0] or "/"
    return True


def scan(folders: Sequence[Path], name: str, exclude: frozenset[str]) -> Scan:
    """Walk folders for databases and requests. Links are not followed; what cannot be read is listed."""
    found = Scan()
    todo = [os.fspath(folder) for folder in folders]
    while todo:
        folder = todo.pop()
        found.folders += 1
        try:
            with os.scandir(folder) as listing:
                entries = {entry.name: entry for entry in listing}
        except OSError:
            if os.path.lexists(folder):
                found.unreadable.append(Path(folder))
            continue
        if IGNORE_FILE in entries:
            continue
        if name in entries or f"{name}.ready" in entries:
            found.databases.add(Path(folder, name))
        if PRIVATE_FOLDER in entries:
            if _has_private(folder, f"{name}.request") or _has_private(folder, f".{name}.request.taken"):
                found.requested.add(Path(folder, name))
            if _has_private(folder, "daemon.lock"):
                found.claimed.add(Path(folder))
            if _has_private(folder, f"{name}.status"):
                found.tried.add(Path(folder, name))
        for entry in entries.values():
            with suppress(OSError):
                if entry.name not in exclude and entry.name != PRIVATE_FOLDER and entry.is_dir(follow_symlinks=False):
                    todo.append(entry.path)
    return found


def file_system(path: Path) -> str | None:
    """The type of the file system that holds ``path``; ``None`` where the platform doesn't tell."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(errors="replace").splitlines()
    except OSError:
        return None
    best, kind = -1, None
    for line in lines:
        left, _, right = line.partition(" - ")
        mount = Path(left.split()[4].replace("\\040", " "))
        if is_under(path, mount) and len(mount.parts) >= best:
            best, kind = len(mount.parts), right.split()[0]
    return kind


class Watcher:
    """One native watch over all roots; ended and made again by whoever iterates."""

    def __init__(self, roots: Sequence[Path], name: str, exclude: frozenset[str], *, polling: bool) -> None:
        self.roots = list(roots)
        self.polling = polling
        self._name = name
        self._exclude = exclude
        self._proven: dict[Path, anyio.Event] = {root: anyio.Event() for root in roots}
        self._stop = anyio.Event()
        self._folders = {root: _folder_identity(root) for root in roots}

    def is_stale(self) -> bool:
        """True if another folder stands at a root's path than the one that is watched, or none."""
        return any(_folder_identity(root) != identity for root, identity in self._folders.items())

    async def stop_when_cancelled(self) -> None:
        """To be run beside :meth:`hints`: its thread cannot be cancelled, but looks for this every ``STEP_MS``."""
        try:
            await anyio.sleep_forever()
        finally:
            self._stop.set()

    async def hints(self) -> AsyncIterator[Hints]:
        """Batches of hints, for ever. Raises what the watch ends with; it may also simply end."""
        async for changes in awatch(
            *self.roots,
            watch_filter=self._concerns_us,
            stop_event=self._stop,
            step=STEP_MS,
            debounce=DEBOUNCE_MS,
            force_polling=self.polling,
            poll_delay_ms=1000,
            rust_timeout=30_000,
            recursive=True,
        ):
            # A root that is made again may well get the inode of the one that was deleted.
            if self.is_stale() or any(what is Change.deleted and Path(raw) in self._proven for what, raw in changes):
                raise FileNotFoundError("a root was moved, deleted or replaced")
            hints = self._hints_of(changes)
            if hints:
                yield hints

    async def prove(self, timeout: float) -> list[Path]:
        """Write to each root until the watch has seen it; the roots whose watch doesn't stand after ``timeout`` s."""
        dead: list[Path] = []

        async def prove_one(root: Path) -> None:
            self._proven[root] = seen = anyio.Event()
            with anyio.move_on_after(timeout) as scope:
                pause = 0.02
                while not seen.is_set():
                    with suppress(OSError):
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

    def _concerns_us(self, change: Change, raw: str) -> bool:
        path = Path(raw)
        if path.name == PROBE and path.parent.name == PRIVATE_FOLDER:
            return True
        if PRIVATE_FOLDER in path.parent.parts:
            return path.parent.name == PRIVATE_FOLDER and path.name == f"{self._name}.request"
        if path in self._proven:
            return change is Change.deleted
        if not is_watched(path, self.roots, self._exclude) or path.name in self._exclude:
            return False
        if database_of(path, self._name) is not None or path.name == IGNORE_FILE:
            return True
        return change is Change.added and _is_folder(path)

    def _hints_of(self, changes: set[tuple[Change, str]]) -> Hints:
        databases, folders = set(), set()
        for change, raw in changes:
            path = Path(raw)
            database = database_of(path, self._name)
            if path.name == PROBE:
                if change is not Change.deleted and path.parent.parent in self._proven:
                    self._proven[path.parent.parent].set()
            elif database is not None:
                databases.add(database)
            elif path.name in (IGNORE_FILE, PRIVATE_FOLDER):
                folders.add(path.parent)
            else:
                folders.add(path)
        return Hints(frozenset(databases), frozenset(_topmost(folders)))


def must_poll(roots: Sequence[Path]) -> Path | None:
    """The first root on a network file system, where native events miss what other hosts do."""
    return next((root for root in roots if (file_system(root) or "").rpartition(".")[2] in NETWORK), None)


def _topmost(folders: set[Path]) -> Iterator[Path]:
    return (folder for folder in folders if folders.isdisjoint(folder.parents))


def _has_private(folder: str, name: str) -> bool:
    return os.path.lexists(os.path.join(folder, PRIVATE_FOLDER, name))


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except (OSError, ValueError):
        return False


def _folder_identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _touch(path: Path) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    try:
        os.write(handle, b".")
    finally:
        os.close(handle)
