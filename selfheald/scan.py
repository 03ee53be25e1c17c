"""The scan: what lies in the roots, whatever events told or did not tell."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from selfheald.client import request_path
from selfheald.names import alike, all_alike
from selfheald.sight import Sight, facts, sight
from selfheald.workspace import IGNORE_FILE, PRIVATE_FOLDER, WAL_SUFFIXES, is_under


@dataclass(slots=True)
class Scan:
    """What a walk over the roots found: databases (or their markers), requests, status files, daemons' locks.

    ``watchable`` are the folders in which something may happen; ``blind`` those for which no events can be had, since
    a name in them, or in their own path, is not UTF-8; ``below`` what a walk that does not go deep has passed over.
    """

    databases: set[Path] = field(default_factory=set)
    requested: set[Path] = field(default_factory=set)
    tried: set[Path] = field(default_factory=set)
    claimed: set[Path] = field(default_factory=set)
    folders: int = 0
    watchable: set[str] = field(default_factory=set)
    blind: set[str] = field(default_factory=set)
    below: set[str] = field(default_factory=set)
    unreadable: list[Path] = field(default_factory=list)

    def sights(self) -> dict[Path, Sight]:
        """How each database looks now, behind its request: the marker comes last."""
        return {path: (facts(request_path(path)), *sight(path)) for path in self.databases | self.requested}


def scan(
    folders: Iterable[str | Path],
    name: str,
    exclude: frozenset[str],
    *,
    deep: bool = True,
    platform: str = sys.platform,
) -> Scan:
    """Walk folders for databases and requests. Links are not followed; what cannot be read is listed.

    With ``deep`` false only the folders themselves are looked at.
    """
    found, wanted = Scan(), alike(name, platform)
    todo = [os.fspath(folder) for folder in folders]
    while todo:
        folder = todo.pop()
        found.folders += 1
        try:
            with os.scandir(folder) as listing:
                entries = {entry.name: entry for entry in listing}
        except OSError as error:
            # Where a folder above is closed, it cannot be seen whether this one is there.
            if isinstance(error, PermissionError) or os.path.lexists(folder):
                found.unreadable.append(Path(folder))
            continue
        (found.watchable if is_text(folder) and all(map(is_text, entries)) else found.blind).add(folder)
        names = all_alike(entries.keys(), platform)
        if IGNORE_FILE in names:
            continue
        if wanted in names or f"{wanted}.ready" in names:
            found.databases.add(Path(folder, name))
        if PRIVATE_FOLDER in names:
            _look_into_private(folder, name, found)
        below = (entry for entry in entries.values() if entry.name not in exclude and entry.name != PRIVATE_FOLDER)
        (todo.extend if deep else found.below.update)(entry.path for entry in below if _is_below(entry))
    return found


def is_text(name: str) -> bool:
    """False for a name that is not UTF-8, which Python holds with half characters in it."""
    if name.isascii():
        return True
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def database_of(path: Path, name: str, platform: str = sys.platform) -> Path | None:
    """The database that a path tells of (itself, its WAL, marker or request), or ``None``.

    On macOS also what a request is before it gets its name by ``link``: of that no event tells.
    """
    seen, wanted = alike(path.name, platform), alike(name, platform)
    if path.parent.name == PRIVATE_FOLDER:
        drafted = platform == "darwin" and seen.startswith(f".{wanted}.request.") and not seen.endswith(".taken")
        return path.parent.parent / name if drafted or seen == f"{wanted}.request" else None
    if seen == wanted or seen == f"{wanted}.ready" or seen in {wanted + suffix for suffix in WAL_SUFFIXES}:
        return path.with_name(name)
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


def is_folder(path: str | Path) -> bool:
    """True for a folder itself, false for a link to one."""
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except (OSError, ValueError):
        return False


def _look_into_private(folder: str, name: str, found: Scan) -> None:
    private = os.path.join(folder, PRIVATE_FOLDER)

    def has(name: str) -> bool:
        return os.path.lexists(os.path.join(private, name))

    if is_text(private) and is_folder(private):
        found.watchable.add(private)
    if has(f"{name}.request") or has(f".{name}.request.taken"):
        found.requested.add(Path(folder, name))
    if has("daemon.lock"):
        found.claimed.add(Path(folder))
    if has(f"{name}.status"):
        found.tried.add(Path(folder, name))


def _is_below(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False
