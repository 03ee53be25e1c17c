"""Which files were being read when a daemon died: noted before each check, so that no file kills a daemon twice.

A note is one line in a file of the daemon's own in ``<state_dir>/checks``, which it holds by a ``flock``. It is neither
synced nor needed after a loss of power: a crash of the process leaves it to the next daemon, and that is all it is for.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from selfheald.errors import InitializationError
from selfheald.locks import OPEN_SAFELY, DatabaseLock
from selfheald.workspace import is_under

FOLDER = "checks"
SUFFIX = ".notes"
_LONGEST = 1 << 18
_PATIENCE_SECONDS = 1.0

Identity = dict[str, Any] | None


class CrashGuard:
    """The notes of one daemon. For use from several threads; a context manager, from the claim of the roots to the end.

    A file is *suspect* if it was being read when a daemon died, or was not read within the time limit. It stays so
    until it has been read safely after it changed: what a reader of its own survived might still kill a thread.
    ``error`` tells why no notes can be kept; then what is known is known to this daemon alone.
    """

    def __init__(self, state_dir: Path, roots: Sequence[Path]) -> None:
        self.error: OSError | InitializationError | None = None
        self._folder = state_dir / FOLDER
        self._roots = list(roots)
        self._suspects: dict[Path, Identity] = {}
        self._running: dict[Path, Identity] = {}
        self._lock = threading.Lock()
        self._file: Path | None = None
        self._descriptor = -1
        self._written = 0

    def __enter__(self) -> CrashGuard:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # So that nobody takes a new file for a dead daemon's before it is locked.
            lock = DatabaseLock(self._folder / ".lock")
            if not lock.acquire(_PATIENCE_SECONDS):
                raise BlockingIOError(errno.EWOULDBLOCK, f"{lock.path} is held by another process")
            try:
                done_with = self._inherit()
                self._open()
                for file in done_with:
                    file.unlink()
            finally:
                lock.release()
        except (OSError, InitializationError) as error:
            self.error = error
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            if self._descriptor < 0:
                return
            if not self._suspects and not self._running and self._file is not None:
                with suppress(OSError):  # whatever became of the folder, the daemon ends well
                    self._file.unlink()
            os.close(self._descriptor)
            self._descriptor = -1

    def look_after(self, roots: Sequence[Path]) -> list[Path]:
        """From now on these are our roots: take over what dead daemons left about files below them.

        Returns the files that are suspects by that. What cannot be taken over now is left to the next start.
        """
        before = set(self._suspects)
        self._roots = list(roots)
        lock = DatabaseLock(self._folder / ".lock")
        with suppress(OSError, InitializationError):
            if self._descriptor >= 0 and lock.acquire(_PATIENCE_SECONDS):
                try:
                    done_with = self._inherit()
                    with self._lock:
                        for path in self._suspects.keys() - before:
                            self._note("+", path, self._suspects[path])
                    for file in done_with:
                        file.unlink()
                finally:
                    lock.release()
        return [path for path in self._suspects if path not in before]

    @property
    def suspects(self) -> list[Path]:
        """The files that are to be read apart."""
        return list(self._suspects)

    def is_suspect(self, path: Path) -> bool:
        """True if reading this file may end the process, whatever it holds by now."""
        return path in self._suspects

    @contextmanager
    def noted(self, path: Path, identity: Identity) -> Iterator[None]:
        """While the body runs, a crash of this process makes the file a suspect of the next."""
        with self._lock:
            self._running[path] = identity
            self._note("+", path, identity)
        try:
            yield
        finally:
            with self._lock:
                self._running.pop(path, None)
                if path not in self._suspects:
                    self._note("-", path)

    def suspect(self, path: Path, identity: Identity) -> None:
        """Something is wrong with this file, as it is now."""
        with self._lock:
            if self._suspects.get(path, ()) != identity:
                self._suspects[path] = identity
                self._note("+", path, identity)

    def was_read(self, path: Path, identity: Identity) -> None:
        """It was read apart, and safely: no suspect any longer if it is not what it was when it became one."""
        with self._lock:
            if path in self._suspects and self._suspects[path] != identity:
                del self._suspects[path]
                self._note("-", path)

    def _note(self, sign: str, path: Path, identity: Identity = None) -> None:
        if self._descriptor < 0:
            return
        # ASCII, escapes for what is no UTF-8: any path can be noted, and one write is one line.
        line = json.dumps([sign, os.fspath(path), identity]).encode("ascii") + b"\n"
        with suppress(OSError):  # a disk that is full must not keep anything from being read
            self._written += os.write(self._descriptor, line)
            if self._written > _LONGEST and not self._running:
                self._shorten()

    def _shorten(self) -> None:
        os.ftruncate(self._descriptor, 0)
        lines = [json.dumps(["+", os.fspath(path), identity]) + "\n" for path, identity in self._suspects.items()]
        self._written = os.write(self._descriptor, "".join(lines).encode("ascii"))

    def _open(self) -> None:
        self._file = self._folder / f"{os.getpid()}-{secrets.token_hex(4)}{SUFFIX}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | OPEN_SAFELY
        self._descriptor = os.open(self._file, flags, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._shorten()

    def _inherit(self) -> list[Path]:
        """Take over what dead daemons left about files below our roots; the notes in which no more is.

        Files that are gone are forgotten.
        """
        done_with = []
        for file in sorted(self._folder.glob(f"*{SUFFIX}")):
            with suppress(OSError, ValueError), file.open("rb") as notes:
                fcntl.flock(notes.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
                left = {path: noted for path, noted in unfinished(notes.read()).items() if os.path.lexists(path)}
                ours = {path: noted for path, noted in left.items() if any(is_under(path, r) for r in self._roots)}
                self._suspects |= ours
                if len(ours) == len(left):
                    done_with.append(file)
        return done_with


def unfinished(notes: bytes) -> dict[Path, Identity]:
    """The files whose reading was noted and never ended. A line that is torn or strange is passed over."""
    found: dict[Path, Identity] = {}
    for line in notes.splitlines():
        try:
            sign, path, identity = json.loads(line)
            place = Path(path)
        except (ValueError, TypeError):
            continue
        if sign == "+":
            found[place] = identity
        else:
            found.pop(place, None)
    return found
