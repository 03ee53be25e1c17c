"""One daemon for each root: who watches a root holds ``<root>/.selfheald/daemon.lock`` and says who it is."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selfheald.client import make_private_folder, read_record
from selfheald.errors import InitializationError, from_os_error
from selfheald.initialization_state import iso_time
from selfheald.locks import DatabaseLock, held
from selfheald.marker import installed_version
from selfheald.workspace import PRIVATE_FOLDER, is_reachable, remove_file, write_atomically

LOCK, RECORD = "daemon.lock", "daemon.json"
#: Seconds for which a lock may be refused: a client that asks who watches holds it for an instant.
PATIENCE_SECONDS = 0.5


@dataclass(slots=True)
class Presence:
    """The roots that this process has claimed."""

    roots: list[Path]
    database: str
    exclude: list[str]
    started_at: float
    locks: dict[Path, DatabaseLock]
    attempts: int = 0
    #: Where the daemon logs, for people: a ``file``, and the command that shows the ``journal``.
    log: Mapping[str, str | None] = field(default_factory=dict)

    def refuse_others(self, claimed: Iterable[Path]) -> None:
        """Raise if another daemon watches one of these folders, which lie below our roots."""
        for folder in claimed:
            if folder not in self.locks and held(folder / PRIVATE_FOLDER / LOCK):
                root = next((root for root in self.locks if root in folder.parents), folder)
                raise _taken(root, folder)

    def claim(self, roots: Sequence[Path]) -> None:
        """Hold these roots too: all of them, or none. Raises as :func:`claim` does."""
        _require_folders(roots)
        own, new = frozenset(self.locks), dict[Path, DatabaseLock]()
        try:
            for root in roots:
                new[root] = _claimed(root, own)
        except BaseException:
            for lock in new.values():
                lock.release()
            raise
        self.locks |= new

    def let_go(self, root: Path) -> None:
        """Hold this root no longer, and leave no word there of who held it."""
        with suppress(InitializationError, OSError):  # it may be gone, or nobody's to write any more
            remove_file(root / PRIVATE_FOLDER / RECORD)
        lock = self.locks.pop(root, None)
        if lock is not None:
            lock.release()

    def renew(self) -> None:
        """Claim again a root that was deleted and made anew: the lock that we hold is on a file that is gone."""
        for root in self.roots:
            if not is_reachable(root) or _is_at(self.locks[root]):
                continue
            with suppress(InitializationError, OSError):
                make_private_folder(root / PRIVATE_FOLDER)
                lock = DatabaseLock(root / PRIVATE_FOLDER / LOCK)
                if lock.acquire(PATIENCE_SECONDS):
                    self.locks[root].release()
                    self.locks[root] = lock

    def tell(self, state: str, watcher: str) -> None:
        """Write to each root's ``daemon.json`` who we are, our state and our watcher's."""
        for root in self.roots:
            record = {
                "format": 1,
                "root": str(root),
                "pid": os.getpid(),
                "uid": os.geteuid(),
                "groups": sorted({os.getegid(), *os.getgroups()}),
                "host": socket.gethostname(),
                "version": installed_version(),
                "state": state,
                "watcher": watcher,
                "database": self.database,
                "exclude": self.exclude,
                "attempts": self.attempts,
                "log": dict(self.log),
                "started_at": iso_time(self.started_at),
            }
            try:
                write_atomically(root / PRIVATE_FOLDER / RECORD, json.dumps(record, indent=1) + "\n", durable=False)
            except (InitializationError, OSError):
                continue  # a root that vanished while we run is told of elsewhere


@contextmanager
def claim(roots: Sequence[Path], database: str, exclude: Sequence[str], attempts: int = 0) -> Iterator[Presence]:
    """Hold the roots for as long as the body runs; say which file name is looked for, where not, and how often it is
    tried.

    Raises ``config_invalid`` for a root that is no folder, ``permission_denied``, and ``concurrent_initialization``
    naming the other daemon where one watches the root, or a folder above it, already.
    """
    presence = Presence(list(roots), database, sorted(exclude), time.time(), {}, attempts)
    presence.claim(roots)
    try:
        yield presence
    finally:
        for lock in presence.locks.values():
            lock.release()


def daemon_record(root: Path) -> dict[str, Any]:
    """The daemon of a root as ``status --json`` shows it; its state is ``down`` if nobody holds the lock."""
    record = read_record(root / PRIVATE_FOLDER / RECORD) or {}
    alive = held(root / PRIVATE_FOLDER / LOCK)
    return {
        "root": str(root),
        "pid": record.get("pid") if alive else None,
        "host": record.get("host"),
        "version": record.get("version"),
        "state": record.get("state", "starting") if alive else "down",
        "watcher": record.get("watcher") if alive else None,
    }


def log_of(root: Path) -> dict[str, Any]:
    """Where the daemon of a root says that it logs. Whoever can write the root can have written it."""
    found = (read_record(root / PRIVATE_FOLDER / RECORD) or {}).get("log")
    return found if isinstance(found, dict) else {}


def _require_folders(roots: Iterable[Path]) -> None:
    for root in roots:
        if not is_reachable(root):
            with suppress(FileNotFoundError, NotADirectoryError):
                _require_passable(root)
            what = "is not a folder" if root.exists() else "does not exist"
            raise InitializationError(
                f"the root {root} {what}",
                code="config_invalid",
                path=root,
                hint="Make the folder, or correct watch.roots.",
            )


def _require_passable(root: Path) -> None:
    """Raise ``permission_denied`` if a folder above the root may not be passed."""
    try:
        root.stat()
    except PermissionError as error:
        raise from_os_error(error, root, "use") from error


def _claimed(root: Path, own: Set[Path]) -> DatabaseLock:
    others = (folder for folder in root.parents if folder not in own)
    above = next((folder for folder in others if held(folder / PRIVATE_FOLDER / LOCK)), None)
    if above is not None:
        raise _taken(root, above)
    try:
        make_private_folder(root / PRIVATE_FOLDER)
    except OSError as error:
        raise from_os_error(error, root / PRIVATE_FOLDER, "make") from error
    lock = DatabaseLock(root / PRIVATE_FOLDER / LOCK)
    if not lock.acquire(PATIENCE_SECONDS):
        raise _taken(root, root)
    for left in (root / PRIVATE_FOLDER).glob(f".{RECORD}.*.tmp"):  # of a daemon that was killed while it wrote it
        left.unlink(missing_ok=True)
    return lock


def _is_at(lock: DatabaseLock) -> bool:
    try:
        return os.path.samestat(os.lstat(lock.path), os.fstat(lock.fileno()))
    except OSError:
        return False


def _taken(root: Path, by: Path) -> InitializationError:
    other = read_record(by / PRIVATE_FOLDER / RECORD) or {}
    return InitializationError(
        f"another daemon (PID {other.get('pid', 'unknown')} on {other.get('host', 'unknown')}) watches {by} already",
        code="concurrent_initialization",
        path=root,
        hint=f"Stop it first, or watch another folder than {root}.",
    )
