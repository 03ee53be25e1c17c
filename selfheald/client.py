"""Wait until a database is ready: what a simulator calls before it starts.

    from selfheald.client import wait_until_ready

    wait_until_ready("workspace/dbt/simulation.duckdb", timeout=300)

Standard library only, Python 3.9 and later; with ``errors.py`` beside it this file may be copied into a simulator.
The database is only looked at with ``stat``: opening it, even for a moment, would drop a lock that this very
process may hold on it (POSIX record locks belong to the process, not to the descriptor).
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shlex
import stat as stat_module
import time
from contextlib import contextmanager
from pathlib import Path

from .errors import InitializationError, InitializationTimeoutError, access_hint, from_dict, from_os_error

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing it would be a fifth of what a simulator pays for this module
    from typing import Any, Callable, Dict, Generator, Iterator, List, Mapping, Optional, Union

    Progress = Callable[[Dict[str, Any]], None]
    PathLike = Union[str, "os.PathLike[str]"]

#: Seconds between two looks at marker and status.
POLL_SECONDS = 0.1
#: Seconds for which a daemon may be away (a restart) before a waiter gives up on it.
NO_DAEMON_SECONDS = 5.0
#: A marker, status or request file larger than this is not ours (bytes).
MAX_RECORD_BYTES = 1 << 20
#: Opening with these never waits (FIFO), never follows a link at the last name, and never leaks into a child.
OPEN_SAFELY = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

#: A folder on the way to another need not be readable, only passable.
_PASSING = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
#: On macOS: opens a path at once in which no name is a link; tells the path of what is open, in so many bytes at most.
_NO_LINKS = getattr(os, "O_NOFOLLOW_ANY", 0)
_TELL_PATH: Optional[int] = getattr(fcntl, "F_GETPATH", None)
_PATH_BYTES = 1024

_STATUS_KINDS: Mapping[str, Any] = {
    "state": (str,),
    "reason": (str,),
    "queue_position": (int,),
    "attempt": (int,),
    "next_attempt_at": (str,),
    "progress": (dict,),
    "eta_seconds": (int, float),
    "holder": (dict,),
    "error": (dict,),
    "warnings": (list,),
    "steps": (list,),
    "missing_tables_found": (list,),
    "tables_created": (list,),
}


def wait_until_ready(
    db: PathLike, timeout: Optional[float] = 300.0, on_progress: Optional[Progress] = None
) -> Dict[str, Any]:
    """Block until the database is ready and return its marker.

    ``timeout`` is in seconds; ``None`` or 0 wait for ever. ``on_progress`` is called with the status record whenever
    it differs from the one before.

    Raises :class:`InitializationTimeoutError` when the time is up, and :class:`InitializationError` (or a subclass)
    with the daemon's own error as soon as an initialization has failed for good, or with the code ``no_daemon``
    when no daemon has watched the path for 5 s; a request that nobody took is then removed again.
    """
    waiter = _steps(db, timeout, on_progress)
    while True:
        try:
            time.sleep(next(waiter))
        except StopIteration as done:
            marker: Dict[str, Any] = done.value
            return marker


async def wait_until_ready_async(
    db: PathLike, timeout: Optional[float] = 300.0, on_progress: Optional[Progress] = None
) -> Dict[str, Any]:
    """As :func:`wait_until_ready`, for asyncio. Cancelling it leaves nothing behind, no thread and no task."""
    import asyncio  # whoever calls this has it; for the others it would be most of what importing this module costs

    waiter = _steps(db, timeout, on_progress)
    while True:
        try:
            pause = next(waiter)
        except StopIteration as done:
            marker: Dict[str, Any] = done.value
            return marker
        await asyncio.sleep(pause)


def is_ready(db: PathLike) -> bool:
    """True if the marker is there and tells of the very file that is there, unchanged since."""
    return valid_marker(_located(db)) is not None


def _located(db: PathLike) -> Path:
    """The absolute path, links in its folder's resolved: from here on none is followed any more."""
    absolute = os.path.abspath(db)
    return Path(real_path(os.path.dirname(absolute)), os.path.basename(absolute))


