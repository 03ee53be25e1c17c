"""The files through which daemon and simulators talk: marker, status, request, history."""

from __future__ import annotations

import json
import os
import re
import socket
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from selfheald import client
from selfheald.client import file_identity, read_record, valid_marker
from selfheald.errors import InitializationError, from_os_error
from selfheald.initialization_state import (
    InitializationState,
    InitializationStep,
    RequiredTable,
    StepStatus,
    TableTier,
    iso_time,
    new_steps,
)
from selfheald.locks import held
from selfheald.workspace import (
    PRIVATE_FOLDER,
    Database,
    Folder,
    ensure_private_folder,
    open_folder,
    remove_file,
    write_atomically,
)

#: Longer than a tick of file systems that count finer than seconds (ext4, xfs: 1 to 10 ms), and of others (FAT: 2 s).
TICK_NS, COARSE_TICK_NS = 20_000_000, 2_050_000_000
#: What a request may call itself: it comes back in files that more people may read than the request.
REQUEST_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)
OnWrite = Callable[[dict[str, Any]], None]

#: Bytes of a history file that are read at most; a longer one is cut from its beginning.
MAX_HISTORY_BYTES = 4 << 20


@cache
def installed_version() -> str:
    """This package's version. Asked for once: it takes longer than writing a marker, and opens files: that can fail."""
    try:
        return version("selfheald")
    except PackageNotFoundError:
        return "0.0.0"


def write_marker(
    database: Database,
    identity: Mapping[str, Any],
    required: Sequence[RequiredTable],
    *,
    fingerprint: str,
    origin: str,
    answers: str | None,
    checked_at: float,
    initialized_at: float | None = None,
) -> bool:
    """Publish that the file with this identity is ready; False if another file stands there meanwhile.

    The caller has just certified the file. ``origin`` is ``adopted``, ``dbt`` or ``template``. A marker that became
    untrue while it was written is taken back.
    """
    if file_identity(database.path) != dict(identity):
        return False
    if initialized_at is None:
        earlier, earlier_origin = _making_of(database, identity)
    else:
        earlier, earlier_origin = iso_time(initialized_at), None
    tiers = {tier.value: sum(table.tier is tier for table in required) for tier in TableTier}
    record = {
        "format": 1,
        "state": "ready",
        "database": {"name": database.path.name, **identity},
        "fingerprint": fingerprint,
        "tables": tiers,
        "origin": earlier_origin or origin,
        "answers": answers,
        "initialized_at": earlier,
        "checked_at": iso_time(checked_at),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "version": installed_version(),
    }
    write_atomically(database.marker, json.dumps(record, indent=1) + "\n", readable_like=database.path)
    now = file_identity(database.path)
    if now is None or (now["device"], now["inode"]) != (identity["device"], identity["inode"]):
        remove_marker(database)
        return False
    return True


