"""Puts a finished database file where a simulator may be about to open, or to make, one of its own.

Whoever opens a database asks first whether it is there, then opens, then locks. Between two of these steps the answer
can grow stale; so a file appears, or is replaced, only while this process holds a lock on it, and keeps the lock for
a moment longer, and until nobody else has the file open: who was on the way then fails to get its lock, instead of
writing to a file that is no longer the one at the path, or an empty database over a finished one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
import sys
import time
from typing import Any, Callable, Iterator, Optional

from .latecomers import keep_locked
from .refusals import BusyError, ChangedError, JobError

#: Where DuckDB keeps what is not yet in the main file; the last two since 1.5.
WAL_SUFFIXES = (".wal", ".wal.checkpoint", ".wal.recovery")

#: Seconds for which a new file stays locked, and an empty one before it is replaced; and at most, while others have
#: them open. It all holds for whoever needs less than that from the look whether the file is there to the try to lock.
HOLD_NEW = 0.010
HOLD_REPLACED = 0.050
HOLD_AT_MOST = 2.0
#: The same for the file that was replaced, which is in nobody's way any more. Where it cannot be seen whether others
#: have it open (it may belong to another user), it stays locked for the second.
HOLD_ORPHAN_AT_MOST, HOLD_ORPHAN_UNSEEN = 10.0, 0.5

#: What macOS has beside ``fsync``; ``None`` elsewhere.
FULL_SYNC: Optional[int] = getattr(fcntl, "F_FULLFSYNC", None)
#: What file systems answer that have no hard links.
_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
_SAFELY = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


def put_in_place(new: str, database: str) -> None:
    """Give the closed database file ``new`` the path ``database``, which is free or an empty file.

    ``new`` must be on the same file system, and nobody else's; it is gone from its old path afterwards.
    """
    folder, name = os.path.split(database)
    with _folder(folder) as directory, _opened(new, os.O_RDWR) as fresh:
        look_for_room(database)
        sync(fresh)
        _lock(fresh)
        if _is_absent(directory, name) and _link(new, fresh, directory, name):
            return
        with _empty_file(directory, name) as old:
            _take_after(old, fresh)
            sync(fresh)
            # Before the rename: whoever is making a database of the empty file has no lock then, and gives it up,
            # even if this process is killed from here on. Afterwards it would write to a file that is at no path.
            time.sleep(HOLD_REPLACED)
            look_for_room(database)
            _require_empty(old, directory, name)
            os.rename(new, name, dst_dir_fd=directory)
            sync(directory)
            keep_locked(fresh, HOLD_NEW, HOLD_AT_MOST, HOLD_NEW)
            _unlock(fresh)
            keep_locked(old, 0.0, HOLD_ORPHAN_AT_MOST, HOLD_ORPHAN_UNSEEN)


def look_for_room(database: str) -> None:
    """Raise unless ``database`` is absent or an empty file, and has no WAL beside it."""
    try:
        found = os.lstat(database)
    except FileNotFoundError:
        found = None
    if found is not None and not stat.S_ISREG(found.st_mode):
        raise JobError("unsafe_path", f"{database} is not a regular file", path=database)
    if found is not None and found.st_size > 0:
        raise ChangedError(f"{database} has come into being meanwhile")
    for suffix in WAL_SUFFIXES:
        if os.path.lexists(database + suffix):
            raise JobError(
                "database_corrupt",
                f"{database} is {'absent' if found is None else 'empty'}, but its WAL is there: {database}{suffix}",
                "The database may have been lost while it was in use. Restore it, or move the WAL away.",
                path=database + suffix,
            )


def _link(new: str, fresh: int, directory: int, name: str) -> bool:
    """Make the file appear at its path unless there is one by now (False)."""
    _share(directory, fresh)
    try:
        os.link(new, name, dst_dir_fd=directory, follow_symlinks=False)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        with contextlib.suppress(FileExistsError):  # then as if somebody had left an empty file
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _SAFELY, 0o666, dir_fd=directory))
        return False
    os.unlink(new)
    sync(directory)
    keep_locked(fresh, HOLD_NEW, HOLD_AT_MOST, HOLD_NEW)
    return True


@contextlib.contextmanager
def _empty_file(directory: int, name: str) -> Iterator[int]:
    """The empty file at the path, locked, so that whoever is making a database of it has either begun or cannot."""
    try:
        old = os.open(name, os.O_RDWR | _SAFELY, dir_fd=directory)
    except FileNotFoundError:
        raise ChangedError(f"{name} was there a moment ago, and is gone") from None
    try:
        _lock(old)
        _require_empty(old, directory, name)
        yield old
    finally:
        os.close(old)


def _require_empty(old: int, directory: int, name: str) -> None:
    """Raise unless the locked file is the one at the path, and still empty."""
    mine = os.fstat(old)
    try:
        there = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        raise ChangedError(f"{name} was there a moment ago, and is gone") from None
    if mine.st_size > 0 or not stat.S_ISREG(mine.st_mode) or not os.path.samestat(mine, there):
        raise ChangedError(f"{name} is not empty any more")


def sync(descriptor: int, fully: Optional[int] = FULL_SYNC, control: Callable[[int, int], Any] = fcntl.fcntl) -> None:
    """Have all that is in the file on the disk: on macOS ``fsync`` alone may leave it in the disk's memory."""
    if fully is not None:
        with contextlib.suppress(OSError):  # not every file system there can
            control(descriptor, fully)
            return
    os.fsync(descriptor)


