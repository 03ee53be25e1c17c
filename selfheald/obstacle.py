"""What of the machine was in the way of a database, and whether that is over: then it is tried again by itself.

A full disk, a missing right and too few descriptors leave no trace in the database: nothing changes there when they
are gone. So what was lacking is remembered, and looked at every `watch.rescan` seconds.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from selfheald.errors import InitializationError, is_shortage

#: A disk has more room than before once it has a tenth more, and at least so many bytes, or so many more files.
MORE_BYTES, MORE_FILES = 1 << 20, 16


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes and files that a file system can still take."""

    bytes: int
    files: int

    def is_more_than(self, other: Room) -> bool:
        """True if what failed with ``other`` may well succeed now; little changes all the time, and says nothing."""
        return self.bytes >= other.bytes + max(MORE_BYTES, other.bytes // 10) or self.files >= other.files + max(
            MORE_FILES, other.files // 10
        )


@dataclass(frozen=True, slots=True)
class Obstacle:
    """What was in the way: too little ``room``, the rights that were missing, or a shortage that may be over soon."""

    place: Path
    room: Room | None = None
    forbidden: frozenset[tuple[Path, int]] = frozenset()

    def is_over(self) -> bool:
        """True if it is worth trying again. A shortage costs next to nothing to try, and cannot be seen otherwise."""
        if self.room is not None:
            now = room_at(self.place)
            return now is None or now.is_more_than(self.room)
        return not self.forbidden or any(os.access(path, mode) for path, mode in self.forbidden)


def obstacle_of(error: InitializationError, paths: Iterable[Path]) -> Obstacle | None:
    """What of the machine was in the way; ``None`` if it was something else. ``paths`` are those that are needed."""
    place = nearest(Path(error.path)) if error.path else next(iter(paths))
    if error.code == "disk_full":
        return Obstacle(place, room=room_at(place) or Room(0, 0))
    if error.code == "permission_denied":
        modes = ((path, mode) for path in {place, *paths} for mode in (os.R_OK, os.W_OK, os.X_OK))
        forbidden = frozenset((path, mode) for path, mode in modes if not os.access(path, mode))
        return Obstacle(place, forbidden=forbidden) if forbidden else None
    return Obstacle(place) if is_shortage(error) else None


def room_at(place: Path) -> Room | None:
    """What the file system there can still take; ``None`` if it doesn't tell."""
    try:
        found = os.statvfs(place)
    except OSError:
        return None
    return Room(found.f_bavail * found.f_frsize, found.f_favail)


def nearest(path: Path) -> Path:
    """The path, or the folder nearest above it that is there."""
    while not os.path.lexists(path) and path != path.parent:
        path = path.parent
    return path
