"""How a database looks from outside: while that stays as it was, whatever was last found out about it still holds."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Collection, Container, Mapping
from pathlib import Path

from selfheald.workspace import WAL_SUFFIXES

#: In few bytes: they are kept for each database.
Facts = bytes | None
#: The database, its WALs, and the marker last; ``None`` for what is not there.
Sight = tuple[Facts, ...]

_SUFFIXES = ("", *WAL_SUFFIXES, ".ready")
_FACTS = struct.Struct("=QQQqqq")


def sight(path: Path, names: Container[str] | None = None) -> Sight:
    """What ``stat`` tells of a database, its WALs and its marker; links are not followed, nothing is opened.

    ``names`` are those in its folder, where they are known: what is not among them is not asked for.
    """
    place, name = os.fspath(path), path.name
    return tuple(
        facts(f"{place}{suffix}") if names is None or f"{name}{suffix}" in names else None for suffix in _SUFFIXES
    )


def same_database(one: Sight, other: Sight) -> bool:
    """True if database and WALs look the same, whatever became of the marker; nothing looks as what is not there."""
    return one[:-1] == other[:-1] or not (any(one[:-1]) or any(other[:-1]))


class Sights:
    """How each database looked when it was last seen."""

    def __init__(self) -> None:
        self._seen: dict[Path, Sight] = {}

    def get(self, path: Path) -> Sight | None:
        """How this one looked; ``None`` if it was not there."""
        return self._seen.get(path)

    def renew(
        self, found: Mapping[Path, Sight], places: Collection[Path] | None, *, hidden: tuple[str, ...] = ()
    ) -> dict[Path, Sight]:
        """Keep how those look that were ``found``; return how those looked before that look otherwise now, or are gone.

        Gone is what was at ``places``, or anywhere, and was not found; but nothing can be said of what is ``hidden``,
        whose path begins so. It costs nothing for those that are neither found nor at a place.
        """
        known = self._seen
        looked = ((path, known.get(path, ()), seen) for path, seen in found.items())
        changed = {path: earlier for path, earlier, seen in looked if earlier != seen}
        gone = [path for path in (known if places is None else places) if path not in found and path in known]
        known |= {path: found[path] for path in changed}
        for path in gone:
            if not str(path).startswith(hidden):
                changed[path] = known.pop(path)
        return changed


def facts(path: str | Path) -> Facts:
    """What tells one state of a file from another; ``None`` if it is not there."""
    try:
        found = os.lstat(path)
    except (OSError, ValueError):
        return None
    return _FACTS.pack(
        found.st_dev, found.st_ino, stat.S_IFMT(found.st_mode), found.st_size, found.st_mtime_ns, found.st_ctime_ns,
    )  # fmt: skip
