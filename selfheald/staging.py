"""Staging: the private folder in which an initialization builds, and what earlier ones left behind."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from selfheald.client import OPEN_SAFELY
from selfheald.errors import InitializationError, from_os_error
from selfheald.workspace import Database, Folder, ensure_private_folder, open_folder

PREFIX = "staging-"


@dataclass(frozen=True, slots=True)
class Staging:
    """A staging folder; ``lock`` is its descriptor, which holds a ``flock`` on it for as long as it is in use."""

    folder: Path
    database: Path
    work: Path
    lock: int

    @property
    def held(self) -> Folder:
        """The folder as children reach it, whatever becomes of its name."""
        return Folder(self.folder, self.lock)


@contextmanager
def open_staging(database: Database, *, keep_on_error: bool = False) -> Iterator[Staging]:
    """Make a staging folder on the database's own file system, and remove it in the end.

    The staging database has the live one's file name, since its stem is the catalog name that dbt writes into SQL.
    ``keep_on_error`` leaves the folder where it is if the body raises an :class:`InitializationError`.
    """
    path = ensure_private_folder(database) / f"{PREFIX}{secrets.token_hex(4)}"
    keep = False
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
            yield Staging(path, path / database.path.name, path / "work", handle)
        except InitializationError:
            keep = keep_on_error
            raise
        finally:
            if not keep:
                _remove(path.name, handle, private)


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
    """Remove what killed initializations left: staging folders that nobody holds, and temporary files.

    Only called under the database's lock, so that no other process is just making one. Returns what was removed.
    """
    removed: list[Path] = []
    for folder in (database.folder, database.private):
        with suppress(OSError, InitializationError), open_folder(folder) as handle:
            for name in os.listdir(handle):
                with suppress(OSError):
                    if _is_temporary(name, database):
                        os.unlink(name, dir_fd=handle)
                    elif folder == database.private and name.startswith(PREFIX) and _is_folder(name, handle):
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


def _is_folder(name: str, folder: int) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)


def _is_temporary(name: str, database: Database) -> bool:
    """True for what a marker, status or history is before it gets its name."""
    begins = tuple(f".{database.path.name}.{kind}." for kind in ("ready", "status", "history"))
    return name.startswith(begins) and name.endswith(".tmp")


def has_leftovers(database: Database) -> bool:
    """True if a staging folder or temporary file lies there: in use, or left by a process that was killed."""
    try:
        names: list[str] = []
        for folder in (database.private, database.folder):
            with open_folder(folder) as handle:
                names += os.listdir(handle)
    except (OSError, InitializationError):
        return False
    return any(name.startswith(PREFIX) or _is_temporary(name, database) for name in names)


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
