"""Looks at roots, folders and disks, and changes nothing there: no file is written, no lock is taken."""

from __future__ import annotations

import errno
import itertools
import os
import pwd
import stat
import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from selfheald.client import real_path
from selfheald.crash_guard import FOLDER as NOTES_FOLDER
from selfheald.crash_guard import SUFFIX as NOTES_SUFFIX
from selfheald.crash_guard import unfinished
from selfheald.diagnosis.judge_machine import Folders
from selfheald.diagnosis.judge_places import Place, Room, Root
from selfheald.diagnosis.judge_traces import Traces
from selfheald.errors import HINTS, InitializationError, access_hint
from selfheald.mounts import file_system
from selfheald.obstacle import nearest, room_at
from selfheald.scan import scan
from selfheald.staging import PREFIX
from selfheald.workspace import PRIVATE_FOLDER, Database, is_under, merge_roots, open_folder

#: Seconds after which the walk over all roots is broken off.
WALK_SECONDS = 5.0
#: So many folders are looked at between two looks at the clock.
_STRETCH = 200
#: In so many folders of a root the times of so many entries are looked at.
_SAMPLED_FOLDERS, _SAMPLES = 5, 50
#: Seconds between two looks at the notes of a daemon that lives: a check is done by then, a suspect still there.
_NOTES_SECONDS = 0.3
_MAX_NOTES = 1 << 20

#: Device and inode of all that somebody holds a ``flock`` on; ``None`` where the kernel does not tell.
Held = Collection[tuple[int, int]] | None


@dataclass(frozen=True, slots=True)
class Person:
    """The user whose rights are judged; ``is_self`` if it is the one who runs this."""

    uid: int
    groups: frozenset[int]
    is_self: bool = True


@dataclass(slots=True)
class Walk:
    """What a walk over the roots has seen until it was done, or its time was over."""

    folders: Folders = field(default_factory=lambda: Folders(0))
    databases: list[Path] = field(default_factory=list)
    traces: Traces = field(default_factory=Traces)


def this_person() -> Person:
    """Whoever runs this."""
    return Person(os.geteuid(), frozenset({os.getegid(), *os.getgroups()}))


def person_named(name: str) -> Person:
    """A user by name or number. Raises ``config_invalid`` if there is none."""
    try:
        entry = pwd.getpwuid(int(name)) if name.isascii() and name.isdigit() else pwd.getpwnam(name)
    except (KeyError, OverflowError):
        message = f"there is no user {name}"
        raise InitializationError(message, code="config_invalid", hint="Name another one with --user.") from None
    groups = frozenset(os.getgrouplist(entry.pw_name, entry.pw_gid))
    return Person(entry.pw_uid, groups, is_self=entry.pw_uid == os.geteuid())


def look_at_roots(paths: Sequence[Path], person: Person) -> list[Root]:
    """Each configured root as it stands."""
    merged = merge_roots(list(paths))
    return [_look_at_root(path, merged, person) for path in dict.fromkeys(paths)]


def _look_at_root(path: Path, merged: Sequence[Path], person: Person) -> Root:
    real = Path(real_path(path))
    mode = _mode(real, follow=True)
    if mode is None or not stat.S_ISDIR(mode):
        there = mode is not None or os.path.lexists(real)
        return Root(path, real, mode, access=None if there else _hidden(real, person))
    private = real / PRIVATE_FOLDER
    kind = _kind(private)
    read_only = _is_read_only(real)
    return Root(
        path=path,
        real=real,
        mode=mode,
        within=next((each for each in merged if each != real and is_under(real, each)), None),
        file_system=file_system(real),
        read_only=read_only,
        access=_refusal(real / "any", person, read_only=read_only),
        private_kind=kind,
        private_access=_refusal(private / "any", person, read_only=read_only) if kind == "folder" else None,
        stamps=_stamps(real),
    )


def look_at_place(folder: Path, person: Person) -> Place:
    """A folder that is written to, or the nearest one above it that is there."""
    real = Path(os.path.realpath(folder))
    mode = _mode(real, follow=False)
    if mode is not None and not stat.S_ISDIR(mode):
        return Place(folder, mode, access=f"It is not a folder: move it away, or name another than {folder}.")
    return Place(
        path=folder,
        mode=mode,
        owner=None if mode is None else _owner(real),
        access=_refusal(real / "any", person, read_only=_is_read_only(nearest(real))),
    )


def look_at_space(roots: Iterable[Path], others: Iterable[Path]) -> list[Room]:
    """What is free, once for each file system; that of roots first."""
    devices: dict[int, tuple[list[Path], bool]] = {}
    for path, is_root in [*((each, True) for each in roots), *((each, False) for each in others)]:
        try:
            device = nearest(path).stat().st_dev
        except OSError:
            continue
        places, _ = devices.setdefault(device, ([], is_root))
        if path not in places:
            places.append(path)
    rooms = []
    for places, holds_roots in devices.values():
        room = room_at(nearest(places[0]))
        if room is not None:
            counts_files = os.statvfs(nearest(places[0])).f_files > 0
            rooms.append(Room(tuple(places), room.bytes, room.files if counts_files else None, holds_roots))
    return rooms


