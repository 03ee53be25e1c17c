"""Errors with a stable code, the path they are about, their cause and their cure.

Standard library only, Python 3.9 and later: a simulator may carry a copy of this file.
"""

from __future__ import annotations

import errno
import os
import shlex
import stat
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing it would be a fifth of what a simulator pays for the client
    from typing import Any, Collection, Mapping, Optional, Sequence

#: Failures that a later attempt can overcome without anybody's help.
RETRYABLE = frozenset({"timeout", "disk_full", "locked", "interrupted", "concurrent_initialization"})

#: What to do next, for each code, where nothing more exact is known.
HINTS: Mapping[str, str] = {
    "missing_seed_file": "Put the seed's CSV file back into the dbt project, then run `selfheald wait` again.",
    "seed_invalid": "Mend the seed's CSV file, then run `selfheald wait` again.",
    "dbt_project_missing": "Set dbt.project_dir to a folder that holds a dbt_project.yml.",
    "dbt_project_invalid": "Mend the dbt project (`dbt parse` shows the same error), then try again.",
    "profile_invalid": "Let the profile's `path` read \"{{ env_var('DATABASE_PATH') }}\", then try again.",
    "selection_empty": "Correct required.select, or tag the models that simulations need.",
    "dbt_failed": "Mend the model that dbt names, then run `selfheald wait` again.",
    "dbt_unavailable": "Install dbt-core and dbt-duckdb into the interpreter that dbt.python names.",
    "timeout": "Raise dbt.timeout if the project needs longer; the log shows what took the time.",
    "database_corrupt": "Restore it from a back-up, or set it aside: `selfheald repair --quarantine`.",
    "database_newer": "Upgrade the DuckDB beside selfheald to the version that wrote the file.",
    "database_encrypted": "selfheald cannot read encrypted databases; decrypt it, or exclude its folder.",
    "not_a_database": "Move the file away, or give another path.",
    "schema_mismatch": "Rename or drop the table that differs, or set required.tables to what it really is.",
    "disk_full": "Free disk space; a daemon then goes on by itself.",
    "permission_denied": "Give the user that runs selfheald access to the path.",
    "unsafe_path": "Replace it with a plain file or folder, then try again.",
    "locked": "Close the connection that holds the database; a daemon then goes on by itself.",
    "concurrent_initialization": "Wait for the other initialization to end.",
    "verification_failed": "The dbt project made something other than what is required; see the log.",
    "interrupted": "A daemon tries again by itself; without one run `selfheald ensure` again.",
    "check_crashed": "The file crashed its reader; restore it from a back-up, or replace it.",
    "config_invalid": "Correct the configuration; `selfheald config validate` checks it.",
    "no_daemon": "Start the daemon (`selfheald run ROOT`), or run `selfheald ensure`.",
}


#: What a machine can lack for a while, and what to do then. What lacks it is tried again by itself.
SHORTAGES: Mapping[Optional[int], str] = {
    errno.EMFILE: "selfheald may open no more files: raise its limit (`ulimit -n`, LimitNOFILE=). "
    "A daemon then goes on by itself.",
    errno.ENFILE: "The machine has too many files open: close some programs. A daemon then goes on by itself.",
    errno.EAGAIN: "This user has too many processes: end some, or raise the limit (`ulimit -u`, TasksMax=). "
    "A daemon then goes on by itself.",
    errno.ENOMEM: "Memory is short: end some programs, or raise the limit (MemoryMax=). "
    "A daemon then goes on by itself.",
}


