"""What the kernel tells of folders (Linux): each watched by its own name, nothing read again, nothing waited for.

Whoever has nothing to read sleeps in the kernel, and a further folder costs one system call, however many are watched
already. Watching a folder before it is listed leaves no moment in which something could happen there unseen.
"""

from __future__ import annotations

import array
import ctypes
import enum
import errno
import fcntl
import os
import struct
import termios
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_MODIFY, _ATTRIB = 0x2, 0x4
_MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x40, 0x80, 0x100, 0x200
_DELETE_SELF, _MOVE_SELF = 0x400, 0x800
_OVERFLOW, _IGNORED = 0x4000, 0x8000
_ONLY_FOLDERS, _DO_NOT_FOLLOW, _IS_FOLDER = 0x1000000, 0x2000000, 0x40000000
_ADDED, _DELETED = _CREATE | _MOVED_TO, _DELETE | _MOVED_FROM | _DELETE_SELF | _MOVE_SELF
_WANTED = _MODIFY | _ATTRIB | _ADDED | _DELETED | _ONLY_FOLDERS | _DO_NOT_FOLLOW

#: Watch, mask, cookie, length of the name that follows.
_HEAD = struct.Struct("iIII")
#: What tells that no more can be watched; anything else concerns that folder alone, and listing it tells what it is.
_SHORTAGES = frozenset({errno.ENOSPC, errno.ENOMEM, errno.EMFILE, errno.ENFILE})


class Change(enum.Enum):
    """What became of a name."""

    ADDED = enum.auto()
    MODIFIED = enum.auto()
    DELETED = enum.auto()


@dataclass(frozen=True, slots=True)
class Event:
    """What happened to ``name`` in ``folder``; without a name, to the folder itself. Names may be no text."""

    folder: str
    name: bytes
    change: Change
    is_folder: bool


class EventsLostError(Exception):
    """The kernel's queue has overflowed: what happened since is known to nobody."""


class Inotify:
    """Watches over folders. :meth:`follow` may be called from any thread, the rest from one."""

    def __init__(self) -> None:
        """Raises :class:`OSError` where the kernel grants none."""
        library = ctypes.CDLL(None, use_errno=True)
        self._add_watch, self._remove_watch = library.inotify_add_watch, library.inotify_rm_watch
        self._add_watch.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32)
        self._descriptor = _result_of(library.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        self._folders: dict[int, str] = {}
        self._watches: dict[str, int] = {}
        self._maps = threading.Lock()

    def fileno(self) -> int:
        return self._descriptor

    def close(self) -> None:
        """End all watches."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __len__(self) -> int:
        return len(self._watches)

    def follow(self, folder: str) -> None:
        """Tell of what happens in a folder from now on; the one that was at this path before is told of no more.

        A link is not followed, and a folder that cannot be watched is passed over: whoever lists it sees why.
        Raises :class:`OSError` where the kernel grants no more watches.
        """
        try:
            watch = _result_of(self._add_watch(self._descriptor, os.fsencode(folder), _WANTED))
        except OSError as error:
            if error.errno in _SHORTAGES:
                raise
            return
        if self._folders.get(watch) == folder and self._watches.get(folder) == watch:
            return
        with self._maps:
            earlier, self._watches[folder] = self._watches.get(folder), watch
            before, self._folders[watch] = self._folders.get(watch, folder), folder
            if before != folder and self._watches.get(before) == watch:
                del self._watches[before]  # it was moved here
            if earlier is not None and earlier != watch:
                self._drop(earlier)

    def leave(self, folders: Iterable[str]) -> None:
        """Tell no more of what happens in these folders."""
        with self._maps:
            for folder in folders:
                watch = self._watches.pop(folder, None)
                if watch is not None:
                    self._drop(watch)

    def followed(self) -> set[str]:
        """The folders that are watched."""
        return set(self._watches)

    def read(self) -> Iterator[Event]:
        """What has happened until now. Raises :class:`EventsLostError`."""
        waiting = array.array("i", [0])
        fcntl.ioctl(self._descriptor, termios.FIONREAD, waiting)
        data = os.read(self._descriptor, waiting[0]) if waiting[0] else b""
        place = 0
        while place < len(data):
            watch, mask, _, length = _HEAD.unpack_from(data, place)
            place += _HEAD.size + length
            if mask & _OVERFLOW:
                raise EventsLostError("the kernel's queue overflowed")
            folder = self._folders.get(watch)
            if mask & _IGNORED:
                self._forget(watch)
            elif folder is not None:
                name = data[place - length : place].rstrip(b"\0")
                change = Change.ADDED if mask & _ADDED else Change.DELETED if mask & _DELETED else Change.MODIFIED
                yield Event(folder, name, change, bool(mask & _IS_FOLDER) or not name)

    def _forget(self, watch: int) -> None:
        """The kernel has ended this watch: its folder is gone."""
        with self._maps:
            folder = self._folders.pop(watch, None)
            if folder is not None and self._watches.get(folder) == watch:
                del self._watches[folder]

    def _drop(self, watch: int) -> None:
        self._folders.pop(watch, None)
        self._remove_watch(self._descriptor, watch)  # the kernel may have ended it already


def _result_of(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
