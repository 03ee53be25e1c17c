"""The store of templates: finished databases, each under the key of everything that it was made from.

A folder for each key holds the database and ``template.json``, which has the database's digest; when it was last used
is that file's mtime. A folder gets its name when it is whole and on the disk. Who uses one holds a shared ``flock`` on
it, and who takes one away an exclusive one. The store is a cache: whatever goes wrong with it means that dbt builds.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from selfheald.client import OPEN_SAFELY
from selfheald.figures import TemplateEvent
from selfheald.file_copy import copy_content, digest_of
from selfheald.initialization_state import iso_time
from selfheald.locks import DatabaseLock
from selfheald.log import event_log
from selfheald.workspace import sync

#: Changed whenever an older entry could not be read any more.
FORMAT = 1
#: Entries at most, those among them that only say why nothing is kept.
MOST_ENTRIES = 2_000

_DATABASE, _RECORD = "database.duckdb", "template.json"
_KEY = re.compile(r"[0-9a-f]{64}")
#: What a folder is called before it is whole, and after it has been given up.
_NEW, _GONE = "new-", "gone-"
#: So many letters of a key name its lock: that file stays for ever, so there must not be one for each key.
_LOCK_LETTERS = 3
_MAX_RECORD_BYTES = 1 << 20


class StoreError(Exception):
    """The store, or one of its entries, is not what may be trusted or used: the reason, for the log."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What is kept under a key: a template, or (``refused``) why there is to be none.

    ``proved`` says that the models were proved to give the same again; without it a person said so.
    """

    key: str
    digest: str
    size: int
    tables: tuple[str, ...]
    proved: bool
    created_at: str
    refused: str | None = None


class TemplateStore:
    """The templates in a folder, which is made when the first one is kept. Nothing here needs a database's lock."""

    def __init__(
        self,
        folder: Path,
        max_bytes: int,
        min_free_bytes: int = 0,
        *,
        count: Callable[[TemplateEvent], None] = lambda event: None,
    ) -> None:
        # The platform's cache folder may itself be a link, as a service's is; from here on none is followed.
        self.folder = Path(os.path.realpath(folder.parent)) / folder.name
        self.max_bytes = max_bytes
        self.min_free_bytes = min_free_bytes
        self._count = count

    def lock(self, key: str) -> DatabaseLock:
        """Who makes the template of this key holds this lock, so that others can wait for it.

        Raises :class:`StoreError` where no folder for it can be had.
        """
        with self._opened(make=True) as store:
            with suppress(FileExistsError):
                os.mkdir("locks", 0o700, dir_fd=store)
            _require_ours(os.stat("locks", dir_fd=store, follow_symlinks=False), "locks")
        return DatabaseLock(self.folder / "locks" / f"{key[:_LOCK_LETTERS]}.lock")

    def find(self, key: str) -> Entry | None:
        """What is kept under a key. What cannot be trusted or read is removed. Raises :class:`StoreError`."""
        with suppress(FileNotFoundError), self._opened() as store:
            try:
                with _entry_folder(store, key) as folder:
                    return _read_entry(folder, key)
            except StoreError as error:
                self._remove_damaged(store, key, str(error))
        return None

    def copy(self, entry: Entry, name: str, folder: int, stop: Event | None = None) -> None:
        """Make a file ``name`` in the open ``folder`` with the template's content, on the disk and verified.

        A template that is not what it was is removed. Raises :class:`StoreError` if no copy can be had, and
        :class:`OSError` for what the target's file system refuses.
        """
        with ExitStack() as stack:
            try:
                store = stack.enter_context(self._opened())
                kept = stack.enter_context(_entry_folder(store, entry.key))
                source = stack.enter_context(_file(kept, _DATABASE))
            except FileNotFoundError as error:
                raise StoreError("it was given up meanwhile") from error
            target = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | OPEN_SAFELY, 0o666, dir_fd=folder)
            stack.callback(os.close, target)
            copy_content(source, target, stop)
            if digest_of(target, stop) != entry.digest:
                os.unlink(name, dir_fd=folder)
                stack.pop_all().close()
                with self._opened() as again:
                    self._remove_damaged(again, entry.key, "it is not what it was when it was kept")
                raise StoreError("it was damaged")
            with suppress(OSError):  # root's may be used too
                os.utime(_RECORD, dir_fd=kept, follow_symlinks=False)

    def keep(
        self,
        key: str,
        source: int,
        *,
        tables: Sequence[str],
        proved: bool,
        versions: Mapping[str, str],
        stop: Event | None = None,
    ) -> bool:
        """Keep the open database file ``source``; False if there is no room for it.

        The least recently used make way, but none that is in use. Raises :class:`StoreError` and :class:`OSError`.
        """
        size = os.fstat(source).st_size
        if size > self.max_bytes:
            return False
        with self._opened(make=True) as store:
            self._make_room(store, size)
            found = os.fstatvfs(store)
            if found.f_bavail * found.f_frsize < self.min_free_bytes + size:
                return False
            with _new_folder(store, key) as folder:
                target = os.open(_DATABASE, os.O_RDWR | os.O_CREAT | os.O_EXCL | OPEN_SAFELY, 0o600, dir_fd=folder)
                try:
                    copy_content(source, target, stop)
                    digest = digest_of(target, stop)
                    sync(target)
                finally:
                    os.close(target)
                record = {"digest": digest, "size": size, "tables": list(tables), "proved": proved}
                _write_record(folder, {**record, "versions": dict(versions), "refused": None}, key)
        return True

    def refuse(self, key: str, why: str) -> None:
        """Keep that, and why, no template is to be kept under a key. Raises as :meth:`keep`."""
        with self._opened(make=True) as store:
            self._make_room(store, 0)
            with _new_folder(store, key) as folder:
                nothing = {"digest": "", "size": 0, "tables": [], "proved": False, "versions": {}}
                _write_record(folder, {**nothing, "refused": why}, key)

    def discard(self, entry: Entry, why: str) -> None:
        """Remove a template that turned out not to be one. Raises :class:`StoreError`."""
        with suppress(FileNotFoundError), self._opened() as store:
            self._remove_damaged(store, entry.key, why)

    @contextmanager
    def _opened(self, *, make: bool = False) -> Iterator[int]:
        """The store's folder, open. Raises :class:`FileNotFoundError` if it is not there, :class:`StoreError`."""
        try:
            if make:
                self.folder.parent.mkdir(parents=True, exist_ok=True)
                with suppress(FileExistsError):
                    self.folder.mkdir(0o700)
            handle = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | OPEN_SAFELY)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StoreError(f"{self.folder} cannot be used: {error.strerror}") from error
        try:
            _require_ours(os.fstat(handle), str(self.folder))
            yield handle
        finally:
            os.close(handle)

    def _make_room(self, store: int, size: int) -> None:
        """Remove what killed processes left, then the least recently used, until ``size`` more bytes have room."""
        kept: list[tuple[float, int, str]] = []
        for name in os.listdir(store):
            if name.startswith((_NEW, _GONE)):
                _take_away(store, name)
            elif _KEY.fullmatch(name):
                kept.append(_use_of(store, name))
        total = sum(bytes_ for _, bytes_, _ in kept)
        kept.sort()
        number = len(kept)
        for _, bytes_, name in kept:
            if total + size <= self.max_bytes and number < MOST_ENTRIES:
                return
            if _take_away(store, name):
                total, number = total - bytes_, number - 1
                self._count("evicted")
                event_log("template_evicted", f"the template {name[:12]} made way for others", "DEBUG")

    def _remove_damaged(self, store: int, key: str, why: str) -> None:
        removed = _take_away(store, key)
        what = "removed" if removed else "passed over"
        self._count("damaged")
        event_log("template_damaged", f"the template {key[:12]} was {what}: {why}", "WARNING")


