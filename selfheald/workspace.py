"""Where things are: databases, workspaces, and the files that belong to them; and writing those files safely."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from selfheald import client
from selfheald.client import OPEN_SAFELY, make_private_folder, marker_path, real_path, request_path, status_path
from selfheald.errors import InitializationError, from_os_error

DATABASE_NAME = "simulation.duckdb"
PRIVATE_FOLDER = ".selfheald"
IGNORE_FILE = ".selfheald-ignore"
#: What a database that is still to be made may be called.
SUFFIXES = frozenset({".duckdb", ".ddb", ".db"})
#: Beside a database: the WAL, and what DuckDB 2.0 makes of it while it checkpoints or recovers.
WAL_SUFFIXES = (".wal", ".wal.checkpoint", ".wal.recovery")
#: What macOS has beside ``fsync``; ``None`` elsewhere.
FULL_SYNC: int | None = getattr(fcntl, "F_FULLFSYNC", None)


@dataclass(frozen=True, slots=True, order=True)
class Database:
    """A database's place, and the places of all files about it. The path is absolute; its folder is a real one."""

    path: Path

    @classmethod
    def at(cls, path: str | os.PathLike[str]) -> Database:
        """The database at ``path``: links in its folder's path are resolved, its own name is not followed."""
        absolute = Path(os.path.abspath(path))
        return cls(Path(real_path(absolute.parent)) / absolute.name)

    @property
    def folder(self) -> Path:
        return self.path.parent

    @property
    def private(self) -> Path:
        """``<dir>/.selfheald``."""
        return self.folder / PRIVATE_FOLDER

    @property
    def workspace(self) -> Path:
        """The folder that the database belongs to: its own, or the one above where that is named ``dbt``."""
        return self.folder.parent if self.folder.name == "dbt" else self.folder

    @property
    def marker(self) -> Path:
        return marker_path(self.path)

    @property
    def status(self) -> Path:
        return status_path(self.path)

    @property
    def request(self) -> Path:
        return request_path(self.path)

    @property
    def taken_request(self) -> Path:
        """The private name that a request has while the daemon works on it."""
        return self.private / f".{self.path.name}.request.taken"

    @property
    def lock(self) -> Path:
        return self.private / f"{self.path.name}.lock"

    @property
    def history(self) -> Path:
        return self.private / f"{self.path.name}.history"

    @property
    def logs(self) -> Path:
        return self.private / "logs"

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder that is held open: ``handle`` leads to it whatever becomes of its name meanwhile."""

    path: Path
    handle: int

    @property
    def fixed(self) -> Path:
        """A path that leads to this very folder, here and in children that inherit ``handle``.

        Where the system has no such paths (macOS) it is the ordinary one, which somebody who may write the folders
        above can redirect.
        """
        fixed = Path(f"/proc/self/fd/{self.handle}")
        return fixed if fixed.exists() else self.path


def get_database_path(environ: Mapping[str, str] | None = None) -> Path:
    """``$DATABASE_PATH``, else ``dbt/simulation.duckdb``; absolute."""
    given = (os.environ if environ is None else environ).get("DATABASE_PATH")
    return Path(os.path.abspath(given or Path("dbt") / DATABASE_NAME))


def resolve_database(given: str | os.PathLike[str] | None, name: str = DATABASE_NAME) -> Database:
    """The database that a user means by a path to a file or a folder, or by nothing (:func:`get_database_path`).

    In a folder it is whichever of ``simulation.duckdb`` and ``dbt/simulation.duckdb`` exists; if neither does, the
    one in ``dbt/`` where that folder exists. A folder with the database's own name stands in its place, and is not
    looked into. Raises ``config_invalid`` if both exist or the folder doesn't, ``permission_denied`` if one above it is
    closed to us.
    """
    path = get_database_path() if given is None else Path(os.path.abspath(given))
    # What asks with pathlib raises where a folder above is closed to us (before Python 3.14).
    if os.path.isdir(path) and path.name != name:
        direct, nested = path / name, path / "dbt" / name
        if os.path.lexists(direct) and os.path.lexists(nested):
            raise InitializationError(
                f"{path} has two databases: {direct} and {nested}",
                code="config_invalid",
                path=path,
                hint="Name one of the two files.",
            )
        path = direct if os.path.lexists(direct) or not os.path.isdir(nested.parent) else nested
    client.require_folder(path.parent)
    is_some_file = os.path.isfile(path) and os.path.getsize(path)
    if path.suffix.lower() not in SUFFIXES and path.name != name and not is_some_file:
        raise InitializationError(
            f"{path} is no folder, and not the name of a DuckDB database",
            code="config_invalid",
            path=path,
            hint=f"Name the workspace's folder, or a file such as {name}.",
        )
    return Database.at(path)


def is_reachable(folder: Path) -> bool:
    """True if the folder is there, and none above is closed to us: then ``Path.is_dir`` raises (before Python 3.14)."""
    return os.path.isdir(folder)


def is_under(path: Path, root: Path) -> bool:
    """True if ``path`` is ``root`` or lies below it. Both absolute and normal."""
    top = os.fspath(root)
    return path == root or os.fspath(path).startswith(top if top.endswith("/") else f"{top}/")


def merge_roots(roots: list[Path]) -> list[Path]:
    """The roots without those that lie in another one, in their order."""
    real = list(dict.fromkeys(Path(real_path(root)) for root in roots))
    return [root for root in real if not any(root != other and is_under(root, other) for other in real)]


def ensure_private_folder(database: Database) -> Path:
    """Make the database's ``.selfheald``. Raises :class:`InitializationError`."""
    try:
        make_private_folder(database.private)
    except OSError as error:
        raise from_os_error(error, database.private, "make") from error
    return database.private


