"""Staging: the private folder in which an initialization builds, and what earlier ones left behind."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from selfheald.client import OPEN_SAFELY
from selfheald.errors import InitializationError, from_os_error
from selfheald.workspace import Database, Folder, ensure_private_folder, open_folder

#: Seconds for which a folder is kept that a person wanted to see, unless the next success removes it before.
KEPT_SECONDS = 7 * 86400.0

PREFIX = "staging-"
_KEPT_PREFIX = "kept-"


@dataclass(frozen=True, slots=True)
class Staging:
    """A staging folder; ``lock`` is its descriptor, which holds a ``flock`` on it for as long as it is in use."""

    folder: Path
    database: Path
    work: Path
    lock: int

    @property
    def kept(self) -> Path:
        """The folder's name once it is kept: one that clean-up leaves alone."""
        return self.folder.with_name(self.folder.name.replace(PREFIX, _KEPT_PREFIX, 1))

    @property
    def held(self) -> Folder:
        """The folder as children reach it, whatever becomes of its name."""
        return Folder(self.folder, self.lock)


@contextmanager
def open_staging(database: Database, *, keep_on_error: bool = False) -> Iterator[Staging]:
    """Make a staging folder on the database's own file system, and remove it in the end.

    The staging database has the live one's file name, since its stem is the catalog name that dbt writes into SQL.
    ``keep_on_error`` keeps it under another name (:attr:`Staging.kept`) if the body raises an
    :class:`InitializationError`. One kept folder replaces another, and the next success removes it.
    """
    path = ensure_private_folder(database) / f"{PREFIX}{secrets.token_hex(4)}"
    kept = False
    with ExitStack() as stack:
        try:
            private = stack.enter_context(open_folder(path.parent))
            os.mkdir(path.name, 0o700, dir_fd=private)
            try:
                handle = os.open(path.name, os.O_RDONLY | os.O_DIRECTORY | OPEN_SAFELY, dir_fd=private)
            except OSError:
                os.rmdir(path.name, dir_fd=private)
                raise
        except OSError as error:
            raise from_os_error(error, path, "make") from error
        stack.callback(os.close, handle)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.mkdir("work", dir_fd=handle)
            staging = Staging(path, path / database.path.name, path / "work", handle)
            yield staging
            _remove_kept(private)
        except InitializationError:
            if keep_on_error:
                _remove_kept(private)
                with suppress(OSError):  # then it goes as if nobody had asked for it
                    os.rename(path.name, staging.kept.name, src_dir_fd=private, dst_dir_fd=private)
                    kept = True
            raise
        finally:
            if not kept:
                _remove(path.name, handle, private)


def write_private(staging: Staging, name: str, text: str) -> None:
    """Write a file into the folder that only its owner may read, whatever has become of the folder's name.

    Where there is no room for it, it is not there.
    """
    with suppress(OSError):
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with os.fdopen(os.open(name, flags, 0o600, dir_fd=staging.lock), "w", encoding="utf-8") as file:
            file.write(text)


def _remove_kept(private: int) -> None:
    with suppress(OSError):
        for name in os.listdir(private):
            if name.startswith(_KEPT_PREFIX) and _is_folder(name, private):
                with suppress(BlockingIOError):
                    _remove_free(name, private)


def _remove(name: str, handle: int, private: int) -> None:
    """Remove all that is in the open folder, and its name if that still leads to it."""
    with suppress(OSError):  # what cannot be removed now is a leftover
        for entry in os.listdir(handle):
            if _is_folder(entry, handle):
                shutil.rmtree(entry, ignore_errors=True, dir_fd=handle)
            else:
                os.unlink(entry, dir_fd=handle)
        os.rmdir(name, dir_fd=private)


def clean_leftovers(database: Database) -> list[Path]:
    """Remove what killed initializations left: staging folders that nobody holds, temporary files, old kept folders.

    Only called under the database's lock, so that no other process is just making one. Returns what was removed.
    """
    removed: list[Path] = []
    for folder in (database.folder, database.private):
        with suppress(OSError, InitializationError), open_folder(folder) as handle:
            for name in os.listdir(handle):
                with suppress(OSError):
                    if _is_temporary(name, database):
                        os.unlink(name, dir_fd=handle)
                    elif folder == database.private and _is_leftover(name, handle):
                        _remove_free(name, handle)
                    else:
                        continue
                    removed.append(folder / name)
    return removed


def _remove_free(name: str, private: int) -> None:
    """Remove a staging folder; raises :class:`BlockingIOError` if somebody holds it."""
    handle = os.open(name, os.O_RDONLY | os.O_DIRECTORY | OPEN_SAFELY, dir_fd=private)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove(name, handle, private)
    finally:
        os.close(handle)


def _is_leftover(name: str, private: int) -> bool:
    return (name.startswith(PREFIX) and _is_folder(name, private)) or _is_old_kept(name, private)


def _is_old_kept(name: str, private: int) -> bool:
    """True for a folder that was kept for a person, who has not run anything in it for so long."""
    if not name.startswith(_KEPT_PREFIX) or not _is_folder(name, private):
        return False
    changed = os.stat(name, dir_fd=private, follow_symlinks=False).st_mtime
    return time.time() - changed > KEPT_SECONDS


def _is_folder(name: str, folder: int) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)


def _is_temporary(name: str, database: Database) -> bool:
    """True for what a marker, status or history is before it gets its name."""
    begins = tuple(f".{database.path.name}.{kind}." for kind in ("ready", "status", "history"))
    return name.startswith(begins) and name.endswith(".tmp")


def has_leftovers(database: Database) -> bool:
    """True if a staging folder or temporary file lies there: in use, or left by a process that was killed."""
    try:
        with open_folder(database.private) as handle:
            names = os.listdir(handle)
            if any(name.startswith(PREFIX) or _is_old_kept(name, handle) for name in names):
                return True
        with open_folder(database.folder) as handle:
            names += os.listdir(handle)
    except (OSError, InitializationError):
        return False
    return any(_is_temporary(name, database) for name in names)


def require_space(folder: Path, *, minimum: int, staging_bytes: int) -> None:
    """Raise ``disk_full`` unless ``minimum`` bytes and twice what staging will hold are free on the file system."""
    found = os.statvfs(folder)
    free = found.f_bavail * found.f_frsize
    needed = minimum + 2 * staging_bytes
    if free < needed:
        raise InitializationError(
            f"{free / 1e6:.0f} MB are free on the file system of {folder}, {needed / 1e6:.0f} MB are needed",
            code="disk_full",
            path=folder,
            hint="Free disk space, or lower limits.min_free_bytes; a daemon then goes on by itself.",
        )
