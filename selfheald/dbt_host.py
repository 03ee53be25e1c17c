"""Runs one job in a child process: dbt, or the publishing, with the configured interpreter.

The child has a session of its own, so that it can be killed with all that it started. Its standard input stays open
for as long as we live; when it closes, the child kills its own group. So no child outlives its parent, whichever
thread started it and however the parent ended.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import anyio
import anyio.abc
from anyio.streams.buffered import BufferedByteReceiveStream

from selfheald.errors import SHORTAGES, InitializationError, InitializationTimeoutError, from_os_error
from selfheald.workspace import Folder

CHILD = Path(__file__).with_name("child")
#: A single event longer than this is not of the protocol (bytes).
MAX_EVENT_BYTES = 64 << 20
#: Seconds that a child that has told its result may take to end (DuckDB writes its checkpoint then).
EXIT_SECONDS = 30.0
#: Seconds after the time limit at which a child ends by itself, if its parent was stopped and so could not kill it.
OVERTIME_SECONDS = 5.0
_KILLED_HINT = "If it happens again, look for the kernel's out-of-memory killer (journalctl -k)."

OnEvent = Callable[[dict[str, Any]], None]


class Child(Protocol):
    """A process that leads a group of its own, with pipes to its standard input and output."""

    @property
    def pid(self) -> int: ...
    @property
    def returncode(self) -> int | None:
        """As of :mod:`subprocess`; ``None`` also of a child that has ended where nobody can tell how."""

    @property
    def stdin(self) -> anyio.abc.ByteSendStream | None: ...
    @property
    def stdout(self) -> anyio.abc.ByteReceiveStream | None: ...
    async def wait(self) -> object: ...
    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Order:
    """A child that is wanted: for a job of this ``kind``, its stderr going to ``log_file``, which is there or is made.

    ``held`` are descriptors that it inherits, under the same numbers; ``parse`` is the kept parse that it begins with.
    """

    kind: str
    log_file: Path
    python: str
    environment: Mapping[str, str]
    held: tuple[int, ...]
    parse: str | None


#: Starts a child. Raises :class:`InitializationError` if that cannot be done.
Starter = Callable[[Order], Awaitable[Child]]


async def start_child(order: Order) -> Child:
    """A child with an interpreter of its own."""
    with open_log(order.log_file) as log:
        try:
            return await anyio.open_process(
                [order.python, str(CHILD), order.kind],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=dict(order.environment),
                start_new_session=True,
                pass_fds=order.held,
            )
        except OSError as error:
            if error.errno in SHORTAGES:
                raise from_os_error(error, None, "start a process") from error
            raise InitializationError(
                f"cannot start {order.python}: {error.strerror}",
                code="dbt_unavailable",
                path=order.python,
                hint="Let dbt.python name a Python interpreter with dbt-core and dbt-duckdb.",
            ) from error


def open_log(path: Path) -> BinaryIO:
    """A child's log, to be written at its end. Raises :class:`InitializationError` if it cannot be."""
    try:
        return path.open("ab")
    except OSError as error:
        raise from_os_error(error, path, "write") from error


