"""One initialization, under the database's lock: check again, build on staging, verify, publish, look, marker."""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from selfheald.client import valid_marker
from selfheald.config import Config
from selfheald.dbt_host import run_job
from selfheald.errors import InitializationError
from selfheald.initialization_state import (
    STEPS,
    InitializationResult,
    InitializationState,
    iso_time,
)
from selfheald.locks import DatabaseLock, Holder
from selfheald.log import event_log
from selfheald.marker import Status, append_history, log_folder, new_attempt_id, remove_marker, write_marker
from selfheald.plan import Plan, Work, find_work
from selfheald.planner import Planner, Settings
from selfheald.staging import Staging, clean_leftovers, open_staging, require_space
from selfheald.table_checker import CheckResult, Reading, copy_in_child, judge
from selfheald.workspace import Database, ensure_private_folder

Result = TypeVar("Result")
Reader = Callable[[Path], Awaitable[Reading]]

#: Seconds between two looks at something that is busy.
BUSY_SECONDS = 0.2
#: Seconds for which finished tables wait for a simulator to close the database, before they are given up.
PUBLISH_PATIENCE_SECONDS = 5.0
#: Seconds for which the live file is looked at after publishing, if a simulator writes to it at once.
CERTIFY_SECONDS = 30.0
#: Seconds that an initialization is said to take where none has been measured yet.
FIRST_ESTIMATE_SECONDS = 5.0


class BusyError(Exception):
    """Another process holds the database, or is writing to it: nothing was changed."""

    def __init__(self, holder: Holder | None) -> None:
        super().__init__("another process holds the database")
        self.holder = holder


