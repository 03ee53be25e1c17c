"""Why a publishing did not happen: two answers that mean "not now", and DuckDB's failures told apart."""

from __future__ import annotations

import contextlib
import re
from typing import Iterator, Tuple

import duckdb

from placing.refusals import BusyError as BusyError
from placing.refusals import ChangedError as ChangedError
from protocol import JobError

#: The messages of DuckDB 1.0 to 2.0. Its exception classes differ between versions, its words hardly do.
_MEANINGS: Tuple[Tuple[str, str], ...] = (
    ("disk_full", r"no space left on device|disk quota exceeded|max_temp_directory_size|file too large"),
    ("permission_denied", r"permission denied|read-only file system|operation not permitted"),
    ("database_encrypted", r"encrypt"),
    ("database_newer", r"version number \d+|newer version of duckdb|storage version"),
    ("not_a_database", r"not a valid duckdb database file|is a directory"),
    (
        "database_corrupt",
        r"corrupt|checksum|could not read enough bytes|failure while replaying wal|failed to deserialize",
    ),
    ("interrupted", r"out of memory|could not allocate|too many open files|resource temporarily unavailable"),
)
_LOCKED = re.compile(r"could not set lock on file", re.IGNORECASE)
_CODES = tuple((code, re.compile(pattern, re.IGNORECASE)) for code, pattern in _MEANINGS)


@contextlib.contextmanager
def told_of(path: str) -> Iterator[None]:
    """Raise what DuckDB raises inside as a :class:`JobError` about ``path``, or as :class:`BusyError`."""
    try:
        yield
    except duckdb.Error as error:
        message = " ".join(str(error).split())
        if _LOCKED.search(message):
            raise BusyError(message) from error
        for code, pattern in _CODES:
            if pattern.search(message):
                raise JobError(code, message, path=path) from error
        raise JobError("verification_failed", message, path=path) from error
