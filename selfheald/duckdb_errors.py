"""The one place where DuckDB's failures are told apart. No other module looks at its messages.

Its exception classes differ between versions (a wrong checksum is an ``IOException`` in 1.0.0, a plain ``Error`` in
2.0.0), so the words decide first and the class only afterwards. DuckDB verifies a block's checksum before it looks
into it: what was read intact but is not understood was not damaged, it was written by something newer.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping

from selfheald.errors import SHORTAGES, DatabaseCorruptionError, InitializationError, from_os_error
from selfheald.file_header import Header

_LONGEST = 300
_OLDEST_FORMAT = 64

#: Words in DuckDB's message, in lower case, and what they mean. The first that is found counts.
_WORDS: tuple[tuple[str, str], ...] = (
    (r"could not set lock|conflicting lock", "locked"),
    (r"no space left|disk quota|out of disk", "disk_full"),
    (r"memoryerror|out of memory|failed to allocate|could not allocate", "out_of_memory"),
    (r"permission denied|operation not permitted|permissionerror", "permission_denied"),
    (r"not a valid duckdb database", "not_a_database"),
    (r"wal does not match", "foreign_wal"),
    (r"checksum|corrupt", "database_corrupt"),
    (r"encrypt", "database_encrypted"),
    (r"version number (\d+)", "other_version"),
    (r"bytes read|could not read|failed to read|read \d+ bytes", "database_corrupt"),
    (r"no such file|does not exist on|is not served", "gone"),
    (r"extension", "other_version"),
)

#: Exceptions for contents that were read intact, and not understood.
_NOT_UNDERSTOOD = frozenset({
    "SerializationException", "NotImplementedException", "InvalidInputException", "InvalidTypeException",
    "CatalogException", "BinderException", "ParserException", "SyntaxException", "DependencyException",
    "NotSupportedError", "ProgrammingError", "UnicodeDecodeError",
})  # fmt: skip

_HINTS: Mapping[str, str] = {
    "foreign_wal": "Its WAL belongs to another file: move the WAL away, or restore both from a back-up.",
    "older": "Convert it with the DuckDB that wrote it: EXPORT DATABASE there, IMPORT DATABASE with a newer one.",
    "out_of_memory": "Open it once in DuckDB and run CHECKPOINT: its WAL is too long to be read beside it.",
}


def classify(failure: BaseException, path: object, header: Header | None = None) -> InitializationError:
    """The error that a failure of DuckDB, or of the file system beneath it, means for the database at ``path``."""
    if isinstance(failure, InitializationError):
        return failure
    if isinstance(failure, OSError):
        return _system_error(failure, path)
    text = _message(failure, path)
    # A path may say "corrupt": only what DuckDB says about it counts.
    kind, version = _kind(failure, text.replace(str(path), ""))
    if kind == "other_version":
        if version is not None and int(version) < _OLDEST_FORMAT:
            message = f"{path} has a format so old that this DuckDB cannot read it ({text})"
            return InitializationError(message, code="database_newer", hint=_HINTS["older"], path=path)
        writer = f", written by DuckDB {header.library_version}," if header and header.library_version else ""
        message = f"{path}{writer} cannot be read by this DuckDB ({text})"
        return InitializationError(message, code="database_newer", path=path)
    if kind == "out_of_memory":
        return InitializationError(
            f"{path} cannot be read within the memory limit ({text})",
            code="check_crashed", hint=_HINTS[kind], path=path,
        )  # fmt: skip
    if kind in ("database_corrupt", "foreign_wal"):
        return DatabaseCorruptionError(f"{path} is damaged ({text})", hint=_HINTS.get(kind), db_path=path)
    if kind == "gone":
        return InitializationError(f"{path} went away while it was read ({text})", code="locked", path=path)
    return InitializationError(f"{path}: {text}", code=kind, path=path)


def _kind(failure: BaseException, text: str) -> tuple[str, str | None]:
    """What is wrong, and the storage version that DuckDB names, if it names one."""
    if isinstance(failure, MemoryError):
        return "out_of_memory", None
    lowered = text.lower()
    for words, kind in _WORDS:
        match = re.search(words, lowered)
        if match is not None:
            return kind, match.group(1) if match.groups() else None
    if type(failure).__name__ in _NOT_UNDERSTOOD:
        return "other_version", None
    return "database_corrupt", None


def _message(failure: BaseException, path: object) -> str:
    """The first line of DuckDB's message in its own words, with the path in place of the address it was read by."""
    lines = str(failure).strip().splitlines() or [type(failure).__name__]
    text = re.sub(r"selfheald[0-9a-f]{16}://[0-9a-f]{32}/database", lambda _: str(path), lines[0])
    text = text.replace(" from Python file", "")  # how we read it concerns nobody
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _system_error(failure: OSError, path: object) -> InitializationError:
    text = failure.strerror or str(failure)
    if failure.errno in SHORTAGES:
        return from_os_error(failure, path, "read")
    if failure.errno == errno.EIO:
        return DatabaseCorruptionError(f"{path} cannot be read: {text}", db_path=path)
    code = {
        errno.EACCES: "permission_denied",
        errno.EPERM: "permission_denied",
        errno.ENOSPC: "disk_full",
        errno.EDQUOT: "disk_full",
        errno.ENOENT: "locked",
        errno.ESTALE: "locked",
    }.get(failure.errno or 0, "unsafe_path")
    return InitializationError(f"{path} cannot be read: {text}", code=code, path=path)