@contextmanager
def _entry_folder(store: int, key: str) -> Iterator[int]:
    """The folder of a key, open and in use. Raises :class:`FileNotFoundError`, :class:`StoreError`."""
    try:
        handle = os.open(key, os.O_RDONLY | os.O_DIRECTORY | OPEN_SAFELY, dir_fd=store)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StoreError(f"its folder cannot be opened: {error.strerror}") from error
    try:
        _require_ours(os.fstat(handle), "its folder")
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError as error:  # it is being taken away, or just gets its name
            raise FileNotFoundError from error
        yield handle
    finally:
        os.close(handle)


@contextmanager
def _new_folder(store: int, key: str) -> Iterator[int]:
    """A folder that gets its name, and is on the disk, once the body has filled it; else it is gone."""
    name = f"{_NEW}{secrets.token_hex(6)}"
    os.mkdir(name, 0o700, dir_fd=store)
    handle = os.open(name, os.O_RDONLY | os.O_DIRECTORY | OPEN_SAFELY, dir_fd=store)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield handle
        sync(handle)
        _take_away(store, key)
        os.rename(name, key, src_dir_fd=store, dst_dir_fd=store)
        sync(store)
    except BaseException:
        _empty(handle)
        with suppress(OSError):
            os.rmdir(name, dir_fd=store)
        raise
    finally:
        os.close(handle)


