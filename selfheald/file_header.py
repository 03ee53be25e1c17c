"""What the first bytes of a database file tell, read without DuckDB.

Layout, all numbers little-endian (DuckDB 1.0.0 to 2.0.0): the main header at 0, the two database headers at 4096
and 8192, of which the one with the higher iteration is live; blocks follow from 12288.
"""

from __future__ import annotations

import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

from selfheald.errors import SHORTAGES, DatabaseCorruptionError, InitializationError, from_os_error
from selfheald.locks import OPEN_SAFELY

#: Bytes before the first block.
BLOCKS_START = 12288

_MAGIC = b"DUCK"
_HEADER = 4096
_ENCRYPTED = 1
_BLOCK_SIZES = frozenset(1 << power for power in range(14, 19))


@dataclass(frozen=True, slots=True)
class Header:
    """Facts from a file's headers; sizes in bytes.

    ``error`` says why it cannot be read at all; the other facts are what could be seen. ``expected_size`` is what
    the live header counts. A file that is shorter is *suspect*, not yet corrupt: after a checkpoint that freed the
    last blocks DuckDB cuts the file and leaves the count in the header as it was. Whether a block that is in use
    lies beyond the end, only the catalog tells.
    """

    size: int
    storage_version: int | None = None
    library_version: str | None = None
    encrypted: bool = False
    block_size: int | None = None
    expected_size: int | None = None
    error: InitializationError | None = None

    @property
    def is_short(self) -> bool:
        """True if the file ends before the last block that its live header counts."""
        return self.expected_size is not None and self.size < self.expected_size


def probe_file(path: Path) -> Header:
    """The header of the file at ``path``; whatever is in the way becomes ``error``.

    WARNING: it opens the file. In a process that may have it open in DuckDB that would drop DuckDB's own lock.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | OPEN_SAFELY)
    except (OSError, ValueError) as error:
        return Header(size=0, error=unopenable(error, path))
    try:
        refusal = not_regular(os.fstat(descriptor), path)
        return Header(size=0, error=refusal) if refusal else probe(descriptor, path)
    finally:
        os.close(descriptor)


def probe(descriptor: int, path: Path) -> Header:
    """As :func:`probe_file`, for a regular file that is open; its offset stays where it is."""
    size = os.fstat(descriptor).st_size
    try:
        head = os.pread(descriptor, BLOCKS_START, 0)
    except OSError as error:
        return Header(size=size, error=unopenable(error, path))
    if size == 0:
        return Header(size=0)
    if head[8:12] != _MAGIC:
        return Header(size, error=InitializationError(
            f"{path} is not a DuckDB database", code="not_a_database", path=path
        ))  # fmt: skip
    if len(head) < BLOCKS_START:
        return Header(size, error=DatabaseCorruptionError(
            f"{path} ends after {size} bytes, within its headers", db_path=path
        ))  # fmt: skip
    if _checksum(head[8:_HEADER]) != int.from_bytes(head[:8], "little"):
        return Header(size, error=DatabaseCorruptionError(f"{path} has a damaged header", db_path=path))
    storage_version, flags = struct.unpack_from("<QQ", head, 12)
    library = head[52:84].split(b"\0", 1)[0].decode("ascii", "replace") or None
    if flags & _ENCRYPTED:
        encrypted = InitializationError(f"{path} is encrypted", code="database_encrypted", path=path)
        return Header(size, storage_version, library, encrypted=True, error=encrypted)
    # After an 8-byte checksum: iteration, meta block, free list, block count, block size.
    live = max(struct.unpack_from("<QQQQQ", head, start + 8) for start in (_HEADER, 2 * _HEADER))
    block_size = live[4] if live[4] in _BLOCK_SIZES else None
    expected = None if block_size is None else BLOCKS_START + live[3] * block_size
    return Header(size, storage_version, library, block_size=block_size, expected_size=expected)


def _checksum(block: bytes) -> int:
    """DuckDB's checksum of a header; most of its words are zero, and those change nothing."""
    result = 5381
    for (word,) in struct.iter_unpack("<Q", block):
        if word:
            result ^= (word * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    return result


def not_regular(found: os.stat_result, path: Path) -> InitializationError | None:
    """Why what stands at a database's path is no file to open; ``None`` for a regular one."""
    if stat.S_ISREG(found.st_mode):
        return None
    if stat.S_ISLNK(found.st_mode):
        return InitializationError(f"{path} is a symbolic link, which is not followed", code="unsafe_path", path=path)
    kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe, socket or device"
    return InitializationError(f"{path} is {kind}, not a file", code="not_a_database", path=path)


def unopenable(error: OSError | ValueError, path: Path) -> InitializationError:
    """The error for a path that could not be opened or read."""
    if isinstance(error, OSError) and error.errno in SHORTAGES:
        return from_os_error(error, path, "read")
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    code = "permission_denied" if isinstance(error, PermissionError) else "unsafe_path"
    return InitializationError(f"Cannot read {path}: {text}", code=code, path=path)
