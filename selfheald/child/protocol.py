"""What the child says to its parent: events on a private descriptor, and the one error that ends a job."""

from __future__ import annotations

import errno
import json
import os
import re
import threading
from typing import Any, Callable, Mapping, Optional

from placing.refusals import JobError as JobError

#: Tells the parent what happens, at the moment it happens. Safe to call from any thread.
Emit = Callable[[Mapping[str, Any]], None]

_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_NO_ACCESS = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_SHORTAGE = frozenset({errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM})
_NO_SPACE = re.compile(r"no space left on device|disk quota exceeded|max_temp_directory_size", re.IGNORECASE)
_TOO_LITTLE = re.compile(
    r"out of memory|memoryerror|(?:could not|cannot|failed to) allocate|bad_alloc|can't start new thread"
    r"|resource temporarily unavailable|too many open files|failed to map segment",
    re.IGNORECASE,
)
_TOO_LITTLE_HINT = (
    "Give the process more memory, processes or open files (MemoryMax=, TasksMax=, LimitNOFILE=, ulimit), "
    "or lower dbt.threads; then run `selfheald wait` again."
)


def job_error(error: BaseException) -> JobError:
    """The error that the parent is told: a known one as it is, a stranger under the code nearest to it."""
    if isinstance(error, JobError):
        return error
    text = str(error).strip() or type(error).__name__
    if isinstance(error, OSError) and error.errno in _DISK_FULL:
        return JobError("disk_full", text, path=error.filename)
    lacking = shortage(text)
    if lacking is not None:
        return lacking
    if isinstance(error, OSError) and error.errno in _NO_ACCESS:
        return JobError("permission_denied", text, path=error.filename)
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _SHORTAGE):
        return JobError("interrupted", f"the machine has too little: {text}", _TOO_LITTLE_HINT)
    return JobError("dbt_failed", f"{type(error).__name__}: {text}")


def shortage(message: str) -> Optional[JobError]:
    """The error for a library's words that mean a full disk, or too little memory, processes or open files.

    DuckDB and dbt pass no error number on. ``None`` for all other words.
    """
    if _NO_SPACE.search(message):
        return JobError("disk_full", message)
    if _TOO_LITTLE.search(message):
        return JobError("interrupted", message, _TOO_LITTLE_HINT)
    return None


class Channel:
    """Writes events to ``descriptor``, one JSON line each, and remembers which step is running.

    ``on_broken`` is called when nobody reads any more.
    """

    def __init__(self, descriptor: int, on_broken: Callable[[], None]) -> None:
        self._descriptor = descriptor
        self._on_broken = on_broken
        self._lock = threading.Lock()
        self.running_step: Optional[str] = None

    def emit(self, event: Mapping[str, Any]) -> None:
        """Send one event. Never waits for anything but the parent's reading."""
        if event.get("event") == "step":
            self.running_step = event["name"] if event["state"] == "started" else None
        data = memoryview(json.dumps(event, default=str).encode("ascii") + b"\n")
        with self._lock:
            try:
                while data:
                    data = data[os.write(self._descriptor, data) :]
            except OSError:
                self._on_broken()

    def fail(self, error: JobError) -> None:
        """Send the last event of a job that failed."""
        self.emit(
            {
                "event": "error",
                "code": error.code,
                "message": error.message,
                "hint": error.hint,
                "path": error.path,
                "step": error.step or self.running_step,
            }
        )
