"""Looks after each database: checks it when it is due, queues it, lets it be initialized, answers who waits for it."""

from __future__ import annotations

import os
import random
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio

from selfheald import decision
from selfheald.agenda import Agenda
from selfheald.backlog import Backlog
from selfheald.client import file_identity, valid_marker
from selfheald.config import Config
from selfheald.crash_guard import CrashGuard
from selfheald.decision import Decision
from selfheald.errors import ConcurrentInitializationError, InitializationError
from selfheald.guarded_reader import GuardedReader
from selfheald.initialization import (
    BusyError,
    Inspection,
    StartOverError,
    Tools,
    adopt,
    initialize,
    inspect,
    is_fresh,
    look,
)
from selfheald.initialization_state import InitializationState, iso_time
from selfheald.locks import DatabaseLock, Holder
from selfheald.log import event_log
from selfheald.marker import Status, finish_request, has_request, read_status, remove_marker, take_request
from selfheald.planner import Planner
from selfheald.retry import RetryPolicy
from selfheald.staging import clean_leftovers, has_leftovers
from selfheald.workspace import Database

#: Checks under way at once.
CHECKS_AT_ONCE = 8
#: Seconds between two looks at a database that somebody holds: doubled from the first to the second.
BUSY_SECONDS = (0.25, 2.0)


@dataclass(slots=True, eq=False)
class Case:
    """What the daemon remembers of one database. Times are of the event loop's clock.

    ``turn`` is held by a check or an initialization of it, so that neither answers for the other.
    """

    database: Database
    status: Status
    first_hint: float | None = None
    checked_at: float = float("-inf")
    checking: bool = False
    initializing: bool = False
    dirty: bool = False
    requested: bool = False
    attempt: int = 0
    not_before: float = float("-inf")
    busy_pause: float = BUSY_SECONDS[0]
    busy_logged: bool = False
    ready_identity: dict[str, Any] | None = None
    refused: tuple[Any, ...] | None = None
    cleaned: bool = False
    turn: anyio.Lock = field(default_factory=anyio.Lock)