def walk(roots: Sequence[Path], name: str, exclude: Collection[str], held: Held) -> Walk:
    """Walk merged roots as the daemon's scan does, for :data:`WALK_SECONDS` at most."""
    end = time.monotonic() + WALK_SECONDS
    passed_over = frozenset(exclude)
    todo = list(map(os.fspath, roots))
    found = Walk()
    count, size = 0, 0
    staging: list[Path] = []
    aside: list[Path] = []
    while todo and time.monotonic() < end:
        stretch, todo = todo[-_STRETCH:], todo[:-_STRETCH]
        seen = scan(stretch, name, passed_over, deep=False)
        todo += seen.below
        count += len(seen.watchable)
        found.databases += sorted(seen.databases | seen.requested)
        for path in seen.databases | seen.requested | seen.tried:
            database = Database(path)
            staging += _staging_of(database, held)
            aside_here, bytes_here = _aside_of(database)
            aside, size = aside + aside_here, size + bytes_here
    found.folders = Folders(count, complete=not todo)
    found.traces = Traces(tuple(sorted(staging)), tuple(sorted(aside)), size, complete=not todo)
    return found


def _staging_of(database: Database, held: Held) -> list[Path]:
    """Staging folders that nobody holds; none where that cannot be told."""
    if held is None:
        return []
    return [
        database.private / name
        for name, found in _listed(database.private, PREFIX)
        if stat.S_ISDIR(found.st_mode) and (found.st_dev, found.st_ino) not in held
    ]


def _aside_of(database: Database) -> tuple[list[Path], int]:
    """What `repair --quarantine` has renamed, and its bytes."""
    listed = _listed(database.folder, f"{database.path.name}.corrupt-")
    return [database.folder / name for name, _ in listed], sum(found.st_size for _, found in listed)


def _listed(folder: Path, prefix: str) -> list[tuple[str, os.stat_result]]:
    """The names in a folder that begin so; links are not followed, neither these nor on the way."""
    found = []
    with suppress(OSError, InitializationError), open_folder(folder) as handle:
        for name in os.listdir(handle):  # noqa: PTH208 - of a descriptor
            if name.startswith(prefix):
                with suppress(OSError):
                    found.append((name, os.stat(name, dir_fd=handle, follow_symlinks=False)))
    return found


def look_for_suspects(state_dir: Path, roots: Sequence[Path], held: Held) -> list[Path] | OSError:
    """Databases below merged roots that were being read when a daemon died, or were not read in time.

    An error where the notes about them may not be read.
    """
    folder = state_dir / NOTES_FOLDER
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix == NOTES_SUFFIX)
    except FileNotFoundError:
        return []
    except OSError as error:
        return error
    notes = [(path, found) for path in files if (found := _notes(path))]
    alive = [path for path, _ in notes if held is None or _identity(path) in held]
    if alive:
        time.sleep(_NOTES_SECONDS)
    suspects: set[Path] = set()
    for path, found in notes:
        suspects |= found & _notes(path) if path in alive else found
    return sorted(each for each in suspects if any(is_under(each, root) for root in roots))


def _notes(path: Path) -> set[Path]:
    try:
        with path.open("rb") as file:
            return set(unfinished(file.read(_MAX_NOTES)))
    except OSError:
        return set()


def _refusal(path: Path, person: Person, *, read_only: bool) -> str | None:
    """What would let the person make a file at ``path``; ``None`` if nothing is seen to be in the way."""
    try:
        hint = access_hint(str(path), person.uid, person.groups)
    except OSError as error:
        return f"{HINTS['permission_denied']} ({error.strerror})"
    if hint is not None or not person.is_self:
        return hint
    folder = nearest(path.parent)
    wanted = os.R_OK | os.X_OK | (0 if read_only else os.W_OK)
    return None if os.access(folder, wanted) else HINTS["permission_denied"]


def _hidden(path: Path, person: Person) -> str | None:
    """What would let one see what is at ``path``, where a folder above may not be passed; else ``None``."""
    try:
        path.lstat()
    except PermissionError:
        return _refusal(path / "any", person, read_only=False) or HINTS["permission_denied"]
    except OSError:
        return None
    return None


def _kind(path: Path) -> str:
    mode = _mode(path, follow=False)
    if mode is None:
        return "absent"
    if stat.S_ISDIR(mode):
        return "folder"
    return "a symbolic link, which is not followed" if stat.S_ISLNK(mode) else "not a folder"


def _mode(path: Path, *, follow: bool) -> int | None:
    try:
        return path.stat(follow_symlinks=follow).st_mode
    except OSError:
        return None


def _owner(path: Path) -> int | None:
    try:
        return path.lstat().st_uid
    except OSError:
        return None


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _is_read_only(path: Path) -> bool:
    try:
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    except OSError as error:
        return error.errno == errno.EROFS


def _stamps(root: Path) -> tuple[int, ...]:
    """Modification times of some that lies directly in the root, or in the first folders below it."""
    entries = _some_entries(root)
    folders = [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    for folder in folders[:_SAMPLED_FOLDERS]:
        entries += _some_entries(folder)
    stamps = []
    for entry in entries:
        with suppress(OSError):
            stamps.append(entry.stat(follow_symlinks=False).st_mtime_ns)
    return tuple(stamps)


def _some_entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as listing:
            return list(itertools.islice(listing, _SAMPLES))
    except OSError:
        return []