def real_path(folder: PathLike, tell: Optional[int] = _TELL_PATH, control: Callable[..., bytes] = fcntl.fcntl) -> str:
    """The one path of a folder: absolute, without links, its names spelled as they are on disk.

    A file system that takes a name in any letter case or Unicode form (macOS) tells which it has itself; events come in
    that spelling. Where it does not tell, or there is no such folder, names stay as they were given.
    """
    real = os.path.realpath(folder)
    if tell is None:
        return real
    try:
        with open_folder(real) as handle:
            spelled = os.fsdecode(control(handle, tell, bytes(_PATH_BYTES)).split(b"\0", 1)[0])
            return spelled if os.path.samestat(os.stat(spelled), os.fstat(handle)) else real
    except (OSError, ValueError):
        return real


def valid_marker(database: Path) -> Optional[Dict[str, Any]]:
    """The database's marker if its whole identity is the file's own, else ``None``.

    Here and below, paths are absolute, and no folder in them is a symbolic link: what lies behind one is not looked at.
    """
    marker = read_record(marker_path(database))
    identity = file_identity(database)
    if marker is None or identity is None or marker.get("state") != "ready":
        return None
    recorded = marker.get("database")
    if not isinstance(recorded, dict):
        return None
    return marker if {key: recorded.get(key) for key in identity} == identity else None


def file_identity(path: PathLike) -> Optional[Dict[str, Any]]:
    """Device, inode, size in bytes and times in nanoseconds of a regular file and of its WAL.

    ``None`` if there is no regular file at that path; a symbolic link is not followed.
    """
    try:
        found = os.lstat(path)
    except (OSError, ValueError):
        return None
    if not stat_module.S_ISREG(found.st_mode):
        return None
    wal: Optional[Dict[str, int]] = None
    try:
        log = os.lstat(os.fspath(path) + ".wal")
        wal = {"size": log.st_size, "mtime_ns": log.st_mtime_ns, "ctime_ns": log.st_ctime_ns}
    except (OSError, ValueError):
        pass
    return {
        "device": found.st_dev,
        "inode": found.st_ino,
        "size": found.st_size,
        "mtime_ns": found.st_mtime_ns,
        "ctime_ns": found.st_ctime_ns,
        "wal": wal,
    }


def marker_path(database: Path) -> Path:
    """``D.ready``."""
    return database.with_name(database.name + ".ready")


def status_path(database: Path) -> Path:
    """``<dir>/.selfheald/<name>.status``."""
    return database.parent / ".selfheald" / (database.name + ".status")


def request_path(database: Path) -> Path:
    """``<dir>/.selfheald/<name>.request``."""
    return database.parent / ".selfheald" / (database.name + ".request")


@contextmanager
def open_folder(folder: PathLike) -> Iterator[int]:
    """A descriptor of a folder, as ``dir_fd`` for the names in it; no name on the way may be a symbolic link.

    So nobody can redirect what is done in it by putting a link in the place of a folder above. Raises
    :class:`NotADirectoryError` where one stands there, and other :class:`OSError`.
    """
    handle = _enter(os.fspath(folder))
    try:
        yield handle
    finally:
        os.close(handle)


def _enter(folder: str, at_once: int = _NO_LINKS) -> int:
    if at_once:
        return _pass(folder, at_once)
    handle = os.open("/", _PASSING)
    for name in os.path.abspath(folder).split("/"):
        if name:
            try:
                below = _pass(name, os.O_NOFOLLOW, handle)
            finally:
                os.close(handle)
            handle = below
    return handle


def _pass(path: str, flags: int, folder: Optional[int] = None) -> int:
    try:
        return os.open(path, _PASSING | flags, dir_fd=folder)
    except OSError as error:
        if error.errno == errno.ELOOP:  # macOS' word for a link, which to Linux is something that is no folder
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path) from error
        raise


def open_file(path: PathLike, flags: int, mode: int = 0o666) -> int:
    """A descriptor of the file, opened as :func:`open_folder` says and with :data:`OPEN_SAFELY`."""
    folder, name = os.path.split(os.fspath(path))
    with open_folder(folder) as directory:
        return os.open(name, flags | OPEN_SAFELY, mode, dir_fd=directory)


