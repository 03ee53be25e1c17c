"""Sets a corrupt database aside, with its WAL family: renamed, never deleted, never over a name that is there.

Nobody may have it open, and it must be the very file that was found corrupt: somebody may be restoring a good one at
that path just now. So it must have been quiet for a while; it is locked as DuckDB locks it, compared with what was
read, renamed, and compared again; what turns out to be another file is put back.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager

from selfheald.errors import InitializationError, from_os_error
from selfheald.locks import OPEN_SAFELY, DatabaseLock, Holder
from selfheald.marker import remove_marker
from selfheald.table_checker import Reading, read_in_child
from selfheald.workspace import WAL_SUFFIXES, Database, ensure_private_folder, open_folder, sync

#: Seconds for which the renamed file stays locked: who opened it before, and is about to lock it, gives it up then.
HOLD_SECONDS = 0.010

#: Seconds for which nobody may have written to it: a copy that is under way looks cut short, and holds no lock.
QUIET_SECONDS = 1.0

#: Device, inode, size in bytes and mtime in ns: what renaming leaves as it is.
_Facts = tuple[int, int, int, int]


def quarantine(database: Database) -> list[str]:
    """Rename a corrupt database and its WALs to ``….corrupt-<time>``; the new paths, the database's first.

    Killed in the middle, it leaves WALs without their database: that counts as corrupt, so it can be called again.
    Raises :class:`InitializationError` if it is not corrupt, if somebody has it open or is at work on it, or if it
    changes meanwhile; then all is where it was. A WAL that is written when the database is set aside already is not
    its own, and stays.

    WARNING: only for a process that does not have the database open in DuckDB: what is opened here is closed again.
    """
    if not os.path.lexists(database.private):  # a refusal leaves nothing behind
        _require_corrupt(database, read_in_child(database.path))
    ensure_private_folder(database)
    with DatabaseLock(database.lock), open_folder(database.folder) as folder:
        try:
            seen = _family(database, folder)
            _wait_until_quiet(seen)
            _require_corrupt(database, read_in_child(database.path))
            with _locked(database, folder):
                if _family(database, folder) != seen:
                    raise _changed(database)
                remove_marker(database)
                moved: list[str] = []
                for name, new in _renames(seen, folder):
                    if _set_aside(database, folder, name, new, seen[name]):
                        moved.append(new)
                    elif not moved:
                        raise _changed(database)
                sync(folder)
                time.sleep(HOLD_SECONDS)
        except OSError as error:
            raise from_os_error(error, database, "set aside") from error
    return [str(database.folder / name) for name in moved]


def _family(database: Database, folder: int) -> dict[str, _Facts]:
    """The database and its WALs, as far as they are there; the database first."""
    found = {name: _facts(name, folder) for name in (database.path.name + suffix for suffix in ("", *WAL_SUFFIXES))}
    return {name: facts for name, facts in found.items() if facts is not None}


def _wait_until_quiet(seen: dict[str, _Facts]) -> None:
    """Wait until nobody has written for a second; who goes on writing is seen by what is compared later."""
    newest = max((facts[3] for facts in seen.values()), default=0) / 1e9
    # A stamp of the future is another host's clock: comparing it with ours tells nothing.
    time.sleep(min(QUIET_SECONDS, max(0.0, newest + QUIET_SECONDS - time.time())))


def _require_corrupt(database: Database, reading: Reading) -> None:
    if reading.holder is not None:
        raise held_by(database, reading.holder)
    if not reading.certain:
        raise _changed(database)
    if not reading.exists and reading.error is None:
        raise InitializationError(
            f"nothing to set aside: there is no database at {database}",
            code="config_invalid",
            path=database,
            hint="Correct the path; or let one be made: `selfheald wait`.",
        )
    if reading.error is None or reading.error.code != "database_corrupt":
        why = "it is not corrupt" if reading.error is None else f"it is not corrupt, but {reading.error.code}"
        raise InitializationError(
            f"nothing to set aside: {why}",
            code="config_invalid",
            path=database,
            hint="`selfheald check` tells what there is.",
        )


def held_by(database: Database, holder: Holder) -> InitializationError:
    """The error for a database that somebody has open."""
    who = "another process" if holder.pid is None else f"PID {holder.pid} ({holder.command})"
    return InitializationError(
        f"{who} has it open", code="locked", path=database, hint="Close that connection, then say it again."
    )


def _changed(database: Database) -> InitializationError:
    return InitializationError(
        "somebody is writing or replacing it just now: nothing was set aside",
        code="locked",
        path=database,
        hint="Look at what is there now (`selfheald check`), then say it again if need be.",
    )


@contextmanager
def _locked(database: Database, folder: int) -> Iterator[None]:
    """Hold DuckDB's lock on the database, if there is one: nobody has it open, and nobody gets it meanwhile."""
    try:
        handle = os.open(database.path.name, os.O_RDWR | OPEN_SAFELY, dir_fd=folder)
    except FileNotFoundError:
        yield
        return
    try:
        _lock(database, handle)
        yield
    finally:
        os.close(handle)


def _lock(database: Database, handle: int) -> None:
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        raise held_by(database, Holder(None, None, "write")) from error


def _renames(seen: dict[str, _Facts], folder: int) -> list[tuple[str, str]]:
    """Each name and its new one: of the same moment, and none of them there. The database itself goes first."""
    moment = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    for number in itertools.count(1):
        suffix = f".corrupt-{moment}" + (f"-{number}" if number > 1 else "")
        if not any(_is_there(name + suffix, folder) for name in seen):
            break
    return [(name, name + suffix) for name in seen]


def _set_aside(database: Database, folder: int, name: str, new: str, seen: _Facts) -> bool:
    """Rename a file; put it back (False) if it proves to be another one than was seen."""
    os.rename(name, new, src_dir_fd=folder, dst_dir_fd=folder)
    if _facts(new, folder) == seen:
        return True
    # Somebody's good file, put there in the last moment. Never over what may have come to its place since.
    try:
        os.link(new, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
        os.unlink(new, dir_fd=folder)
    except OSError as error:
        raise InitializationError(
            f"another file was put at {database.folder / name} meanwhile, and is now at {database.folder / new}",
            code="locked",
            path=database.folder / new,
            hint=f"Move it back if it is the good one: mv -n '{database.folder / new}' '{database.folder / name}'",
        ) from error
    return False


def _facts(name: str, folder: int) -> _Facts | None:
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found.st_mode):
        raise InitializationError(f"{name} is not a plain file", code="unsafe_path", path=name)
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def _is_there(name: str, folder: int) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
