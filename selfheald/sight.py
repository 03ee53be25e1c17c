"""How a database looks from outside: while that stays as it was, whatever was last found out about it still holds."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from selfheald.workspace import WAL_SUFFIXES

Facts = tuple[int, ...] | None
#: The database, its WALs, and the marker last; ``None`` for what is not there.
Sight = tuple[Facts, ...]

_SUFFIXES = ("", *WAL_SUFFIXES, ".ready")


def sight(path: Path) -> Sight:
    """What ``stat`` tells of a database, its WALs and its marker; links are not followed, nothing is opened."""
    return tuple(facts(f"{path}{suffix}") for suffix in _SUFFIXES)


def same_database(one: Sight, other: Sight) -> bool:
    """True if database and WALs look the same, whatever became of the marker."""
    return one[:-1] == other[:-1]


def facts(path: str | Path) -> Facts:
    """What tells one state of a file from another; ``None`` if it is not there."""
    try:
        found = os.lstat(path)
    except (OSError, ValueError):
        return None
    return (
        found.st_dev, found.st_ino, stat.S_IFMT(found.st_mode), found.st_size, found.st_mtime_ns, found.st_ctime_ns,
    )  # fmt: skip
