"""The scan: what lies in the roots, whatever events told or did not tell."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Container, Iterable, Sequence
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
    ``sights`` are how each database, and each that is requested, looked, behind its request: the marker comes last.
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
    sights: dict[Path, Sight] = field(default_factory=dict)


def scan(
    folders: Iterable[str | Path],
    name: str,
    exclude: frozenset[str],
    *,
    deep: bool = True,
    follow: Callable[[str], None] | None = None,
    passed: Container[str] = (),
    platform: str = sys.platform,
) -> Scan:
    """Walk folders for databases and requests. Links are not followed; what cannot be read is listed.

    With ``deep`` false only the folders themselves are looked at. ``follow`` is called with each folder before it is
    listed, so that nothing falls between the list and what is told of it later; but not with those that are ``passed``.
    """
    found, wanted, passed_over = Scan(), alike(name, platform), exclude | {PRIVATE_FOLDER}
    todo = [os.fspath(folder) for folder in folders]
    while todo:
        folder = todo.pop()
        found.folders += 1
        can_be_followed = is_text(folder)
        if follow is not None and can_be_followed and folder not in passed:
            follow(folder)
        try:
            with os.scandir(folder) as listing:
                entries = list(listing)
        except OSError as error:
            # Where a folder above is closed, it cannot be seen whether this one is there.
            if isinstance(error, PermissionError) or os.path.lexists(folder):
                found.unreadable.append(Path(folder))
            continue
        spelled = [entry.name for entry in entries]
        (found.watchable if can_be_followed and is_text("".join(spelled)) else found.blind).add(folder)
        if not entries:
            continue
        names = all_alike(spelled, platform)
        if IGNORE_FILE in names:
            continue
        is_there, is_requested = wanted in names or f"{wanted}.ready" in names, False
        if PRIVATE_FOLDER in names:
            if follow is not None and can_be_followed and f"{folder}/{PRIVATE_FOLDER}" not in passed:
                follow(f"{folder}/{PRIVATE_FOLDER}")
            is_requested = _look_into_private(folder, name, found)
        if is_there or is_requested:
            path = Path(folder, name)
            found.databases.update([path] if is_there else ())
            found.requested.update([path] if is_requested else ())
            request = facts(request_path(path)) if is_requested else None
            found.sights[path] = (request, *sight(path, None if platform == "darwin" else frozenset(names)))
        below = [entry.path for entry in entries if _is_below(entry) and entry.name not in passed_over]
        (todo.extend if deep else found.below.update)(below)
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


def _look_into_private(folder: str, name: str, found: Scan) -> bool:
    """True if there is a request."""
    private = os.path.join(folder, PRIVATE_FOLDER)

    def has(name: str) -> bool:
        return os.path.lexists(f"{private}/{name}")

    if is_text(private) and is_folder(private):
        found.watchable.add(private)
    if has("daemon.lock"):
        found.claimed.add(Path(folder))
    if has(f"{name}.status"):
        found.tried.add(Path(folder, name))
    return has(f"{name}.request") or has(f".{name}.request.taken")


def _is_below(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False