@contextmanager
def open_folder(folder: Path) -> Iterator[int]:
    """A descriptor of a folder, for listing, syncing and as ``dir_fd``; no name in its path may be a symbolic link.

    Raises ``unsafe_path`` where one is, and :class:`OSError`.
    """
    try:
        with client.open_folder(folder) as passing:
            handle = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=passing)
    except NotADirectoryError as error:
        raise InitializationError(
            f"{folder} is not a folder, or one above it is a symbolic link", code="unsafe_path", path=folder
        ) from error
    try:
        yield handle
    finally:
        os.close(handle)


def write_atomically(path: Path, text: str, *, readable_like: Path | None = None, durable: bool = True) -> None:
    """Replace a file as a whole: temporary file in its folder, synced, renamed, then the folder synced.

    Who may read ``readable_like`` may read the file. Symbolic links are replaced, never followed. ``durable`` False
    leaves out the syncs, for what may be lost with the machine. Raises :class:`InitializationError`.
    """
    try:
        with open_folder(path.parent) as folder:
            _replace(folder, path.name, text, readable_like, durable)
    except OSError as error:
        raise from_os_error(error, path, "write") from error


def _replace(folder: int, name: str, text: str, readable_like: Path | None, durable: bool) -> None:
    like = _example(readable_like, folder)
    temporary = f".{name}.{os.urandom(6).hex()}.tmp"
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | OPEN_SAFELY, 0o600, dir_fd=folder)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            _let_read(stream.fileno(), like, folder)
            if durable:
                sync(stream.fileno())
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary, dir_fd=folder)
        raise
    if durable:
        sync(folder)


def sync(handle: int, fully: int | None = FULL_SYNC, control: Callable[[int, int], object] = fcntl.fcntl) -> None:
    """Have all that is in an open file, or folder, on the disk when this returns.

    What ``fsync`` hands to a disk may stay in its memory on macOS, until that is told to empty it; so everything that
    was handed to the same disk before is written then too. Some file systems there cannot be told.
    """
    if fully is not None:
        with suppress(OSError):
            control(handle, fully)
            return
    os.fsync(handle)


def remove_file(path: Path) -> bool:
    """Remove a file (a link itself, not what it leads to), or an empty folder in its place; False if there was none.

    Raises :class:`InitializationError`.
    """
    try:
        with client.open_folder(path.parent) as folder:
            try:
                os.unlink(path.name, dir_fd=folder)
            except (IsADirectoryError, PermissionError):  # the second is macOS' word for a folder too
                if not _is_folder(path.name, folder):
                    raise
                os.rmdir(path.name, dir_fd=folder)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise InitializationError(f"{path} is a folder, not a file", code="unsafe_path", path=path) from error
        raise from_os_error(error, path, "remove") from error
    return True


def _is_folder(name: str, folder: int) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)


def _example(like: Path | None, folder: int) -> os.stat_result:
    """The regular file whose readers are to read the new one; the folder where there is none."""
    found = None
    if like is not None:
        with suppress(OSError):
            found = like.lstat()
    return found if found is not None and stat.S_ISREG(found.st_mode) else os.fstat(folder)


def _let_read(handle: int, like: os.stat_result, folder: int) -> None:
    """Let those read a new file who can read the other; its owner too, be it through the folder's group."""
    mode, group = 0o600 | (stat.S_IMODE(like.st_mode) & 0o044), like.st_gid
    if like.st_uid != os.fstat(handle).st_uid:
        try:
            os.fchown(handle, like.st_uid, -1)
        except PermissionError:
            around = os.fstat(folder)
            mode, group = mode | (stat.S_IMODE(around.st_mode) & 0o044), around.st_gid
    if group != os.fstat(handle).st_gid:
        with suppress(PermissionError):
            os.fchown(handle, -1, group)
    os.fchmod(handle, mode)
