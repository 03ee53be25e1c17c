"""How a database looks from outside: while that stays as it was, whatever was last found out about it still holds."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Container
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
    """True if database and WALs look the same, whatever became of the marker."""
    return one[:-1] == other[:-1]


def facts(path: str | Path) -> Facts:
    """What tells one state of a file from another; ``None`` if it is not there."""
    try:
        found = os.lstat(path)
    except (OSError, ValueError):
        return None
    return _FACTS.pack(
        found.st_dev, found.st_ino, stat.S_IFMT(found.st_mode), found.st_size, found.st_mtime_ns, found.st_ctime_ns,
    )  # fmt: skip