def _take_away(store: int, name: str) -> bool:
    """Remove an entry, or what stands in its place, unless somebody uses it; True if it is gone."""
    try:
        found = os.stat(name, dir_fd=store, follow_symlinks=False)
        if not stat.S_ISDIR(found.st_mode):
            os.unlink(name, dir_fd=store)
            return True
        handle = os.open(name, os.O_RDONLY | os.O_DIRECTORY | OPEN_SAFELY, dir_fd=store)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        gone = f"{_GONE}{secrets.token_hex(6)}"
        os.rename(name, gone, src_dir_fd=store, dst_dir_fd=store)
        _empty(handle)
        with suppress(OSError):  # the next one to look removes the rest
            os.rmdir(gone, dir_fd=store)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


def _empty(folder: int) -> None:
    with suppress(OSError):
        for name in os.listdir(folder):
            if stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                shutil.rmtree(name, ignore_errors=True, dir_fd=folder)
            else:
                os.unlink(name, dir_fd=folder)


def _use_of(store: int, key: str) -> tuple[float, int, str]:
    """When an entry was last used, its size, and its name; what is not whole is the first to go."""
    try:
        size = 0
        used = os.stat(f"{key}/{_RECORD}", dir_fd=store, follow_symlinks=False).st_mtime
        with suppress(FileNotFoundError):
            size = os.stat(f"{key}/{_DATABASE}", dir_fd=store, follow_symlinks=False).st_size
    except OSError:
        return 0.0, 0, key
    return used, size, key


@contextmanager
def _file(folder: int, name: str) -> Iterator[int]:
    """A file of an entry, open for reading. Raises :class:`FileNotFoundError`, :class:`StoreError`."""
    try:
        handle = os.open(name, os.O_RDONLY | OPEN_SAFELY, dir_fd=folder)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StoreError(f"{name} cannot be opened: {error.strerror}") from error
    try:
        found = os.fstat(handle)
        _require_ours(found, name)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            raise StoreError(f"{name} is not a file of its own")
        yield handle
    finally:
        os.close(handle)


def _read_entry(folder: int, key: str) -> Entry:
    try:
        with _file(folder, _RECORD) as handle:
            record: dict[str, Any] = json.loads(os.read(handle, _MAX_RECORD_BYTES))
        entry = Entry(
            key=record["key"],
            digest=str(record["digest"]),
            size=int(record["size"]),
            tables=tuple(record["tables"]),
            proved=bool(record["proved"]),
            created_at=str(record["created_at"]),
            refused=record["refused"],
        )
        if record["format"] != FORMAT or entry.key != key:
            raise StoreError(f"{_RECORD} is about something else")
        if entry.refused is None:
            with _file(folder, _DATABASE) as handle:
                if os.fstat(handle).st_size != entry.size:
                    raise StoreError(f"{_DATABASE} has another size than when it was kept")
    except FileNotFoundError as error:
        raise StoreError("it is not whole") from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise StoreError(f"{_RECORD} cannot be read") from error
    return entry


def _write_record(folder: int, record: Mapping[str, Any], key: str) -> None:
    text = json.dumps({"format": FORMAT, "key": key, **record, "created_at": iso_time(time.time())}, indent=1)
    handle = os.open(_RECORD, os.O_WRONLY | os.O_CREAT | os.O_EXCL | OPEN_SAFELY, 0o600, dir_fd=folder)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(f"{text}\n")
        file.flush()
        sync(file.fileno())


def _require_ours(found: os.stat_result, what: str) -> None:
    if found.st_uid not in (os.geteuid(), 0) or found.st_mode & 0o022:
        raise StoreError(f"{what} belongs to somebody else, or others may write to it")