async def run_job(
    job: Mapping[str, Any],
    *,
    python: str,
    environment: Mapping[str, str],
    timeout: float,
    on_event: OnEvent = lambda event: None,
    locks: Sequence[int] = (),
    folders: Sequence[Folder] = (),
    start: Starter = start_child,
) -> dict[str, Any]:
    """Run ``job`` (its key ``job`` names the kind) in a child that ``start`` starts, and return the child's result.

    ``timeout`` is in seconds from the start of the child; then, and when this is cancelled, the child's whole group
    is killed before this returns. ``locks`` are descriptors that the child holds too, so that what they lock stays
    locked until the last of both is gone. What the job names below ``folders`` the child reaches by their
    descriptors, so that nobody who may rename them can send it elsewhere.

    Raises :class:`InitializationError` with the child's own error; ``dbt_unavailable`` if the interpreter cannot be
    started; ``interrupted`` if the child ended without a word; :class:`InitializationTimeoutError`.
    """
    log_file = Path(job["log_file"])
    # With a dot behind it a folder's fixed path is no link to whoever looks at its last name.
    fixed = {str(folder.path): f"{folder.fixed}/." for folder in folders}
    named = {str(folder.fixed): str(folder.path) for folder in folders}
    held = (*locks, *(folder.handle for folder in folders))
    log = Path(rename_in(str(log_file), fixed))
    order = Order(str(job["job"]), log, python, environment, held, job.get("partial_parse"))
    process = await start(order)
    began = time.monotonic()
    try:
        with anyio.fail_after(timeout):
            told = {**rename_in(job, fixed), "time_limit": timeout + OVERTIME_SECONDS}
            result = await _converse(process, told, lambda event: on_event(rename_in(event, named)))
            result = dict(rename_in(result, named))
            with anyio.fail_after(EXIT_SECONDS):
                await process.wait()
    except TimeoutError:
        elapsed = time.monotonic() - began
        raise InitializationTimeoutError(
            f"the {job['job']} job was killed after {elapsed:.1f} s (limit {round(timeout, 1):g} s)",
            timeout_seconds=timeout,
            elapsed_seconds=elapsed,
            log=_log_to_read(job),
            path=job.get("project_dir"),
        ) from None
    finally:
        with anyio.CancelScope(shield=True):
            await kill_group(process)
    if result.get("event") == "error":
        raise InitializationError(
            result["message"],
            code=result["code"],
            hint=result.get("hint"),
            path=result.get("path"),
            step=result.get("step"),
            log=_log_to_read(job),
        )
    if result.get("event") != "result":
        raise _ended_early(process.returncode, log_file, python)
    return result


def rename_in(value: Any, names: Mapping[str, str]) -> Any:
    """A JSON value in which one folder's path stands for another's, in whatever text it occurs."""
    if isinstance(value, str):
        longest_first = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
        return re.sub(rf"({longest_first})(?:/\.)?(?![\w.-])", lambda found: names[found[1]], value) if names else value
    if isinstance(value, Mapping):
        return {key: rename_in(each, names) for key, each in value.items()}
    if isinstance(value, list):
        return [rename_in(each, names) for each in value]
    return value


async def _converse(process: Child, job: Mapping[str, Any], on_event: OnEvent) -> dict[str, Any]:
    """Send the job, pass its events on, return the last one (empty if there was none)."""
    assert process.stdin is not None
    assert process.stdout is not None
    # A child that ended at once has told why, or will be known by its exit code.
    with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
        await process.stdin.send(json.dumps(dict(job)).encode() + b"\n")
    lines = BufferedByteReceiveStream(process.stdout)
    while True:
        try:
            line = await lines.receive_until(b"\n", MAX_EVENT_BYTES)
        except (anyio.EndOfStream, anyio.IncompleteRead, anyio.DelimiterNotFound):
            return {}
        event = _parse(line)
        if event is None:
            continue  # what an interpreter printed before the child took over
        if event["event"] in ("result", "error"):
            return event
        on_event(event)


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "event" in event else None


async def kill_group(process: Child) -> None:
    """Kill what is left of the group of a child that leads one, and reap the child."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
    await process.aclose()


def _log_to_read(job: Mapping[str, Any]) -> Path:
    """dbt's own log where it wrote one, else what the child printed."""
    dbt_log = Path(job.get("log_dir") or Path(job["log_file"]).parent) / "dbt.log"
    return dbt_log if dbt_log.is_file() else Path(job["log_file"])


def _ended_early(returncode: int | None, log_file: Path, python: str) -> InitializationError:
    if returncode is not None and returncode < 0:
        name = signal.Signals(-returncode).name
        return InitializationError(
            f"the child process was killed by {name}",
            code="interrupted",
            log=log_file,
            hint=_KILLED_HINT,
        )
    if returncode is None:
        message = "the child process and the one that it was forked from ended without a word"
        return InitializationError(message, code="interrupted", log=log_file, hint=_KILLED_HINT)
    return InitializationError(
        f"the child process of {python} ended with exit code {returncode} and no result",
        code="dbt_unavailable",
        path=python,
        log=log_file,
    )