def read_record(path: Path) -> Optional[Dict[str, Any]]:
    """The JSON object in a small regular file; ``None`` for whatever else may be there."""
    try:
        handle = open_file(path, os.O_RDONLY)
    except (OSError, ValueError):
        return None
    try:
        found = os.fstat(handle)
        if not stat_module.S_ISREG(found.st_mode) or found.st_size > MAX_RECORD_BYTES:
            return None
        record = json.loads(os.read(handle, MAX_RECORD_BYTES).decode("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    finally:
        os.close(handle)
    return record if isinstance(record, dict) else None


def read_status(database: Path) -> Optional[Dict[str, Any]]:
    """The status record of a database; ``None`` if there is none, or none of the form that we write."""
    record = read_record(status_path(database))
    if record is None:
        return None
    for key, kinds in _STATUS_KINDS.items():
        if not isinstance(record.get(key), (*kinds, type(None))):
            return None
    return record if all(isinstance(step, dict) for step in record.get("steps") or ()) else None


def daemon_root(database: Path) -> Optional[Path]:
    """The folder above the database that a daemon watches, if it watches this very file; else ``None``.

    It does where ``.selfheald/daemon.lock`` is held, unless a ``.selfheald-ignore`` or a folder that it passes over
    lies in between, or it looks for files of another name.
    """
    real = Path(real_path(database.parent))
    between: List[str] = []
    for folder in (real, *real.parents):
        if os.path.lexists(folder / ".selfheald-ignore"):
            return None
        if is_held(folder / ".selfheald" / "daemon.lock"):
            daemon = read_record(folder / ".selfheald" / "daemon.json") or {}
            passed_over = set(daemon.get("exclude") or ()) & set(between)
            return None if passed_over or daemon.get("database", database.name) != database.name else folder
        between.append(folder.name)
    return None


def drop_request(database: Path) -> str:
    """Ask the daemon to make this database ready now; the id to wait for.

    The file appears whole and never overwrites one that is there: then the id is that one's. An empty id means that
    the one that is there names none; it will be taken soon, and one can ask again then.

    Raises :class:`InitializationError` if it cannot be written.
    """
    try:
        return _drop(request_path(database))
    except OSError as error:
        raise from_os_error(error, request_path(database), "write") from error


def _new_id() -> str:
    return os.urandom(8).hex()


def _drop(path: Path) -> str:
    make_private_folder(path.parent)
    own = _new_id()
    record = {
        "format": 1,
        "id": own,
        "requested_at": time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime()),
        "pid": os.getpid(),
        "host": os.uname().nodename,
    }
    draft = f".{path.name}.{own}"
    with open_folder(path.parent) as folder:
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | OPEN_SAFELY, 0o666, dir_fd=folder)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                json.dump(record, stream)
                # The daemon may be another user: it must be able to read the request whatever our umask is.
                os.fchmod(handle, 0o644 | (os.stat(".", dir_fd=folder).st_mode & 0o020))
            for _ in range(5):
                try:
                    os.link(draft, path.name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
                    return own
                except FileExistsError:
                    there = read_record(path)
                    if there is not None or _is_plain(path.name, folder):
                        return str((there or {}).get("id") or "")
                    # Taken between the two looks: ask again.
            return ""
        finally:
            os.unlink(draft, dir_fd=folder)


def _is_plain(name: str, folder: int) -> bool:
    """False if nothing stands there. Raises ``unsafe_path`` for what is no regular file: no daemon would take it."""
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    if not stat_module.S_ISREG(found.st_mode):
        raise InitializationError(f"{name} in .selfheald is not a plain file", code="unsafe_path")
    return True


def make_private_folder(folder: Path) -> bool:
    """Make a ``.selfheald`` folder with its parent's group, mode and setgid; True if it was not there.

    Raises :class:`InitializationError` with ``unsafe_path`` if something else stands at that path.
    """
    with open_folder(folder.parent) as above:
        mode = stat_module.S_IMODE(os.stat(".", dir_fd=above).st_mode) & ~stat_module.S_ISVTX
        try:
            os.mkdir(folder.name, mode & 0o777, dir_fd=above)
        except FileExistsError:
            if not stat_module.S_ISDIR(os.stat(folder.name, dir_fd=above, follow_symlinks=False).st_mode):
                raise InitializationError(f"{folder} is not a folder", code="unsafe_path", path=folder) from None
            return False
        flags = os.O_RDONLY | os.O_DIRECTORY | OPEN_SAFELY
        made = os.open(folder.name, flags, dir_fd=above)
        parent = os.stat(".", dir_fd=above)
    try:
        if os.fstat(made).st_gid != parent.st_gid:
            try:
                os.fchown(made, -1, parent.st_gid)
            except PermissionError:
                pass  # not a member of the group; the mode below still lets others of the group in where it can
        if stat_module.S_IMODE(os.fstat(made).st_mode) != mode:
            try:
                os.fchmod(made, mode)
            except PermissionError:
                pass  # a sandbox that grants no setgid: the folder has inherited it, and a narrower mode would drop it
    finally:
        os.close(made)
    return True


def _steps(
    db: PathLike, timeout: Optional[float], on_progress: Optional[Progress]
) -> Generator[float, None, Dict[str, Any]]:
    """The waiting itself: yields the seconds to pause, returns the marker, raises as documented above."""
    database = _located(db)
    marker = valid_marker(database)
    if marker is not None:
        return marker
    require_folder(database.parent)
    wait = _Wait(database, on_progress)
    began = time.monotonic()
    try:
        while True:
            marker = wait.look()
            if marker is not None:
                return marker
            waited = time.monotonic() - began
            if timeout and waited >= timeout:
                raise InitializationTimeoutError(
                    f"not ready after {timeout:g} s: {database}",
                    timeout_seconds=timeout,
                    elapsed_seconds=waited,
                    path=database,
                    hint=wait.advice(),
                )
            yield POLL_SECONDS if not timeout else max(0.001, min(POLL_SECONDS, timeout - waited))
    except InitializationError as error:
        if error.code != "timeout":
            wait.withdraw()
        raise


def require_folder(folder: Path) -> None:
    """Raise ``config_invalid`` if there is no such folder, ``permission_denied`` if it or one above is closed to us."""
    try:
        there = stat_module.S_ISDIR(os.stat(os.path.join(folder, ".")).st_mode)
    except PermissionError as error:
        raise from_os_error(error, folder, "use") from error
    except (OSError, ValueError):
        there = False
    if not there:
        raise InitializationError(
            f"the folder {folder} does not exist",
            code="config_invalid",
            path=folder,
            hint="Make the folder, or give another path (or DATABASE_PATH).",
        )


class _Wait:
    """One waiter's memory: which answer it waits for, and since when no daemon was seen."""

    def __init__(self, database: Path, on_progress: Optional[Progress]) -> None:
        self.database = database
        self.on_progress = on_progress
        self.request_id: Optional[str] = None
        #: Whether our request was gone when we looked last, and what was answered until then: an older one.
        self.taken = False
        self.older: object = None
        self.seen: Optional[Dict[str, Any]] = None
        self.daemon_seen_at = time.monotonic()
        self.daemon_looked_at = float("-inf")
        self.taken_at: Optional[float] = None
        self.dropped_at: Optional[float] = None
        self.root: Optional[Path] = None
        self.made_folder = False

    def look(self) -> Optional[Dict[str, Any]]:
        """The marker if the database is ready now; raises if it will not become so."""
        marker = valid_marker(self.database)
        if marker is None and self.request_id:
            marker = self._answered()
        if marker is not None:
            return marker
        waits = bool(self.request_id) and _id_in(request_path(self.database)) == self.request_id
        status = read_status(self.database)
        if status is not None and status != self.seen:
            self.seen = status
            if self.request_id and self.on_progress is not None:
                self.on_progress(status)
        self._judge(status, waits)
        self._watch_daemon()
        return None

    def advice(self) -> str:
        """What to do when the time is up."""
        lacking = lacks(self.database.parent)
        if lacking:
            return f"{lacking}; the daemon then goes on by itself. Then wait again."
        if self.request_id and os.path.lexists(request_path(self.database)):
            folder = self.database.parent
            return f"The daemon has not taken the request: may it write to {folder}? Its log tells."
        return f"Look why: `selfheald status {shlex.quote(str(self.database))}`. Or wait longer: --timeout."

    def withdraw(self) -> None:
        """Leave nothing behind that nobody took."""
        path = request_path(self.database)
        if self.request_id and _id_in(path) == self.request_id:
            try:
                with open_folder(path.parent) as folder:
                    os.unlink(path.name, dir_fd=folder)
            except FileNotFoundError:
                pass
        if self.made_folder:
            try:
                with open_folder(self.database.parent) as folder:
                    os.rmdir(path.parent.name, dir_fd=folder)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
                    raise

    def _answered(self) -> Optional[Dict[str, Any]]:
        """The marker that answers our request, also where a simulator has begun to write since."""
        marker = read_record(marker_path(self.database))
        if marker is None or marker.get("answers") != self.request_id:
            return None
        recorded = marker.get("database")
        identity = file_identity(self.database)
        if not isinstance(recorded, dict) or identity is None:
            return None
        same = all(recorded.get(key) == identity[key] for key in ("device", "inode"))
        return marker if same else None

    def _judge(self, status: Optional[Mapping[str, Any]], waits: bool) -> None:
        """Raise if the status answers us with a failure. ``waits``: ours was there still before it was read."""
        if not self.request_id:
            return
        taken_before, self.taken = self.taken, not waits
        if status is None:
            return
        answers = status.get("answers")
        if answers not in (self.request_id, None):
            if not taken_before:
                # Ours was taken at last just now: what was answered is an older one.
                self.older = answers
            elif answers != self.older:
                # A later request has been taken up: ours was merged into it.
                self.request_id = str(answers)
        if answers == self.request_id and status.get("state") == "failed" and not status.get("next_attempt_at"):
            error = status.get("error")
            raise from_dict(error if isinstance(error, dict) else {"message": "the initialization failed"})

    def _watch_daemon(self) -> None:
        now = time.monotonic()
        if now - self.daemon_looked_at >= 0.5 or not self.request_id:
            self.daemon_looked_at = now
            self.root = daemon_root(self.database)
            if self.root is not None:
                self.daemon_seen_at = now
                self._ask(now)
        if now - self.daemon_seen_at >= NO_DAEMON_SECONDS:
            raise InitializationError(
                f"no daemon watches {self.database}",
                code="no_daemon",
                path=self.database,
                hint="Start one (`selfheald run ROOT`), or make it ready here: `selfheald ensure`.",
            )

    def _ask(self, now: float) -> None:
        """Drop a request; and again where one was taken and neither verdict nor progress came of it."""
        if self.request_id:
            if os.path.lexists(request_path(self.database)):
                self._despair(now)
                self.taken_at = None
                return
            self.dropped_at = None
            if (self.seen or {}).get("answers") == self.request_id:
                self.taken_at = None
                return
            self.taken_at = self.taken_at or now
            if now - self.taken_at < NO_DAEMON_SECONDS:
                return
        self.taken_at = None
        self.taken = False
        fresh = not os.path.lexists(request_path(self.database).parent)
        self.request_id = drop_request(self.database)
        self.made_folder = self.made_folder or fresh

    def _despair(self, now: float) -> None:
        """Raise if the request is not taken because the daemon, another user, may not do so."""
        self.dropped_at = self.dropped_at or now
        if now - self.dropped_at < NO_DAEMON_SECONDS or self.root is None:
            return
        daemon = read_record(self.root / ".selfheald" / "daemon.json") or {}
        user, groups = daemon.get("uid"), daemon.get("groups")
        if isinstance(user, int) and isinstance(groups, list) and groups:
            folder = request_path(self.database).parent
            known = [group for group in groups if isinstance(group, int)]
            hint = access_hint(str(folder), user, known, reached=self.root)
            if hint is not None:
                raise InitializationError(
                    f"the daemon may not use {folder}", code="permission_denied", path=folder, hint=hint
                )


def lacks(folder: Path) -> Optional[str]:
    """What the folder's file system lacks for anybody to make a database ready there, as a next step."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return None
    if found.f_flag & os.ST_RDONLY:
        return f"The file system of {folder} is read-only: mount it writable"
    if found.f_blocks and not found.f_bavail:
        return f"The file system of {folder} is full: free disk space"
    if found.f_files and not found.f_favail:
        return f"The file system of {folder} can hold no more files (inodes): delete some"
    return None


def _id_in(request: Path) -> object:
    """The id that a request names, if it is there and names one."""
    return (read_record(request) or {}).get("id")


def is_held(lock_file: PathLike) -> bool:
    """True if somebody holds an exclusive ``flock`` on a regular file; asking takes a shared one for an instant."""
    try:
        handle = open_file(lock_file, os.O_RDONLY)
    except (OSError, ValueError):
        return False
    try:
        if not stat_module.S_ISREG(os.fstat(handle).st_mode):
            return False
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EWOULDBLOCK, errno.EACCES)
    finally:
        os.close(handle)
    return False