def _share(directory: int, fresh: int) -> None:
    """In a folder that is shared (setgid), who may read and write the folder may the file, whatever our umask."""
    folder, given = os.fstat(directory), os.fstat(fresh)
    if folder.st_mode & stat.S_ISGID:
        with contextlib.suppress(OSError):
            if given.st_gid != folder.st_gid:
                os.fchown(fresh, -1, folder.st_gid)
            os.fchmod(fresh, stat.S_IMODE(given.st_mode) | folder.st_mode & 0o060)


def _take_after(old: int, fresh: int) -> None:
    """Owner, group, mode, ACL and other attributes of the file that is replaced, as far as allowed."""
    wanted, given = os.fstat(old), os.fstat(fresh)
    if wanted.st_gid != given.st_gid:
        with contextlib.suppress(OSError):
            os.fchown(fresh, -1, wanted.st_gid)
    if wanted.st_uid != given.st_uid:
        with contextlib.suppress(OSError):
            os.fchown(fresh, wanted.st_uid, -1)
    with contextlib.suppress(OSError):
        os.fchmod(fresh, stat.S_IMODE(wanted.st_mode))
    if hasattr(os, "listxattr"):  # Linux; an ACL is one of them
        with contextlib.suppress(OSError):
            for attribute in os.listxattr(old):
                with contextlib.suppress(OSError):
                    os.setxattr(fresh, attribute, os.getxattr(old, attribute))


def _is_absent(directory: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return True
    return False


@contextlib.contextmanager
def _folder(path: str) -> Iterator[int]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ChangedError(f"{path} is gone") from None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise JobError("unsafe_path", f"{path} is not a folder", path=path) from error
        raise
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _opened(path: str, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags | _SAFELY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    """Lock the whole file for writing, against DuckDB's own locks, until the descriptor is closed.

    The lock belongs to the descriptor where the system knows such (Linux), else to the process, which for that reason
    must have no other descriptor of the file.
    """
    try:
        _set_lock(descriptor, fcntl.F_WRLCK, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise BusyError("another process holds a lock on the empty file") from error
        raise


def _unlock(descriptor: int) -> None:
    _set_lock(descriptor, fcntl.F_UNLCK, fcntl.LOCK_UN)


def _set_lock(descriptor: int, kind: int, elsewhere: int) -> None:
    # Other systems may have the name too, and lay the structure out in their own way.
    if sys.platform == "linux" and hasattr(fcntl, "F_OFD_SETLK"):
        # struct flock: type, whence, start, length (0: to the end, wherever that will be), pid.
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", kind, os.SEEK_SET, 0, 0, 0))
    else:
        fcntl.lockf(descriptor, elsewhere)
