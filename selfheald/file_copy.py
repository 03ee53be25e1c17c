"""A file's content copied in the way that costs least: shared by the file system, copied within it, or byte by byte."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import sys
from threading import Event

#: Linux' order to let one file share the other's blocks, until one of them is written to.
_FICLONE = 0x40049409
#: Bytes between two looks whether it is still wanted.
_AT_ONCE = 8 << 20
#: What tells that there is another way to copy, not that there is none.
_OTHER_WAY = frozenset({
    errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM,
    errno.ETXTBSY,
})  # fmt: skip


class StoppedError(Exception):
    """The copy is not wanted any more."""


def copy_content(source: int, target: int, stop: Event | None = None) -> None:
    """Give the empty file ``target`` the content of ``source``; both are open. Raises :class:`OSError`.

    Raises :class:`StoppedError` once ``stop`` is set. Nothing is synced.
    """
    if not _share(source, target):
        os.lseek(source, 0, os.SEEK_SET)
        done = _copy_within(source, target, stop)
        _read_and_write(source, target, done, stop)


def digest_of(descriptor: int, stop: Event | None = None) -> str:
    """``sha256:…`` of an open file's whole content. Raises as :func:`copy_content`."""
    digest, done = hashlib.sha256(), 0
    while True:
        _go_on(stop)
        block = os.pread(descriptor, _AT_ONCE, done)
        if not block:
            return f"sha256:{digest.hexdigest()}"
        digest.update(block)
        done += len(block)


def _share(source: int, target: int) -> bool:
    if sys.platform != "linux":
        return False
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno not in _OTHER_WAY:
            raise
        return False
    return True


def _copy_within(source: int, target: int, stop: Event | None) -> int:
    """Bytes that the kernel has copied by itself: none where it cannot."""
    done = 0
    while hasattr(os, "copy_file_range"):
        _go_on(stop)
        try:
            count = os.copy_file_range(source, target, _AT_ONCE, done, done)
        except OSError as error:
            if error.errno not in _OTHER_WAY:
                raise
            break
        if count == 0:
            break
        done += count
    return done


def _read_and_write(source: int, target: int, done: int, stop: Event | None) -> None:
    while True:
        _go_on(stop)
        block = memoryview(os.pread(source, _AT_ONCE, done))
        if not block:
            return
        while block:
            count = os.pwrite(target, block, done)
            done, block = done + count, block[count:]


def _go_on(stop: Event | None) -> None:
    if stop is not None and stop.is_set():
        raise StoppedError
