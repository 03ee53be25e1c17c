"""Reading a database in a process of its own, so that no descriptor of it is ever opened in the caller's.

POSIX locks belong to the process: a caller that has the database open in DuckDB would lose DuckDB's lock as soon as
anything else in its process opened and closed the file. A crash of DuckDB also stays in the child.

One JSON line goes in, one JSON document comes out. The child's standard input stays open for as long as its parent
wants it: when it ends, and so when the parent dies, the child kills itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from selfheald.catalog import Reading
from selfheald.client import file_identity
from selfheald.errors import InitializationError, InitializationTimeoutError, from_dict, from_os_error
from selfheald.notify import of_children
from selfheald.workspace import Folder

#: Run in safe-path mode: the working folder may be a stranger's, and hold a ``duckdb.py``.
_BOOT = "import sys; sys.path.append(sys.argv[1]); from selfheald.check_child import main; main()"
_POLL_SECONDS = 0.1
_EXIT_SECONDS = 2.0
_CHUNK = 1 << 16
_KEPT_STDERR = 4096
#: Address space of a child that reads a database; it needs a third of it.
_MOST_BYTES = 3 << 30


def read_in_child(path: Path, timeout: float = 30.0, stop: threading.Event | None = None) -> Reading:
    """:func:`selfheald.catalog_reader.read_database`, in a child process. Never raises for what a file can be.

    The holder of a lock is told also where that is the calling process itself. After ``timeout`` seconds, or when
    ``stop`` is set, the child is killed. A child that crashes, or is not done in time, gives ``check_crashed``, which
    counts (``certain``); ``interrupted``, after ``stop`` or where the child was killed or cannot be started, does not.
    """
    started, began = time.time(), time.monotonic()
    try:
        return Reading.from_dict(_run("read", {"path": os.fspath(path)}, timeout, stop))
    except InitializationError as failure:
        error = _overdue(timeout) if failure.code == "timeout" else failure
        error.path = error.path or str(path)
        identity = file_identity(path)
        return Reading(
            identity=identity, exists=identity is not None, empty=identity is not None and identity["size"] == 0,
            relations=(), certain=error.code == "check_crashed", holder=None, error=error,
            duration_seconds=time.monotonic() - began, read_at=started,
        )  # fmt: skip


def copy_in_child(
    source: Path,
    target: Path,
    tables: Sequence[tuple[str, str]],
    *,
    folder: Folder | None = None,
    storage_version: str | None = None,
    max_bytes: int = 2 << 30,
    timeout: float = 60.0,
    stop: threading.Event | None = None,
) -> dict[str, Any]:
    """:func:`selfheald.table_copier.copy_tables`, in a child process that is killed after ``timeout`` seconds.

    ``folder`` is the one that ``target`` lies in, held open, so that nobody can send the copies elsewhere.

    Blocks; to be called in a worker thread, where setting ``stop`` ends it within 0.1 s (``interrupted``). Raises
    what ``copy_tables`` raises, :class:`InitializationTimeoutError`, ``check_crashed``, or ``interrupted`` where
    somebody killed the child. After a kill an unfinished ``target`` can be left behind.
    """
    job = {
        "source": os.fspath(source),
        "target": os.fspath(target if folder is None else folder.fixed / target.name),
        "tables": [list(table) for table in tables],
        "storage_version": storage_version,
        "max_bytes": max_bytes,
    }
    try:
        return _run("copy", job, timeout, stop, keep=() if folder is None else (folder.handle,))
    except InitializationError as error:
        error.message = error.message.replace(str(job["target"]), str(target))
        error.path = (error.path or str(source)).replace(str(job["target"]), str(target))
        raise


def _run(
    kind: str, arguments: Mapping[str, Any], timeout: float, stop: threading.Event | None, keep: Sequence[int] = ()
) -> dict[str, Any]:
    """Start the child, which inherits the descriptors ``keep``, give it the job, and return its result."""
    began = time.monotonic()
    package = str(Path(__file__).resolve().parent.parent)
    request = json.dumps({"job": kind, **arguments}).encode("ascii") + b"\n"
    try:
        child = subprocess.Popen(
            [sys.executable, "-P", "-c", _BOOT, package],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=of_children(os.environ),
            start_new_session=True,
            pass_fds=tuple(keep),
        )
    except OSError as error:
        raise from_os_error(error, sys.executable, "start") from error
    with child as process:
        try:
            answer, said = _talk(process, request, began + timeout, stop)
            process.wait(_EXIT_SECONDS)
        except (TimeoutError, subprocess.TimeoutExpired):
            elapsed = time.monotonic() - began
            raise InitializationTimeoutError(
                f"The check was not done after {elapsed:.1f} s", timeout_seconds=timeout, elapsed_seconds=elapsed
            ) from None
        finally:
            _kill(process)
    try:
        reply = json.loads(answer)
    except ValueError:
        raise _crashed(process.returncode, said) from None
    if "error" in reply:
        raise from_dict(reply["error"])
    result: dict[str, Any] = reply["result"]
    return result


def _talk(
    process: subprocess.Popen[bytes], request: bytes, deadline: float, stop: threading.Event | None
) -> tuple[bytes, str]:
    """Send the request and read the answer to its end; also the last of what the child says on stderr."""
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    answer, said = bytearray(), bytearray()
    with selectors.DefaultSelector() as selector:
        os.set_blocking(process.stdin.fileno(), False)
        selector.register(process.stdin, selectors.EVENT_WRITE)
        selector.register(process.stdout, selectors.EVENT_READ, answer)
        selector.register(process.stderr, selectors.EVENT_READ, said)
        reading = {process.stdout, process.stderr}
        while reading:
            if stop is not None and stop.is_set():
                raise InitializationError("The check was called off", code="interrupted")
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise TimeoutError
            for key, _ in selector.select(min(_POLL_SECONDS, remaining)):
                if key.data is None:
                    request = _send(key.fd, request)
                    if not request:
                        # Kept open: its end is what tells the child that nobody wants its answer any more.
                        selector.unregister(key.fileobj)
                    continue
                chunk = os.read(key.fd, _CHUNK)
                key.data.extend(chunk)
                del said[:-_KEPT_STDERR]
                if not chunk:
                    selector.unregister(key.fileobj)
                    reading.discard(key.fileobj)  # type: ignore[arg-type]
    return bytes(answer), said.decode("utf-8", "replace")


def _send(descriptor: int, request: bytes) -> bytes:
    """What is left to send."""
    try:
        return request[os.write(descriptor, request) :]
    except BlockingIOError:
        return request
    except BrokenPipeError:
        return b""


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the child and whatever it started."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _overdue(seconds: float) -> InitializationError:
    return InitializationError(
        f"The process that read the database was not done after {seconds:g} s, and was killed",
        code="check_crashed",
        hint="Restore it from a back-up, or replace it; if only the machine was slow: `selfheald repair --retry`.",
    )


def _crashed(returncode: int, said: str) -> InitializationError:
    if returncode == -signal.SIGKILL:
        # No file makes its reader do that: it was a person, or the kernel for want of memory.
        return InitializationError(
            "The process that read the database was killed by SIGKILL",
            code="interrupted",
            hint="If it happens again, look for the kernel's out-of-memory killer (journalctl -k).",
        )
    if returncode < 0:
        try:
            name = signal.Signals(-returncode).name
        except ValueError:
            name = f"signal {-returncode}"
        return InitializationError(f"The process that read the database was killed by {name}", code="check_crashed")
    last = next((line for line in reversed(said.splitlines()) if line.strip()), "it said nothing")
    return InitializationError(
        f"The process that read the database failed: {last.strip()}",
        code="check_crashed",
        hint=f"Make sure that {sys.executable} can import duckdb and fsspec.",
    )


def main() -> NoReturn:
    """The child: one job from standard input, its result to standard output."""
    request = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_die_with_parent, name="parent-watch", daemon=True).start()
    # Nothing but the answer may get into it, whatever a library prints.
    output = os.dup(1)
    os.dup2(2, 1)
    try:
        reply: dict[str, Any] = {"result": _JOBS[request.pop("job")](**request)}
    except InitializationError as error:
        reply = {"error": error.as_dict()}
    with os.fdopen(output, "wb") as stream:
        stream.write(json.dumps(reply).encode("ascii"))
    # Interpreter and DuckDB need no farewell, and cannot spoil it.
    os._exit(0)


def _die_with_parent() -> None:
    while sys.stdin.buffer.read(1):
        pass
    os.killpg(0, signal.SIGKILL) if os.getpgrp() == os.getpid() else os._exit(1)


def _read(path: str) -> dict[str, Any]:
    from selfheald.catalog_reader import read_database

    # What DuckDB's own limit does not count, above all a text that claims to be of 4 GB, ends here.
    with contextlib.suppress(OSError, ValueError):
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (_MOST_BYTES, hard))
    return read_database(Path(path)).as_dict()


def _copy(source: str, target: str, tables: Sequence[Sequence[str]], **limits: Any) -> dict[str, Any]:
    from selfheald.table_copier import copy_tables

    return copy_tables(Path(source), Path(target), [(schema, name) for schema, name in tables], **limits)


_JOBS: Mapping[str, Callable[..., dict[str, Any]]] = {"read": _read, "copy": _copy}

if __name__ == "__main__":
    main()
