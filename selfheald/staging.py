"""Staging: the private folder in which an initialization builds, and what earlier ones left behind."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from selfheald.errors import InitializationError, from_os_error
from selfheald.workspace import Database, ensure_private_folder

_PREFIX = "staging-"


@dataclass(frozen=True, slots=True)
class Staging:
    """A staging folder; ``lock`` is a descriptor that holds a ``flock`` on it for as long as it is in use."""

    folder: Path
    database: Path
    work: Path
    lock: int


@contextmanager
def open_staging(database: Database, *, keep_on_error: bool = False) -> Iterator[Staging]:
    """Make a staging folder on the database's own file system, and remove it in the end.

    The staging database has the live one's file name, since its stem is the catalog name that dbt writes into SQL.
    ``keep_on_error`` leaves the folder where it is if the body raises an :class:`InitializationError`.
    """
    private = ensure_private_folder(database)
    try:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=private))
    except OSError as error:
        raise from_os_error(error, private, "make a staging folder in") from error
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        folder.rmdir()
        raise from_os_error(error, folder, "open") from error
    keep = False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        work = folder / "work"
        work.mkdir()
        yield Staging(folder, folder / database.path.name, work, lock)
    except InitializationError:
        keep = keep_on_error
        raise
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def clean_leftovers(database: Database) -> list[Path]:
    """Remove what killed initializations left: staging folders that nobody holds, and temporary files.

    Only called under the database's lock, so that no other process is just making one. Returns what was removed.
    """
    removed: list[Path] = []
    if database.private.is_symlink() or not database.private.is_dir():
        return removed
    for entry in list(os.scandir(database.private)):
        if entry.name.startswith(_PREFIX) and entry.is_dir(follow_symlinks=False) and _is_free(entry.path):
            shutil.rmtree(entry.path, ignore_errors=True)
            removed.append(Path(entry.path))
    temporary = (
        f".{database.path.name}.ready.",
        f".{database.path.name}.status.",
        f".{database.path.name}.history.",
    )
    for folder in (database.folder, database.private):
        for entry in list(os.scandir(folder)):
            if entry.name.startswith(temporary) and entry.name.endswith(".tmp"):
                with suppress(OSError):
                    os.unlink(entry.path)
                    removed.append(Path(entry.path))
    return removed


def has_leftovers(database: Database) -> bool:
    """True if a staging folder lies there: in use, or left by a process that was killed."""
    try:
        with os.scandir(database.private) as listing:
            return any(entry.name.startswith(_PREFIX) for entry in listing)
    except OSError:
        return False


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


def _is_free(folder: str) -> bool:
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True