class Caretaker:
    """Everything that the daemon knows of its databases, and does about them."""

    def __init__(self, config: Config, threads: anyio.CapacityLimiter, guard: CrashGuard) -> None:
        self.config = config
        self._reader = GuardedReader(guard, threads)
        self._tools = Tools(config, Planner(config, announce=_announce), self._reader.read)
        self._retry = RetryPolicy(config.retry.attempts, config.retry.base, config.retry.max)
        self._cases: dict[Path, Case] = {}
        self._agenda: Agenda[Case] = Agenda()
        self._agenda_changed = anyio.Event()
        self._backlog: Backlog[Case] = Backlog()
        self._backlog_changed = anyio.Event()
        self._stopping = False
        self._fingerprint: str | None = None

    def __len__(self) -> int:
        return len(self._cases)

    def ready_identities(self) -> dict[Path, dict[str, Any]]:
        """The identities of the databases that were ready when they were last looked at."""
        return {path: case.ready_identity for path, case in self._cases.items() if case.ready_identity is not None}

    def is_initializing(self) -> bool:
        """True while an initialization is under way."""
        return any(case.initializing for case in self._cases.values())

    def stop(self) -> None:
        """Begin no further initialization; :meth:`heal` returns when the running one has ended."""
        self._stopping = True
        self._backlog_changed.set()

    def hint(self, path: Path, quiet: bool) -> None:
        """Something may have happened to this database: check it at once, or once it is ``quiet``."""
        case = self._cases.get(path)
        if case is None:
            database = Database(path)
            case = self._cases[path] = Case(database, Status(database))
        self._schedule(case, self.config.watch.settle if quiet else 0.0)

    def _schedule(self, case: Case, settle: float) -> None:
        if case.checking or case.initializing:
            case.dirty = True
            return
        now = anyio.current_time()
        if has_request(case.database) and not case.requested:
            self._put(case, now)
            return
        case.first_hint = case.first_hint or now
        # A database that is never quiet is looked at all the same.
        longest = case.first_hint + max(5 * settle, self.config.watch.min_interval)
        self._put(case, max(min(now + settle, longest), case.checked_at + self.config.watch.min_interval))

    def _put(self, case: Case, due: float) -> None:
        self._agenda.put(case, due)
        self._agenda_changed.set()

    async def follow_project(self) -> None:
        """Look at every database again if the dbt project has changed."""
        sample = next(iter(self._cases.values()), None)
        if sample is None:
            return
        try:
            plan = await self._tools.planner.plan_for(sample.database, fresh=True)
        except InitializationError:
            self._fingerprint = None  # what follows is a mend, even if it only takes back what was done
            return
        if plan.fingerprint != self._fingerprint:
            self._fingerprint = plan.fingerprint
            event_log("project_seen", "the dbt project is new or has changed: looking at every database", "DEBUG")
            for case in self._cases.values():
                case.refused = None
                self._schedule(case, 0)

    async def check_what_is_due(self) -> None:
        """Start the checks that are due, a few at a time."""
        slots = anyio.Semaphore(CHECKS_AT_ONCE)
        async with anyio.create_task_group() as checks:
            while True:
                await slots.acquire()
                case = await self._next_due()
                if case.initializing:
                    case.dirty = True
                    slots.release()
                    continue
                case.checking = True
                checks.start_soon(self._check_safely, case, slots)

    async def _next_due(self) -> Case:
        while True:
            case = self._agenda.pop(anyio.current_time())
            if case is not None:
                return case
            self._agenda_changed = anyio.Event()
            due = self._agenda.next_due()
            with anyio.move_on_after(float("inf") if due is None else due - anyio.current_time()):
                await self._agenda_changed.wait()

    async def _check_safely(self, case: Case, slots: anyio.Semaphore) -> None:
        """The boundary of one check: whatever goes wrong in it is this database's trouble alone."""
        try:
            async with case.turn:
                await self._check(case)
        except InitializationError as error:
            self._refuse(case, error)
        except Exception as error:  # noqa: BLE001 - one bad workspace never stops the daemon
            event_log("check_error", f"unexpected: {error!r}", "ERROR", database=str(case.database), exception=error)
        finally:
            case.checking = False
            case.checked_at = anyio.current_time()
            case.first_hint = None
            slots.release()
        if case.dirty:
            case.dirty = False
            self._schedule(case, self.config.watch.settle)

    async def _check(self, case: Case) -> None:
        database = case.database
        there, request_id = take_request(database)
        if there and (not case.requested or case.status.record["answers"] != request_id):
            case.requested, case.attempt, case.not_before, case.refused = True, 0, float("-inf"), None
            case.status = Status(database, answers=request_id)
            self._reader.forgive(database.path)
            event_log("request", "a simulator asks for it", "DEBUG", database=str(database))
            case.status.begin("check_tables")
            if not os.path.lexists(database.marker):  # else the record of how it became ready stays
                case.status.show(state=InitializationState.NOT_STARTED.value)
        if not case.cleaned:
            self._clean(case)
        if case.not_before > anyio.current_time():
            self._put(case, case.not_before)
            return
        if not os.path.lexists(database.path) and not case.requested:
            remove_marker(database)
            self._cases.pop(database.path, None)
            return
        try:
            plan, settings = await self._tools.planner.plan_and_settings(database, fresh=there)
        except InitializationError:
            if not case.requested and valid_marker(database.path) is not None:
                return  # what is ready stays so while somebody mends the project
            raise
        identity = file_identity(database.path)
        if not case.requested and is_fresh(database, plan):
            self._now_ready(case, identity)
            return
        self._act(case, await look(self._tools, database, plan, settings))

    def _act(self, case: Case, found: Inspection) -> None:
        database, check = case.database, found.check
        if not check.complete:
            case.ready_identity = None
            if remove_marker(database):
                event_log("marker_removed", "no longer ready", database=str(database))
        wanted = decision.decide(check, requested=case.requested, heal=self.config.watch.heal)
        if wanted is Decision.LOOK_AGAIN or wanted is Decision.WAIT:
            self._busy(case, found.reading.holder)
        elif wanted is Decision.ADOPT:
            self._adopt(case, found)
        elif wanted is Decision.FORGET:
            self._cases.pop(database.path, None)
        elif wanted is Decision.FAIL:
            assert check.error is not None
            raise check.error
        elif wanted is Decision.LEAVE and case.requested:
            raise InitializationError(
                "tables are missing, and this daemon only observes (watch.heal)",
                code="config_invalid",
                hint="Run `selfheald ensure`, or set watch.heal to found.",
                path=database,
            )
        elif wanted is Decision.INITIALIZE and (case.requested or case.refused != _refusal(found)):
            self._enqueue(case)

    def _adopt(self, case: Case, found: Inspection) -> None:
        status = read_status(case.database)
        if status is not None and status.get("state") != InitializationState.COMPLETED.value:
            # A status that says otherwise is put right. The marker comes last: whoever sees it finds the status true.
            case.status.end("check_tables")
            case.status.show(
                state=InitializationState.COMPLETED.value,
                reason=None,
                queue_position=None,
                holder=None,
                error=None,
                next_attempt_at=None,
                completed_at=iso_time(time.time()),
            )
        if not adopt(case.database, found, answers=case.status.record["answers"]):
            self._put(case, anyio.current_time() + BUSY_SECONDS[0])
            return
        event_log("adopted", "ready: all tables are there", database=str(case.database))
        self._now_ready(case, found.reading.identity)

    def _busy(self, case: Case, holder: Holder | None) -> None:
        """Somebody is at work on it: look again soon; say so once in the log, and in the status if one waits."""
        if not case.busy_logged:
            case.busy_logged = True
            who = "somebody is writing to it" if holder is None else f"PID {holder.pid} ({holder.command}) holds it"
            event_log("busy", f"busy: {who}", database=str(case.database))
        if case.requested or not os.path.lexists(case.database.marker):
            case.status.show(
                state=InitializationState.NOT_STARTED.value,
                reason="busy",
                queue_position=None,
                holder=None if holder is None else holder.as_dict(),
            )
        self._put(case, anyio.current_time() + case.busy_pause)
        case.busy_pause = min(case.busy_pause * 2, BUSY_SECONDS[1])

    def _no_longer_busy(self, case: Case) -> None:
        case.busy_pause = BUSY_SECONDS[0]
        if case.busy_logged:
            case.busy_logged = False
            event_log("no_longer_busy", "no longer busy", database=str(case.database))

    def _now_ready(self, case: Case, identity: dict[str, Any] | None) -> None:
        self._no_longer_busy(case)
        finish_request(case.database)
        case.status = Status(case.database)
        case.ready_identity = identity
        case.requested, case.attempt, case.refused = False, 0, None
        case.not_before = float("-inf")

    def _refuse(self, case: Case, error: InitializationError) -> None:
        """A check ended in an error: tell once, and answer whoever asked."""
        key = (error.code, error.message, *_identity_key(file_identity(case.database.path)))
        if case.refused == key and not case.requested:
            return
        case.refused = key
        case.attempt += 1
        pause = self._retry.pause(error.code, case.attempt, random.random())
        error.step = error.step or "check_tables"
        error.path = error.path or str(case.database)
        case.status.end(error.step, error.message)
        event_log(
            "check_failed",
            error.message,
            "ERROR",
            database=str(case.database),
            error_code=error.code,
        )
        try:
            case.status.show(
                state=InitializationState.FAILED.value,
                reason="needs_person" if pause is None else "backoff",
                queue_position=None,
                holder=None,
                attempt=case.attempt,
                next_attempt_at=None if pause is None else iso_time(time.time() + pause),
                error=error.as_dict(),
                completed_at=iso_time(time.time()),
            )
        except InitializationError as unwritten:
            event_log("status_not_written", unwritten.message, "ERROR", database=str(case.database))
        if pause is None:
            self._close_request(case)
        else:
            self._try_again(case, pause)

    def _try_again(self, case: Case, pause: float) -> None:
        """Look again in ``pause`` seconds; whoever asked is not answered yet."""
        case.refused = None
        case.status = Status(case.database, answers=case.status.record["answers"])
        case.not_before = anyio.current_time() + pause
        self._put(case, case.not_before)

    def _close_request(self, case: Case) -> None:
        """The verdict is on disk."""
        finish_request(case.database)
        case.requested, case.attempt = False, 0
        case.status = Status(case.database)

    def _clean(self, case: Case) -> None:
        """Once after the start: remove what a killed initialization left, if nobody is at work there now."""
        case.cleaned = True
        if has_leftovers(case.database):
            lock = DatabaseLock(case.database.lock)
            if lock.acquire():
                try:
                    for leftover in clean_leftovers(case.database):
                        event_log("leftover_removed", f"removed {leftover.name}", database=str(case.database))
                finally:
                    lock.release()

    def _enqueue(self, case: Case) -> None:
        self._no_longer_busy(case)
        if case.initializing:
            case.dirty = True
        elif self._backlog.add(case, requested=case.requested):
            position = self._backlog.position(case)
            event_log("queued", f"queued: {position} before it", "DEBUG", database=str(case.database))
            case.status.show(
                state=InitializationState.NOT_STARTED.value,
                reason="queued",
                queue_position=position,
                holder=None,
            )
            self._backlog_changed.set()

    async def heal(self) -> None:
        """Initialize what is queued, one at a time, until the daemon stops."""
        while not self._stopping:
            case = self._backlog.pop()
            if case is None:
                self._backlog_changed = anyio.Event()
                await self._backlog_changed.wait()
                continue
            self._show_positions()
            case.initializing = True
            try:
                async with case.turn:  # a check of it that is under way ends first
                    await self._initialize(case)
            except Exception as error:  # noqa: BLE001 - one bad workspace never stops the daemon
                event_log(
                    "initialization_error",
                    f"unexpected: {error!r}",
                    "ERROR",
                    database=str(case.database),
                    exception=error,
                )
                self._put(case, anyio.current_time() + self._retry.base)
            finally:
                case.initializing = False
            if case.dirty:
                case.dirty = False
                self._schedule(case, self.config.watch.settle)

    def _show_positions(self) -> None:
        """Tell those who wait how many are before them."""
        for position, case in enumerate(self._backlog):
            if not case.requested:
                break
            with suppress(InitializationError):  # its folder may be gone by now: its own turn will tell
                case.status.show(queue_position=position)

    async def _initialize(self, case: Case) -> None:
        database = case.database
        case.attempt += 1
        pause: float | None = None

        def retry(error: InitializationError) -> float | None:
            nonlocal pause
            pause = self._retry.pause(error.code, case.attempt, random.random())
            return pause

        try:
            result = await initialize(
                self._tools,
                database,
                case.status,
                trigger="retry" if case.attempt > 1 else "request" if case.requested else "event",
                attempt=case.attempt,
                retry=retry,
            )
        except (BusyError, ConcurrentInitializationError, StartOverError) as obstacle:
            case.attempt -= 1
            case.status = Status(database, answers=case.status.record["answers"])
            if isinstance(obstacle, BusyError):
                self._busy(case, obstacle.holder)
            else:
                self._put(case, anyio.current_time() + BUSY_SECONDS[0])
            return
        if result.success:
            self._now_ready(case, _marked_identity(database))
        elif pause is not None:
            self._try_again(case, pause)
        else:
            with suppress(InitializationError):  # without a plan there is nothing that could be refused again
                case.refused = _refusal(await inspect(self._tools, database))
            self._close_request(case)


def _refusal(found: Inspection) -> tuple[Any, ...]:
    """What must change before a refused database is tried again by itself."""
    return (found.plan.fingerprint, *_identity_key(found.reading.identity))


def _identity_key(identity: dict[str, Any] | None) -> tuple[Any, ...]:
    return () if identity is None else (identity["inode"], identity["size"], identity["mtime_ns"])


def _marked_identity(database: Database) -> dict[str, Any] | None:
    """The identity that the marker certifies; ``None`` if the file is another by now, so that a scan looks again."""
    identity = file_identity(database.path)
    return identity if valid_marker(database.path) is not None else None


def _announce(message: str) -> None:
    event_log("plan", message, "WARNING" if message.startswith("warning:") else "INFO")