class StartOverError(Exception):
    """The database changed meanwhile: nothing was published, look at it anew."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What every initialization needs. ``read`` looks at a database without its lock."""

    config: Config
    planner: Planner
    read: Reader


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a database was found to be, and against which plan."""

    plan: Plan
    settings: Settings
    check: CheckResult

    @property
    def reading(self) -> Reading:
        return self.check.reading

    @property
    def is_new(self) -> bool:
        """True if there is no database yet, or only a zero-byte file that asks for one."""
        return not self.reading.exists or self.reading.empty


async def initialize(
    tools: Tools,
    database: Database,
    status: Status,
    *,
    trigger: str,
    attempt: int = 1,
    retry: Callable[[InitializationError], float | None] = lambda error: None,
    keep_staging: bool = False,
) -> InitializationResult:
    """Make the missing tables of a database, if they are missing still once its lock is ours.

    A failure is in the result, and written to status, history and log; ``retry`` tells in how many seconds the
    caller will try again. Raises :class:`BusyError` and :class:`StartOverError`, and
    :class:`~selfheald.errors.ConcurrentInitializationError` where another process has the lock: in these cases
    nothing was changed.
    """
    ensure_private_folder(database)
    with DatabaseLock(database.lock) as lock:
        return await _Initialization(tools, database, status, lock, trigger, attempt, retry, keep_staging).run()


async def inspect(tools: Tools, database: Database, *, fresh: bool = False) -> Inspection:
    """Read the database and compare it with the plan; nothing is written."""
    return await look(tools, database, *await tools.planner.plan_and_settings(database, fresh=fresh))


async def look(tools: Tools, database: Database, plan: Plan, settings: Settings) -> Inspection:
    """As :func:`inspect`, with the plan that is known."""
    return Inspection(plan, settings, judge(await tools.read(database.path), plan.required, database.path))


def is_fresh(database: Database, plan: Plan) -> bool:
    """True if the marker tells of this very file and plan, so that the database need not be opened."""
    marker = valid_marker(database.path)
    return marker is not None and marker.get("fingerprint") == plan.fingerprint


def adopt(database: Database, found: Inspection, *, answers: str | None, initialized_at: float | None = None) -> bool:
    """Write the marker of a database that is complete; False if it changed meanwhile."""
    identity = found.reading.identity
    return (
        found.check.complete
        and found.reading.certain
        and identity is not None
        and write_marker(
            database,
            identity,
            found.plan.required,
            fingerprint=found.plan.fingerprint,
            origin="adopted" if initialized_at is None else "dbt",
            answers=answers,
            checked_at=time.time(),
            initialized_at=initialized_at,
        )
    )


async def in_stoppable_thread(function: Callable[..., Result]) -> Result:
    """Run ``function`` in a worker thread; when this is cancelled, the event that it is given as ``stop`` is set."""
    stop = threading.Event()
    try:
        return await anyio.to_thread.run_sync(partial(function, stop=stop), abandon_on_cancel=True)
    finally:
        stop.set()


@dataclass(slots=True)
class _Initialization:
    tools: Tools
    database: Database
    status: Status
    lock: DatabaseLock
    trigger: str
    attempt: int
    retry: Callable[[InitializationError], float | None]
    keep_staging: bool
    attempt_id: str = field(default_factory=lambda: new_attempt_id(time.time()))
    started_at: float = field(default_factory=time.time)
    began: float = field(default_factory=time.monotonic)
    deadline: float = 0.0
    missing: list[str] = field(default_factory=list)
    created: list[str] = field(default_factory=list)

    async def run(self) -> InitializationResult:
        try:
            return await self._run()
        except InitializationError as error:
            return self._failed(error)
        except anyio.get_cancelled_exc_class():
            self._failed(InitializationError("the initialization was interrupted", code="interrupted"))
            raise

    async def _run(self) -> InitializationResult:
        for leftover in clean_leftovers(self.database):
            self._log("leftover_removed", f"removed what a killed initialization left: {leftover.name}")
        self._begin("check_tables")
        found = await inspect(self.tools, self.database)
        if adopt(self.database, found, answers=self.status.record["answers"]):
            self._end("check_tables")
            return self._completed("adopted", found.plan)
        self._require_idle(found)
        self._end("check_tables")
        missing = found.check.missing
        self.missing = [table.qualified for table in missing]
        work = find_work(found.plan, missing, existing_tables(found.reading))
        nodes = [*work.seeds, *work.models]
        self.status.write(
            state=InitializationState.IN_PROGRESS.value,
            reason=None,
            queue_position=None,
            holder=None,
            attempt_id=self.attempt_id,
            attempt=self.attempt,
            next_attempt_at=None,
            error=None,
            missing_tables_found=self.missing,
            tables_created=[],
            started_at=iso_time(self.started_at),
            completed_at=None,
            progress={"done": 0, "total": len(nodes), "node": None},
            eta_seconds=self.tools.planner.last_seconds() or FIRST_ESTIMATE_SECONDS,
        )
        remove_marker(self.database)
        self._log("initialization_start", f"making {len(missing)} missing tables: {', '.join(self.missing)}")
        logs = log_folder(self.database, self.attempt_id)
        limits = self.tools.config.limits
        seed_bytes = sum(_size(node.path) for node in work.seeds)
        require_space(self.database.folder, minimum=limits.min_free_bytes, staging_bytes=2 * seed_bytes)
        with open_staging(self.database, keep_on_error=self.keep_staging) as staging:
            self.deadline = time.monotonic() + self.tools.config.dbt.timeout
            identity = await self._copy_inputs(found, work, staging)
            await self._build(found, work, staging, logs)
            require_space(self.database.folder, minimum=limits.min_free_bytes, staging_bytes=_size(staging.database))
            await self._publish(found, work, staging, identity, logs)
        return await self._certify()

    def _require_idle(self, found: Inspection) -> None:
        """Raise unless this is a database whose missing tables can be made now."""
        if found.check.complete or not found.reading.certain:
            raise BusyError(found.reading.holder)
        if found.check.error is not None:
            raise found.check.error
        if found.reading.holder is not None:
            raise BusyError(found.reading.holder)

    async def _copy_inputs(self, found: Inspection, work: Work, staging: Staging) -> Mapping[str, Any] | None:
        """Copy existing tables that missing ones are built from; the identity of the file they are of."""
        identity = found.reading.identity
        if not work.inputs:
            return identity
        copy = partial(
            copy_in_child,
            self.database.path,
            staging.database,
            list(work.inputs),
            storage_version=self.tools.config.dbt.storage_version,
            max_bytes=self.tools.config.limits.max_input_bytes,
            timeout=self.tools.config.dbt.timeout,
        )
        copied = await in_stoppable_thread(copy)
        if copied["identity"] != identity:
            raise StartOverError
        return identity

    async def _build(self, found: Inspection, work: Work, staging: Staging, logs: Path) -> None:
        dbt = self.tools.config.dbt
        await self._child(
            {
                "job": "build",
                **found.settings.job(self.tools.config),
                "select": [],
                "seeds": [{"unique_id": node.unique_id, "select": node.selector} for node in work.seeds],
                "models": [{"unique_id": node.unique_id, "select": node.selector} for node in work.models],
                "storage_version": dbt.storage_version,
                "pre_sql": dbt.pre_sql,
                "work_dir": str(staging.work),
                "database": str(staging.database),
                "partial_parse": str(self.tools.planner.saved_parse(found.plan.fingerprint)),
            },
            found.settings,
            staging,
            logs,
        )

    async def _publish(
        self,
        found: Inspection,
        work: Work,
        staging: Staging,
        identity: Mapping[str, Any] | None,
        logs: Path,
    ) -> None:
        """Hand the tables over, waiting a little for a simulator that has the database open just now."""
        nodes = found.plan.nodes
        tables = []
        for table in found.check.missing:
            node = nodes[table.unique_id]
            seed = {"path": node.path, "delimiter": node.delimiter} if node.resource_type == "seed" else None
            tables.append(
                {
                    "schema": table.schema,
                    "name": table.name,
                    "columns": [list(column) for column in table.columns],
                    "contract": node.contract,
                    "seed": seed,
                }
            )
        job = {
            "job": "publish",
            "staging": str(staging.database),
            "database": str(self.database.path),
            "mode": "create" if found.is_new else "graft",
            "tables": tables,
            "inputs": [{"schema": schema, "name": name} for schema, name in work.inputs],
            "identity": None if found.is_new else identity,
            "storage_version": self.tools.config.dbt.storage_version,
        }
        patience = time.monotonic() + PUBLISH_PATIENCE_SECONDS
        while True:
            answer = await self._child(job, found.settings, staging, logs)
            if answer["outcome"] == "published":
                self.created = list(answer["created"])
                return
            if answer["outcome"] == "changed":
                self._log("start_over", f"the database changed meanwhile: {answer.get('message')}")
                raise StartOverError
            if time.monotonic() > patience:
                raise BusyError(None)
            await anyio.sleep(BUSY_SECONDS)

    async def _certify(self) -> InitializationResult:
        """Look at the live file, and write the marker if it holds what it should."""
        answers = self.status.record["answers"]
        until = time.monotonic() + CERTIFY_SECONDS
        while True:
            found = await inspect(self.tools, self.database)
            there = {table.qualified for table in found.plan.required} - {t.qualified for t in found.check.missing}
            if found.reading.certain and not found.check.complete:
                raise found.check.error or InitializationError(
                    f"after publishing these are missing: {', '.join(t.qualified for t in found.check.missing)}",
                    code="verification_failed",
                    step="publish",
                    path=self.database,
                    missing_tables=[table.qualified for table in found.check.missing],
                )
            if found.reading.certain:
                self.created = [name for name in self.missing if name in there]
                if adopt(self.database, found, answers=answers, initialized_at=time.time()):
                    return self._completed("initialized", found.plan)
            if time.monotonic() > until:
                raise StartOverError
            await anyio.sleep(BUSY_SECONDS / 4)

    async def _child(self, job: dict[str, Any], settings: Settings, staging: Staging, logs: Path) -> dict[str, Any]:
        return await run_job(
            {**job, "log_dir": str(logs), "log_file": str(logs / f"{job['job']}.log")},
            python=settings.python,
            environment=settings.environment,
            timeout=max(0.05, self.deadline - time.monotonic()),
            on_event=self._on_event,
            locks=(self.lock.fileno(), staging.lock),
        )

    def _on_event(self, event: dict[str, Any]) -> None:
        if event["event"] == "step":
            if event["state"] == "started":
                self._begin(event["name"])
            else:
                self._end(event["name"])
        elif event["event"] == "node":
            progress = dict(self.status.record["progress"])
            progress["node"] = event["name"]
            progress["done"] += event["state"] == "finished"
            self.status.write(progress=progress)
        elif event["event"] == "warning":
            self._log("dbt_warning", str(event["message"]), level="WARNING")

    def _begin(self, name: str) -> None:
        step = self.status.begin(name)
        if self.status.record["progress"] is not None:
            self.status.record["progress"] = {**self.status.record["progress"], "node": None}
        if self.status.record["state"] == InitializationState.IN_PROGRESS.value:
            self.status.write()
        assert step.started_at is not None
        self._log(
            "initialization_step_start",
            f"{step.display_name}…",
            level="DEBUG",
            step_name=name,
            started_at=iso_time(step.started_at),
        )

    def _end(self, name: str, error: str | None = None) -> None:
        step = self.status.end(name, error)
        if self.status.record["state"] == InitializationState.IN_PROGRESS.value and error is None:
            self.status.write()
        self._log(
            "initialization_step_complete",
            f"{step.display_name}: {'failed' if error else 'done'} after {step.duration_seconds or 0:.2f} s",
            level="DEBUG" if error else "INFO",
            step_name=name,
            started_at=None if step.started_at is None else iso_time(step.started_at),
            completed_at=None if step.completed_at is None else iso_time(step.completed_at),
            duration_seconds=step.duration_seconds,
            success=error is None,
        )

    def _completed(self, outcome: str, plan: Plan) -> InitializationResult:
        for name in STEPS:
            if outcome == "initialized" and self.status.step(name).started_at is None:
                self.status.end(name)
        result = self._result(outcome, None)
        if outcome == "initialized":
            self.tools.planner.remember_seconds(result.duration_seconds)
            message = f"ready in {result.duration_seconds:.1f} s: {len(self.created)} tables made"
            self._record(result)
        else:
            message = "ready: all tables are there"
        self.status.write(
            state=InitializationState.COMPLETED.value,
            reason=None,
            queue_position=None,
            holder=None,
            next_attempt_at=None,
            error=None,
            eta_seconds=None,
            attempt_id=self.attempt_id,
            missing_tables_found=self.missing,
            tables_created=self.created,
            completed_at=iso_time(result.completed_at),
        )
        self._log(
            "initialization_complete",
            message,
            level="SUCCESS" if outcome == "initialized" else "INFO",
            duration_seconds=result.duration_seconds,
            success=True,
        )
        return result

    def _failed(self, error: InitializationError) -> InitializationResult:
        running = self.status.running()
        error.step = error.step or running or "check_tables"
        error.missing_tables = error.missing_tables or self.missing
        error.path = error.path or str(self.database)
        if running is not None:
            self._end(running, error.message)
        elif self.status.step(error.step).started_at is None:
            self.status.end(error.step, error.message)
        result = self._result("failed", error)
        pause = self.retry(error)
        self._log(
            "initialization_failed",
            f"{error.code}: {error.message}",
            level="ERROR" if pause is None else "WARNING",
            step_name=error.step,
            duration_seconds=result.duration_seconds,
            success=False,
            error_code=error.code,
        )
        try:
            self.status.write(
                state=InitializationState.FAILED.value,
                reason="needs_person" if pause is None else "backoff",
                queue_position=None,
                attempt_id=self.attempt_id,
                attempt=self.attempt,
                next_attempt_at=None if pause is None else iso_time(time.time() + pause),
                missing_tables_found=self.missing,
                tables_created=[],
                error=error.as_dict(),
                eta_seconds=None,
                completed_at=iso_time(result.completed_at),
            )
            self._record(result)
        except InitializationError as unwritten:
            self._log("status_not_written", unwritten.message, level="ERROR", error_code=unwritten.code)
        return result

    def _result(self, outcome: str, error: InitializationError | None) -> InitializationResult:
        return InitializationResult(
            database=str(self.database),
            outcome=outcome,
            state=InitializationState.FAILED if error else InitializationState.COMPLETED,
            steps=self.status.steps,
            missing_tables_found=self.missing,
            tables_created=[] if error else self.created,
            error=error,
            attempt_id=self.attempt_id,
            started_at=self.started_at,
            completed_at=time.time(),
            duration_seconds=time.monotonic() - self.began,
        )

    def _record(self, result: InitializationResult) -> None:
        append_history(self.database, {**result.as_dict(), "trigger": self.trigger}, self.tools.config.history.keep)

    def _log(self, event: str, message: str, *, level: str = "INFO", **fields: Any) -> None:
        event_log(event, message, level, database=str(self.database), attempt_id=self.attempt_id, **fields)


def existing_tables(reading: Reading) -> set[tuple[str, str]]:
    """The base tables that were seen, as :mod:`selfheald.plan` names relations."""
    return {(each.schema.lower(), each.name.lower()) for each in reading.relations if each.kind == "table"}


def _size(path: str | Path) -> int:
    try:
        return Path(path).stat().st_size
    except OSError:
        return 0
