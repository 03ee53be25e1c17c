"""The file system through which DuckDB reads a database without locking it: one file, its WALs, no writing.

DuckDB locks only files that it opens itself; what an fsspec file system opens for it, it cannot lock. It also
believes what that file system says: one that allowed deleting would lose a live WAL to a reader, and one that
served every path would let a database's own SQL read any file. So this one serves four names of one folder, under a
name that nobody can guess, and refuses everything else.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from typing import Any, NoReturn

from fsspec import AbstractFileSystem

from selfheald.locks import OPEN_SAFELY
from selfheald.watched_file import WAL_SUFFIXES

#: The database's name in an address, whatever it is called in its folder: nothing to quote, nothing to decode.
_ALIAS = "database"

_PAGE = 4096
_MOST_WRITTEN = 256 << 20


class _File:
    """An open file as DuckDB reads it. Each has its own offset on a shared descriptor.

    What DuckDB writes to a *database* stays in this object's memory: replaying a WAL with many rows, 1.0.0 moves
    them into blocks of the database even where that was opened for reading. The file itself is never written.
    """

    def __init__(self, descriptor: int, *, owned: bool, keeps_writes: bool = False) -> None:
        self._descriptor = descriptor
        self._owned = owned
        self._offset = 0
        self._written: dict[int, bytearray] | None = {} if keeps_writes else None

    def read(self, length: int = -1) -> bytes:
        size = self.size()
        length = max(0, size - self._offset) if length < 0 else min(length, max(0, size - self._offset))
        data = _read_fully(self._descriptor, self._offset, length)
        if self._written:
            data = self._overlaid(data, length)
        self._offset += len(data)
        return data

    def write(self, data: bytes) -> int:
        if self._written is None:
            raise PermissionError("refused to a reader: write")
        if (len(self._written) + len(data) // _PAGE + 2) * _PAGE > _MOST_WRITTEN:
            raise MemoryError("the WAL holds more rows than a reader may keep in memory")
        view, offset = memoryview(data), self._offset
        while view:
            page, start = divmod(offset, _PAGE)
            count = min(len(view), _PAGE - start)
            if page not in self._written:
                below = _read_fully(self._descriptor, page * _PAGE, _PAGE)
                self._written[page] = bytearray(below.ljust(_PAGE, b"\0"))
            self._written[page][start : start + count] = view[:count]
            view, offset = view[count:], offset + count
        self._offset = offset
        return len(data)

    def _overlaid(self, below: bytes, length: int) -> bytes:
        assert self._written is not None
        data = bytearray(below.ljust(length, b"\0"))
        first, last = self._offset // _PAGE, (self._offset + length) // _PAGE
        for page in range(first, last + 1):
            if page in self._written:
                start = page * _PAGE - self._offset
                source = self._written[page][max(0, -start) : length - start]
                data[max(0, start) : max(0, start) + len(source)] = source
        return bytes(data)

    def size(self) -> int:
        """Bytes, with what was written."""
        there = os.fstat(self._descriptor).st_size
        return max(there, (max(self._written) + 1) * _PAGE) if self._written else there

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._offset}.get(whence)
        self._offset = offset + (self.size() if base is None else base)
        return self._offset

    def tell(self) -> int:
        return self._offset

    def flush(self) -> None:
        """There is nothing to bring to the disk."""

    def close(self) -> None:
        """Forget what was written; safe to call again."""
        if self._owned and self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1
        self._written = None


def _read_fully(descriptor: int, offset: int, length: int) -> bytes:
    parts = []
    while length > 0:
        part = os.pread(descriptor, length, offset)
        if not part:
            break
        parts.append(part)
        offset += len(part)
        length -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


class ReadOnlyFiles(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Serves the database given to :meth:`show`, under the address that it returns, until :meth:`hide`.

    It belongs to one connection and one thread.
    """

    cachable = False

    def __init__(self) -> None:
        super().__init__()
        self.protocol = "selfheald" + secrets.token_hex(8)
        self._token = ""
        self._name = ""
        self._database = -1
        self._folder = -1
        self._opened: list[_File] = []
        #: What the operating system refused while a database was shown; DuckDB's own error hides it.
        self.failure: OSError | None = None

    def show(self, name: str, database: int, folder: int) -> str:
        """Serve the file ``name``, open as ``database`` in the open ``folder``; the caller keeps both descriptors."""
        self._token = secrets.token_hex(16)
        self._name, self._database, self._folder = name, database, folder
        self.failure = None
        return f"{self.protocol}://{self._token}/{_ALIAS}"

    def hide(self) -> None:
        """Serve nothing any more, and close what DuckDB left open (2.0.0 never closes a WAL that it has replayed)."""
        for file in self._opened:
            file.close()
        self._opened.clear()
        self._token, self._name, self._database, self._folder = "", "", -1, -1

    def open(self, path: str, mode: str = "rb", **_: Any) -> _File:
        if mode not in ("r", "rb"):
            self._refuse("open", path, mode)
        name = self._served(path)
        if name == self._name:
            return self._hand_out(_File(self._database, owned=False, keeps_writes=True))
        try:
            descriptor = os.open(name, os.O_RDONLY | OPEN_SAFELY, dir_fd=self._folder)
        except FileNotFoundError:
            raise
        except OSError as error:
            self.failure = error
            raise
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            self._fail_unsafe(name)
        return self._hand_out(_File(descriptor, owned=True))

    def _hand_out(self, file: _File) -> _File:
        self._opened.append(file)
        return file

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        name = self._served(path)
        found = os.fstat(self._database) if name == self._name else self._stat(name)
        return {"name": path, "size": found.st_size, "type": "file", "mtime": found.st_mtime}

    def exists(self, path: str, **_: Any) -> bool:
        try:
            self.info(path)
        except FileNotFoundError:
            return False
        return True

    def isfile(self, path: str) -> bool:
        return self.exists(path)

    def isdir(self, path: str) -> bool:
        return False

    def size(self, path: str) -> int:
        return int(self.info(path)["size"])

    def modified(self, path: str) -> float:
        return float(self.info(path)["mtime"])

    def _stat(self, name: str) -> os.stat_result:
        found = os.stat(name, dir_fd=self._folder, follow_symlinks=False)
        if not stat.S_ISREG(found.st_mode):
            self._fail_unsafe(name)
        return found

    def _fail_unsafe(self, name: str) -> NoReturn:
        self.failure = OSError(errno.ELOOP, f"{name} is not a regular file")
        raise self.failure

    def _served(self, path: str) -> str:
        """The name in the folder that an address means; refused unless it is the one that is shown, or its WAL."""
        address = path.removeprefix(f"{self.protocol}://")
        suffix = address.removeprefix(f"{self._token}/{_ALIAS}")
        if not self._token or suffix == address or suffix not in ("", *WAL_SUFFIXES):
            raise FileNotFoundError(f"{path} is not served")
        return self._name + suffix

    def _refuse(self, *request: object) -> NoReturn:
        raise PermissionError(f"refused to a reader: {' '.join(map(str, request))}")


def _refusal(name: str) -> Any:
    def refuse(self: ReadOnlyFiles, *arguments: object, **_: object) -> NoReturn:
        self._refuse(name, *arguments)

    return refuse


# Whatever a file system can do, now or in a later fsspec, is refused unless it is defined above.
for _name in dir(AbstractFileSystem):
    _is_request = callable(getattr(AbstractFileSystem, _name)) and not _name.startswith("_")
    if (_is_request or _name in ("_open", "_rm")) and _name not in vars(ReadOnlyFiles):
        setattr(ReadOnlyFiles, _name, _refusal(_name))