def _making_of(database: Database, identity: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """When and how the file with this identity was made, if the marker that is there tells: it may be anybody's."""
    previous = read_record(database.marker) or {}
    recorded, made_at, origin = (previous.get(key) for key in ("database", "initialized_at", "origin"))
    if not isinstance(recorded, dict) or not isinstance(made_at, str) or origin not in ("dbt", "template"):
        return None, None
    same_file = all(recorded.get(key) == identity[key] for key in ("device", "inode"))
    return (made_at, origin) if same_file else (None, None)


def outlived_a_tick(identity: Mapping[str, Any], read_at: float) -> bool:
    """True if a write after ``read_at`` (seconds since the epoch) must give the file other time stamps.

    A write within the same tick of the file system's clock as the one before it changes neither time nor, perhaps,
    size: a marker about such a moment could be taken for true later on.
    """
    return tick_left(identity, read_at) == 0.0


def tick_left(identity: Mapping[str, Any], seen_at: float) -> float:
    """Seconds after ``seen_at`` (seconds since the epoch) from which on a look at the file outlives a tick."""
    stamps = [identity["mtime_ns"], identity["ctime_ns"]]
    if identity["wal"] is not None:
        stamps += [identity["wal"]["mtime_ns"], identity["wal"]["ctime_ns"]]
    coarse = all(stamp % 1_000_000_000 == 0 for stamp in stamps)
    age = seen_at * 1e9 - max(stamps)
    # A stamp of the future is another host's clock: comparing it with ours tells nothing.
    return 0.0 if age < 0 else max(0.0, ((COARSE_TICK_NS if coarse else TICK_NS) - age) / 1e9)


def remove_marker(database: Database) -> bool:
    """Take the marker away; False if there was none."""
    return remove_file(database.marker)


def marker_state(database: Database) -> str:
    """``valid``, ``stale`` (there, but not about the file as it is) or ``absent``."""
    if valid_marker(database.path) is not None:
        return "valid"
    return "stale" if os.path.lexists(database.marker) else "absent"


class Status:
    """The status file of one database: keeps the record and writes it whenever something changes."""

    def __init__(self, database: Database, *, answers: str | None = None, on_write: OnWrite | None = None) -> None:
        self.database = database
        self.on_write = on_write
        self.shown = False
        #: True if what the record says now could not be written.
        self.unwritten = False
        self._began: dict[str, float] = {}
        self.steps = new_steps()
        self.record: dict[str, Any] = {
            "format": 1,
            "database": str(database),
            "state": InitializationState.NOT_STARTED.value,
            "reason": None,
            "queue_position": None,
            "holder": None,
            "attempt_id": None,
            "attempt": None,
            "next_attempt_at": None,
            "steps": [],
            "progress": None,
            "eta_seconds": None,
            "missing_tables_found": [],
            "tables_created": [],
            "warnings": [],
            "answers": answers,
            "error": None,
            "started_at": None,
            "completed_at": None,
        }

    def write(self, **changes: Any) -> None:
        """Change keys of the record and write it. Raises :class:`InitializationError` where that is not possible."""
        unknown = changes.keys() - self.record.keys()
        if unknown:
            raise KeyError(f"not in a status record: {sorted(unknown)}")
        self.record.update(changes)
        self.record["steps"] = [step.as_dict() for step in self.steps]
        self.unwritten = True
        ensure_private_folder(self.database)
        text = json.dumps(self.record, indent=1, default=str) + "\n"
        final = self.record["state"] in ("completed", "failed")
        write_atomically(self.database.status, text, readable_like=self.database.path, durable=final)
        self.unwritten = False
        if self.on_write is not None:
            self.on_write(dict(self.record))

    def show(self, **changes: Any) -> None:
        """As :meth:`write`, unless another process is at work on the database: then the status is its own.

        Nothing is written if nothing would change.
        """
        if all(self.record[key] == value for key, value in changes.items()) and self.shown:
            return
        if not held(self.database.lock):
            self.write(**changes)
            self.shown = True

    def begin(self, name: str) -> InitializationStep:
        """Note that a step has begun."""
        step = self.step(name)
        step.status, step.started_at, step.error_message = StepStatus.RUNNING, time.time(), None
        step.completed_at = step.duration_seconds = None
        self._began[name] = time.monotonic()
        return step

    def put_back_to(self, name: str) -> None:
        """Note that a step, and those behind it, have not begun."""
        places = [step.name for step in self.steps]
        for number in range(places.index(name), len(places)):
            self.steps[number] = InitializationStep(places[number])
            self._began.pop(places[number], None)

    def end(self, name: str, error: str | None = None) -> InitializationStep:
        """Note that a step has completed, or failed with ``error``. One that never began had nothing to do."""
        step = self.step(name)
        step.status = StepStatus.FAILED if error else StepStatus.COMPLETED
        step.error_message = error
        if name in self._began:
            step.completed_at = time.time()
            step.duration_seconds = time.monotonic() - self._began.pop(name)
        return step

    def running(self) -> str | None:
        """The step that is running."""
        return next((step.name for step in self.steps if step.status is StepStatus.RUNNING), None)

    def step(self, name: str) -> InitializationStep:
        """The step of that name."""
        return next(step for step in self.steps if step.name == name)


def read_status(database: Database) -> dict[str, Any] | None:
    """The status record, or ``None``."""
    return client.read_status(database.path)


def take_request(database: Database) -> tuple[bool, str | None]:
    """Take a waiting request under its private name: ``(there was one, its id)``.

    Called before the check begins; :func:`finish_request` follows when the verdict is on disk. One that was taken
    before (by a daemon that was killed) counts as waiting still. Raises ``unsafe_path`` for what is no plain file,
    and other :class:`InitializationError`.
    """
    if not has_request(database):
        return False, None
    taken = database.taken_request
    try:
        with client.open_folder(database.private) as folder:
            there = _is_plain_file(taken, folder)
            if _is_plain_file(database.request, folder):
                with suppress(FileNotFoundError):  # withdrawn between the two looks
                    os.rename(database.request.name, taken.name, src_dir_fd=folder, dst_dir_fd=folder)
                    there = True
            return there, _id_in(taken, database, folder) if there else None
    except FileNotFoundError:
        return False, None
    except OSError as error:
        raise from_os_error(error, database.request, "take") from error


def waiting_request(database: Database) -> str | None:
    """The id of a request that has not been taken, since something is in the way."""
    with suppress(OSError), client.open_folder(database.private) as folder:
        return _id_in(database.request, database, folder)
    return None


def _id_in(path: Path, database: Database, folder: int) -> str | None:
    """The id that a request file names; none if the file has names elsewhere too: it may be a stranger's.

    Who drops a request gives it a second name, its draft's, for an instant.
    """
    request_id = (read_record(path) or {}).get("id")
    if not isinstance(request_id, str) or not REQUEST_ID.fullmatch(request_id):
        return None
    found = os.stat(path.name, dir_fd=folder, follow_symlinks=False)
    if found.st_nlink == 2:
        with suppress(FileNotFoundError):
            draft = os.stat(f".{database.request.name}.{request_id}", dir_fd=folder, follow_symlinks=False)
            return request_id if os.path.samestat(found, draft) else None
        found = os.stat(path.name, dir_fd=folder, follow_symlinks=False)
    return request_id if found.st_nlink == 1 else None


def finish_request(database: Database) -> None:
    """Forget the taken request: its verdict is on disk. One that cannot be removed will be taken again."""
    with suppress(InitializationError):
        remove_file(database.taken_request)


def has_request(database: Database, *, taken: bool = True) -> bool:
    """True if a simulator asks for this database, or did so (``taken``) when its daemon was killed."""
    # Plain strings: this is asked for each event.
    folder, _, name = os.fspath(database.path).rpartition("/")
    private = f"{folder}/{PRIVATE_FOLDER}"
    return os.path.lexists(f"{private}/{name}.request") or (
        taken and os.path.lexists(f"{private}/.{name}.request.taken")
    )


def _is_plain_file(path: Path, folder: int) -> bool:
    """False if nothing of that name is in the open folder; raises ``unsafe_path`` for what is neither."""
    try:
        mode = os.stat(path.name, dir_fd=folder, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(mode):
        raise InitializationError(f"{path} is not a plain file", code="unsafe_path", path=path)
    return True


def new_attempt_id(now: float) -> str:
    """A name for an attempt that sorts by time and is a safe folder name."""
    return time.strftime("%Y%m%dT%H%M%S", time.gmtime(now)) + f"-{os.urandom(3).hex()}"


def append_history(database: Database, entry: Mapping[str, Any], keep: int) -> None:
    """Add an attempt to the history; the last ``keep`` stay, and their log folders with them."""
    entries = [*read_history(database), dict(entry)][-keep:]
    text = "".join(json.dumps(each, default=str) + "\n" for each in entries)
    write_atomically(database.history, text, readable_like=database.path, durable=False)
    _prune_logs(database, {str(each.get("attempt_id")) for each in entries})


def read_history(database: Database) -> list[dict[str, Any]]:
    """Past attempts, the oldest first. Lines that are no JSON objects are passed over."""
    try:
        handle = client.open_file(database.history, os.O_RDONLY)
    except OSError:
        return []
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        # A file of somebody else's under this name: what it says must not be copied into one for all to read.
        os.close(handle)
        return []
    with os.fdopen(handle, "rb") as stream:
        stream.seek(max(0, found.st_size - MAX_HISTORY_BYTES))
        lines = stream.read(MAX_HISTORY_BYTES).splitlines()
    entries = []
    for line in lines:
        with suppress(ValueError, RecursionError):
            entry = json.loads(line)
            if isinstance(entry, dict):
                entries.append(entry)
    return entries


def _prune_logs(database: Database, keep: set[str]) -> None:
    from shutil import rmtree

    with suppress(OSError, InitializationError), open_folder(database.logs) as logs:
        for name in os.listdir(logs):
            if ATTEMPT_ID.fullmatch(name) and name not in keep:
                rmtree(name, ignore_errors=True, dir_fd=logs)


ATTEMPT_ID = re.compile(r"\d{8}T\d{6}-[0-9a-f]{6}")


@contextmanager
def log_folder(database: Database, attempt_id: str) -> Iterator[Folder]:
    """Make the folder of an attempt's logs, and keep it open for as long as something may be written to it."""
    ensure_private_folder(database)
    path = database.logs / attempt_id
    with ExitStack() as stack:
        try:
            with client.open_folder(database.private) as private, suppress(FileExistsError):
                os.mkdir(database.logs.name, dir_fd=private)
            with open_folder(database.logs) as logs:
                os.mkdir(attempt_id, dir_fd=logs)
            handle = stack.enter_context(open_folder(path))
        except OSError as error:
            raise from_os_error(error, path, "make") from error
        yield Folder(path, handle)