class InitializationError(Exception):
    """A database could not be made ready.

    ``code`` is one of the keys of :data:`HINTS` and never changes its meaning; ``step`` is the step of the
    initialization that failed (``check_tables``, ``load_seeds``, …); ``path`` is the file to look at;
    ``log`` the log that tells more; ``missing_tables`` the names of the tables that are still missing.
    """

    code = "dbt_failed"

    def __init__(
        self,
        message: str,
        *,
        step: Optional[str] = None,
        missing_tables: Sequence[str] = (),
        code: Optional[str] = None,
        hint: Optional[str] = None,
        path: Optional[object] = None,
        log: Optional[object] = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.step = step
        self.missing_tables = list(missing_tables)
        self.code = code or type(self).code
        self.path = None if path is None else str(path)
        if hint is None and self.code == "permission_denied" and self.path is not None:
            hint = access_hint(self.path, os.geteuid(), {os.getegid(), *os.getgroups()})
        self.hint = hint or HINTS.get(self.code, "")
        self.log = None if log is None else str(log)

    def __reduce__(self) -> Any:
        return (_restore, (type(self), self.args, self.__dict__))

    @property
    def sentence(self) -> str:
        """The message without the layout that dbt or DuckDB gave it: what fits into a log line."""
        return in_one_line(self.message)

    @property
    def retryable(self) -> bool:
        """True if the daemon tries again by itself."""
        return self.code in RETRYABLE

    def as_dict(self) -> dict[str, Any]:
        """The ERROR record of status files and ``--json``."""
        return {
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
            "path": self.path,
            "step": self.step,
            "log": self.log,
            "retryable": self.retryable,
        }


class InitializationTimeoutError(InitializationError):
    """A time limit was reached. Both figures are in seconds."""

    code = "timeout"

    def __init__(
        self, message: str, *, timeout_seconds: float = 0.0, elapsed_seconds: float = 0.0, **details: Any
    ) -> None:
        super().__init__(message, **details)
        self.timeout_seconds = timeout_seconds
        self.elapsed_seconds = elapsed_seconds


class ConcurrentInitializationError(InitializationError):
    """Another process initializes the same database; ``lock_file`` is what it holds."""

    code = "concurrent_initialization"

    def __init__(self, message: str, *, lock_file: Optional[object] = None, **details: Any) -> None:
        details.setdefault("path", lock_file)
        super().__init__(message, **details)
        self.lock_file = None if lock_file is None else str(lock_file)


class DatabaseCorruptionError(InitializationError):
    """The database at ``db_path`` is damaged. It was left as it is."""

    code = "database_corrupt"

    def __init__(self, message: str, *, db_path: Optional[object] = None, **details: Any) -> None:
        details.setdefault("path", db_path)
        super().__init__(message, **details)
        self.db_path = None if db_path is None else str(db_path)


def in_one_line(message: str) -> str:
    """A message that may have several lines, for a place that has room for one."""
    return " ".join(message.split())


def access_hint(path: str, user: int, groups: Collection[int], reached: Optional[Path] = None) -> Optional[str]:
    """The commands that let a user (by ids) use ``path``, or make it; ``None`` if nothing is seen to be in the way.

    Judged by owner, group and mode of what is there and of the folders above; where an ACL decides, nothing is said.
    The user is known to be in the folder ``reached``: what is above that is in nobody's way. (A service's sandbox shows
    a folder in a home that is closed to it.)
    """
    place = Path(os.path.abspath(path))
    passed = () if reached is None else reached.parents
    there = [each for each in (*reversed(place.parents), place) if each not in passed and os.path.lexists(each)]
    for each in there:
        found = each.lstat()
        is_used = each in (there[-1], place.parent)  # through the others one only passes
        letters = "x" if not is_used else "rwx" if stat.S_ISDIR(found.st_mode) else "rw"
        if not _may(found, letters, user, groups):
            return None if _has_acl(each) else f"Let uid {user} use it: {_cure(each, found, letters, user, groups)}"
    return None


def _may(found: os.stat_result, letters: str, user: int, groups: Collection[int]) -> bool:
    shift = 6 if found.st_uid == user else 3 if found.st_gid in groups else 0
    wanted = sum({"r": 4, "w": 2, "x": 1}[letter] for letter in letters)
    return user == 0 or (found.st_mode >> shift) & wanted == wanted


def _cure(path: Path, found: os.stat_result, letters: str, user: int, groups: Collection[int]) -> str:
    quoted = shlex.quote(str(path))
    if found.st_uid == user:
        return f"chmod u+{letters} {quoted}"
    above = path.parent.stat().st_gid
    group = above if above in groups else min(groups)
    chgrp = "" if found.st_gid in groups else f"chgrp {_group_name(group)} {quoted}; "
    return f"{chgrp}chmod g+{letters}{'s' if letters == 'rwx' else ''} {quoted}"


def _has_acl(path: Path) -> bool:
    try:
        return "system.posix_acl_access" in os.listxattr(path)
    except (AttributeError, OSError):
        return False


def _group_name(number: int) -> str:
    try:
        import grp

        return grp.getgrgid(number).gr_name
    except (ImportError, KeyError):
        return str(number)


def from_os_error(error: OSError, path: Optional[object], doing: str) -> InitializationError:
    """What the operating system refused while ``doing`` something with ``path``, as one of our codes."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        code = "disk_full"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        code = "permission_denied"
    elif error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO):
        code = "unsafe_path"
    else:
        code = "interrupted"
    what = doing if path is None else f"{doing} {path}"
    told = InitializationError(f"cannot {what}: {error.strerror}", code=code, hint=_hint(error, path), path=path)
    told.__cause__ = error
    return told


def is_shortage(error: Optional[InitializationError]) -> bool:
    """True if the machine had too few descriptors, processes or memory to begin: nothing is known, nothing was done."""
    cause = None if error is None else error.__cause__
    return isinstance(cause, OSError) and cause.errno in SHORTAGES


def _hint(error: OSError, path: Optional[object]) -> Optional[str]:
    """What to do, where the operating system's answer tells more than its code."""
    if error.errno in SHORTAGES:
        return SHORTAGES[error.errno]
    if error.errno == errno.EROFS:
        return "Its file system is read-only: mount it writable again; a daemon then goes on by itself."
    if error.errno == errno.EDQUOT:
        return "The disk quota of this user is used up: free some, or raise it; a daemon then goes on by itself."
    if error.errno == errno.ENOSPC and path is not None:
        return _hint_about_files(str(path))
    return None


def _hint_about_files(path: str) -> Optional[str]:
    folder = next((folder for folder in Path(path).parents if folder.is_dir()), Path())
    try:
        found = os.statvfs(folder)
    except OSError:
        return None
    if found.f_favail == 0 and found.f_files:
        return "The file system can hold no more files (inodes): delete some; a daemon then goes on by itself."
    return None


def from_dict(record: Mapping[str, Any]) -> InitializationError:
    """The error that an ERROR record tells of, in its own class. Missing keys are forgiven."""
    code = str(record.get("code") or "dbt_failed")
    message = str(record.get("message") or code)
    details: dict[str, Any] = {key: record.get(key) for key in ("step", "hint", "path", "log")}
    if code == "timeout":
        return InitializationTimeoutError(message, **details)
    if code == "concurrent_initialization":
        return ConcurrentInitializationError(message, lock_file=record.get("path"), **details)
    if code == "database_corrupt":
        return DatabaseCorruptionError(message, db_path=record.get("path"), **details)
    return InitializationError(message, code=code, **details)


def _restore(kind: type[InitializationError], args: tuple[Any, ...], state: dict[str, Any]) -> InitializationError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error
