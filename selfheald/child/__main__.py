"""The child that does what must not happen in the daemon: run dbt, and write to databases.

Started as ``PYTHON selfheald/child JOB`` (:data:`JOBS`) by the interpreter whose dbt and DuckDB are wanted.
It needs nothing but that interpreter's standard library, dbt and DuckDB (Python 3.9 and later). Started as ``host`` it
does no job itself, but forks a child for each (:mod:`fork_host`).

*stdin*: one line, the job as JSON. The parent then keeps it open as long as it lives: at its end the child
kills its own process group, so that it never outlives its parent; and so it does after the job's ``time_limit``
(seconds), which is the parent's to keep, but a parent that was stopped cannot. The kind of job is an argument so
that importing dbt begins before the job is known.

*stdout*: events, one JSON object on each line: ``step``, ``node`` and ``warning`` as they happen, then one
``result`` (exit 0) or ``error`` (exit 1). What dbt, models and libraries print goes to the job's log file.
"""

from __future__ import annotations

import faulthandler
import importlib
import io
import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from typing import Any, Callable, Dict, NoReturn, Optional, Tuple

from protocol import Channel, Emit, JobError, job_error

Job = Dict[str, Any]

#: Kind of job: the module that does it, and the function in it.
JOBS: Dict[str, Tuple[str, str]] = {
    "plan": ("dbt_job", "plan"),
    "build": ("dbt_job", "build"),
    "judge": ("dbt_job", "judge"),
    "publish": ("publish_job", "publish"),
    "place": ("placing.place_job", "place"),
    "interpreter": ("interpreter_job", "interpreter"),
}


def main(kind: str) -> NoReturn:
    """Do one job and end the process; nothing that a library left behind can delay that."""
    events = os.dup(1)
    os.dup2(2, 1)
    sys.stdout, sys.stderr = _forgiving(1), _forgiving(2)
    lifeline = Lifeline()
    channel = Channel(events, on_broken=end_group)
    status = 1
    try:
        result = _do(kind, lifeline, channel.emit)
        lifeline.release()
        channel.emit({"event": "result", **result})
        status = 0
    except BaseException as error:  # noqa: BLE001  (the boundary: whatever it is, the parent hears of it)
        if not isinstance(error, JobError):
            traceback.print_exc()
        lifeline.release()
        channel.fail(job_error(error))
    finally:
        _flush()
        os._exit(status)


def _do(kind: str, lifeline: Lifeline, emit: Emit) -> Dict[str, Any]:
    failure: Optional[JobError] = None
    try:
        function = _load(kind)
    except JobError as error:
        failure = error
    job = lifeline.job()
    _log_to(job["log_file"])
    if failure is not None:
        raise failure
    if job.get("job", kind) != kind:
        raise JobError("config_invalid", f"started for the job {kind!r}, given the job {job.get('job')!r}")
    return function(job, emit)


def _load(kind: str) -> Callable[[Job, Emit], Dict[str, Any]]:
    if kind not in JOBS:
        raise JobError("config_invalid", f"no such job: {kind!r}; there are {', '.join(JOBS)}")
    # Nothing may be sent anywhere, whatever the caller's environment says.
    os.environ.update(DBT_SEND_ANONYMOUS_USAGE_STATS="false", DO_NOT_TRACK="1")
    module, function = JOBS[kind]
    try:
        loaded: Callable[[Job, Emit], Dict[str, Any]] = getattr(importlib.import_module(module), function)
    except Exception as error:
        traceback.print_exc()
        known = job_error(error)
        if known.code in ("disk_full", "interrupted"):
            raise known from error
        message = f"{sys.executable} cannot import what it needs: {error}"
        raise JobError("dbt_unavailable", message, path=sys.executable) from error
    return loaded


class Lifeline:
    """The parent's end of stdin. While it is open, the parent lives; when it closes, this group dies."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._line: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._released = False
        threading.Thread(target=self._watch, name="lifeline", daemon=True).start()

    def job(self) -> Job:
        """The job, once its line has come."""
        try:
            job = json.loads(self._line.get())
            os.fspath(job["log_file"])
            limit = None if job.get("time_limit") is None else float(job["time_limit"])
        except (ValueError, KeyError, TypeError) as error:
            raise JobError("config_invalid", f"no JSON object with a log_file: {error}") from error
        if limit is not None:
            clock = threading.Timer(max(0.0, self._began + limit - time.monotonic()), self._end)
            clock.daemon = True
            clock.start()
        return dict(job)

    def release(self) -> None:
        """From here on the parent may go: the job is done, and only its last event is still to be written."""
        self._released = True

    def _watch(self) -> None:
        line, waiting = bytearray(), True
        while True:
            try:
                data = os.read(0, 65536)
            except OSError:
                data = b""
            if not data:
                self._end()
                return
            if waiting:
                line += data
                if b"\n" in data:
                    self._line.put(bytes(line.split(b"\n", 1)[0]))
                    line, waiting = bytearray(), False

    def _end(self) -> None:
        if not self._released:
            end_group()


def end_group() -> NoReturn:
    """Die at once, with everything that was started here; as a guest in another's group, die alone."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _log_to(path: str) -> None:
    log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    _flush()
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    faulthandler.enable(file=2)


class _Forgiving(io.FileIO):
    """A log on a full disk must not hide the job's own outcome: what finds no room is lost."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except OSError:
            return len(data)


def _forgiving(descriptor: int) -> io.TextIOWrapper:
    buffered = io.BufferedWriter(_Forgiving(descriptor, "w", closefd=False))
    return io.TextIOWrapper(buffered, encoding="utf-8", errors="backslashreplace", line_buffering=True)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # a library may have put a stream of its own there, or closed ours
            pass


if __name__ == "__main__":
    if sys.argv[1:2] == ["host"]:
        importlib.import_module("fork_host").serve(int(sys.argv[2]), main)
    main(sys.argv[1] if len(sys.argv) > 1 else "")
