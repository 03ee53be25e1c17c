"""Makes one database ready, here and now: what ``selfheald ensure`` and a simulator's own hook call."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import anyio

from selfheald.client import file_identity
from selfheald.config import Config, load_config
from selfheald.errors import ConcurrentInitializationError, InitializationError
from selfheald.initialization import BUSY_SECONDS, BusyError, StartOverError, clean_up, initialize
from selfheald.initialization_state import InitializationResult, InitializationState, RequiredTable
from selfheald.inspection import Inspection, Tools, adopt, inspect, is_adoptable, is_fresh, put_status_right
from selfheald.locks import Holder
from selfheald.marker import OnWrite, Status
from selfheald.planner import Planner
from selfheald.table_checker import (
    Reading,
    TableExistenceChecker,
    read_database,
    read_in_child,
    resolve_required_with,
)
from selfheald.threads import in_stoppable_thread, run_in_thread
from selfheald.workspace import Database

__all__ = ["AutoInitializer", "TableExistenceChecker", "read_apart", "read_here", "required_tables"]

_Result = TypeVar("_Result")


class AutoInitializer:
    """Checks a database and makes its missing tables.

    ``db`` is the database's path; ``config`` the configuration (default: as the commands find it). Safe in a process
    that has the database open: whatever must open it is done in child processes, so no lock of the caller's is lost.
    ``in_process`` spares the one for looking where no file is yet, in a process that never has it open.
    It can be pickled before it is used, if the given functions can: it holds a path and settings, and nothing of a
    daemon's, so that whoever distributes work may run it on another host that sees the same files.
    """

    def __init__(
        self,
        db: str | os.PathLike[str],
        config: Config | None = None,
        *,
        timeout: float = 300.0,
        on_status: OnWrite | None = None,
        announce: Callable[[str], None] | None = None,
        keep_staging: bool = False,
        in_process: bool = False,
    ) -> None:
        self.database = Database.at(db)
        self.config = config or load_config()
        self.timeout = timeout
        self._on_status = on_status
        self._announce = announce or _say_nothing
        self._keep_staging = keep_staging
        self._in_process = in_process

    def ensure_initialized(self) -> InitializationResult:
        """Make the database ready; blocks for at most ``timeout`` seconds (0: no limit) while others are in the way.

        Never raises for what can go wrong with a database: the result's ``error`` tells. Also callable where an
        event loop is running in this thread.
        """
        return _run_apart(self.ensure_initialized_async)

    async def ensure_initialized_async(self) -> InitializationResult:
        """As :meth:`ensure_initialized`, for an event loop. Cancelling it kills what it started."""
        read = read_here if self._in_process else read_apart
        tools = Tools(self.config, Planner(self.config, announce=self._announce), read, apart=not self._in_process)
        status = Status(self.database, on_write=self._on_status)
        began, started_at = time.monotonic(), time.time()

        def result(outcome: str, error: InitializationError | None = None) -> InitializationResult:
            return InitializationResult(
                database=str(self.database),
                outcome=outcome,
                state=InitializationState.FAILED if error else InitializationState.COMPLETED,
                steps=status.steps,
                error=error,
                started_at=started_at,
                completed_at=time.time(),
                duration_seconds=time.monotonic() - began,
            )

        with suppress(InitializationError):  # what stands in the way of that is told where it matters
            clean_up(self.database)
        try:
            while True:
                found = await self._inspect(tools, status)
                if found.check.complete and found.reading.certain and is_fresh(self.database, found.plan.fingerprint):
                    return result("nothing_to_do")
                if is_adoptable(found):
                    put_status_right(status)
                    if adopt(self.database, found, answers=None):
                        return result("adopted")
                if not found.check.complete:
                    made = await self._initialize(tools, status, found)
                    if made is not None:
                        return made
                if 0 < self.timeout <= time.monotonic() - began:
                    raise await self._in_the_way(tools, time.monotonic() - began)
                await anyio.sleep(BUSY_SECONDS)
        except InitializationError as error:
            return result("failed", error)

    async def _inspect(self, tools: Tools, status: Status) -> Inspection:
        status.begin("check_tables")
        try:
            found = await inspect(tools, self.database, fresh=True)
        except InitializationError as error:
            error.step = error.step or "check_tables"
            status.end("check_tables", error.message)
            raise
        refusal = found.check.error
        if refusal is not None and found.reading.certain:
            refusal.step = "check_tables"
            refusal.path = refusal.path or str(self.database)
            status.end("check_tables", refusal.message)
            raise refusal
        status.end("check_tables")
        return found

    async def _initialize(self, tools: Tools, status: Status, found: Inspection) -> InitializationResult | None:
        """Try once; ``None`` if somebody is in the way and it is worth trying again."""
        holder = found.reading.holder
        try:
            if holder is not None:
                raise BusyError(holder)
            return await initialize(tools, self.database, status, trigger="ensure", keep_staging=self._keep_staging)
        except BusyError as busy:
            if busy.holder is not None and busy.holder.pid == os.getpid():
                raise _locked(self.database, busy.holder) from None
            status.show(state="not_started", reason="busy", holder=busy.holder and busy.holder.as_dict())
        except ConcurrentInitializationError:
            if self._on_status is not None:
                self._on_status({**status.record, "reason": "queued"})
        except StartOverError:
            pass
        return None

    async def _in_the_way(self, tools: Tools, waited: float) -> InitializationError:
        """The error that tells who was in the way for too long."""
        holder = (await tools.read(self.database.path)).holder
        if holder is not None:
            return _locked(self.database, holder)
        return ConcurrentInitializationError(
            f"another process has been initializing it for more than {waited:.0f} s",
            lock_file=self.database.lock,
            step="check_tables",
            hint=f"Who it is: its PID is in {self.database.lock}. Wait longer: --timeout.",
        )


def required_tables(db: Path) -> tuple[RequiredTable, ...]:
    """The tables that a database must have, by the configuration that the commands would find."""

    async def ask() -> tuple[RequiredTable, ...]:
        return (await Planner(load_config()).plan_for(Database.at(db))).required

    return _run_apart(ask)


resolve_required_with(required_tables)


def _say_nothing(message: str) -> None:
    """For whoever needs no word of what takes its time."""


async def read_apart(path: Path) -> Reading:
    """Look at a database from a child process: the one safe way in a process that may have it open."""
    return await in_stoppable_thread(partial(read_in_child, path))


async def read_here(path: Path) -> Reading:
    """Look at a database for a program that never opens one with DuckDB's own lock.

    A file that holds something may crash its reader, so that is read in a child here too.
    """
    identity = file_identity(path)
    if identity is None or identity["size"] == 0:
        return await run_in_thread(partial(read_database, path))
    return await read_apart(path)


def _run_apart(function: Callable[[], Awaitable[_Result]]) -> _Result:
    """Run it to its end, in a thread of its own where this one has a running event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return anyio.run(function)
    with ThreadPoolExecutor(1, thread_name_prefix="selfheald") as pool:
        return pool.submit(anyio.run, function).result()


def _locked(database: Database, holder: Holder) -> InitializationError:
    mode = "writing" if holder.mode == "write" else "reading"
    if holder.pid == os.getpid():
        message = f"this very process (PID {holder.pid}) has it open for {mode}"
        hint = "Close your own connection before ensure_initialized(), and open it again afterwards."
    else:
        who = "another process" if holder.pid is None else f"PID {holder.pid} ({holder.command})"
        message, hint = f"{who} has it open for {mode}", "Close that connection, then try again."
    return InitializationError(message, code="locked", hint=hint, path=database, step="check_tables")
