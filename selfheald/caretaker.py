"""Looks after each database: checks it when it is due, queues it, lets it be initialized, answers who waits for it."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from sys import intern
from typing import Any

import anyio
import anyio.lowlevel

from selfheald import decision
from selfheald.agenda import Agenda
from selfheald.backlog import Backlog
from selfheald.case import BUSY_SECONDS, Case, identity_key, refusal
from selfheald.catalog import CheckResult
from selfheald.client import file_identity, valid_marker
from selfheald.config import Config
from selfheald.crash_guard import CrashGuard
from selfheald.dbt_host import Starter
from selfheald.decision import Decision
from selfheald.errors import ConcurrentInitializationError, InitializationError, from_os_error, is_shortage
from selfheald.figures import Figures, longest_wait
from selfheald.guarded_reader import GuardedReader
from selfheald.initialization import BusyError, StartOverError, clean_up, initialize
from selfheald.initialization_state import InitializationState, iso_time
from selfheald.inspection import Inspection, Tools, adopt, inspect, is_fresh, look, put_status_right
from selfheald.locks import Holder
from selfheald.log import event_log
from selfheald.marker import (
    finish_request,
    has_request,
    outlived_a_tick,
    remove_marker,
    take_request,
    waiting_request,
)
from selfheald.obstacle import obstacle_of
from selfheald.planner import CHANGING_TRIES, PARSE_SECONDS, Planner
from selfheald.retry import RetryPolicy
from selfheald.sight import Sight, sight
from selfheald.standing import Standing
from selfheald.workspace import Database

#: Checks under way at once.
CHECKS_AT_ONCE = 8
#: So many databases are scheduled before anything else gets its turn.
AT_A_STRETCH = 100
#: Who waits is told of a new place in the queue when it is better by one in so many.
WORTH_TELLING = 20
#: Of the time, telling that takes at most one part in so many: many databases can become ready in a second.
TELLING_SHARE = 20


class Caretaker:
    """Everything that the daemon knows of its databases, and does about them.

    ``start`` starts dbt's children; what becomes of checks and initializations is counted in ``figures``.
    """

    def __init__(
        self,
        config: Config,
        threads: anyio.CapacityLimiter,
        guard: CrashGuard,
        start: Starter,
        figures: Figures | None = None,
    ) -> None:
        self.config = config
        self._figures = figures or Figures()
        self._reader = GuardedReader(guard, threads)
        self._start = start
        self._tools = self._new_tools()
        self._retry = RetryPolicy(config.retry.attempts, config.retry.base, config.retry.max)
        self._cases: dict[Path, Case] = {}
        self._standings: Counter[Standing] = Counter()
        #: Those that are not ours any more, and are being worked on.
        self._leaving: dict[Path, Case] = {}
        self._agenda: Agenda[Case] = Agenda()
        self._agenda_changed = anyio.Event()
        self._backlog: Backlog[Case] = Backlog()
        self._backlog_changed = anyio.Event()
        self._stopping = False
        self._at_work: Case | None = None
        self._work_began = 0.0
        self._moved = anyio.current_time()
        #: Set when a database stands elsewhere, or what is being built has come further. Whoever waits puts a new one.
        self.news = anyio.Event()
        self._changes = 0
        self._samples = 0
        self._tell_at = float("-inf")

    def __len__(self) -> int:
        return len(self._cases)

    def settled(self) -> list[Path]:
        """The databases about which nothing was left to do when they were last looked at."""
        return [path for path, case in list(self._cases.items()) if case.settled is not None]

    def was_settled(self, path: Path) -> bool:
        """True if nothing was left to do about it when it was last looked at."""
        case = self._cases.get(path)
        return case is not None and case.settled is not None

    def is_settled(self, path: Path, seen: Sight) -> bool:
        """True if that holds still, since it is ``seen`` as it was then."""
        case = self._cases.get(path)
        return case is not None and case.settled == seen

    def is_initializing(self) -> bool:
        """True while an initialization is under way."""
        return self._at_work is not None

    def standings(self) -> Counter[Standing]:
        """How many databases stand where."""
        return self._standings.copy()

    def progress(self) -> dict[str, Any] | None:
        """How far the running initialization is, as in its status record."""
        return None if self._at_work is None else self._at_work.status.record["progress"]

    def listed(self) -> list[tuple[Path, Standing]]:
        """All databases, and where each of them stands."""
        return [(path, case.standing) for path, case in self._cases.items()]

    def queue(self, now: float) -> tuple[int, float]:
        """How many databases wait for their turn, and for how many seconds the first of them has."""
        return len(self._backlog), longest_wait((case.queued_at for case in self._backlog), now)

    def running_for(self, now: float) -> float | None:
        """Seconds for which an initialization has been under way; ``None`` if none is."""
        return None if self._at_work is None else now - self._work_began

    def overdue(self, now: float) -> float:
        """Seconds for which a check has been due while none has begun or ended."""
        due = self._agenda.next_due()
        return 0.0 if due is None else max(0.0, now - max(due, self._moved))

    def longest_check(self) -> float:
        """Seconds within which a check ends, be it one that waits while dbt parses the project for others, and then has
        it parsed, and once more since it changed meanwhile."""
        return (2 + CHANGING_TRIES) * max(PARSE_SECONDS, self.config.dbt.timeout)

    def stop(self) -> None:
        """Begin no further initialization; :meth:`heal` returns when the running one has ended."""
        self._stopping = True
        self._backlog_changed.set()

    def hint(self, path: Path, quiet: bool) -> None:
        """Something may have happened to this database: check it at once, or once it is ``quiet``.

        Our own writing comes back as hints too; what looks as it did when we were done with it needs no check.
        """
        case = self._cases.get(path)
        if case is None:
            database = Database(path)
            if not any(map(os.path.lexists, (path, database.marker))) and not has_request(database):
                return  # a late word of one that is gone, and forgotten
            case = self._cases[path] = self._come_back(path) or Case(database)
            self._standings[case.standing] += 1
            self.news.set()
        elif case.settled is not None and self.is_settled(path, sight(path)) and not case.is_asked_anew():
            return
        self._schedule(case, self.config.watch.settle if quiet else 0.0)

    def look_at_unsettled(self) -> None:
        """Look again at those about which something was left to do, as a scan has it done."""
        for case in list(self._cases.values()):
            if case.settled is None:
                self._schedule(case, 0.0)

    def follow(self, config: Config, is_ours: Callable[[Path], bool], *, look_again: bool) -> list[Case]:
        """Go on with another configuration; what is under way ends with the one that it began with.

        Databases that are not ours any more are forgotten. Returns those of them that are being worked on: the work
        is over when their ``turn`` is free. With ``look_again`` whatever was decided about the others is decided anew.
        """
        self.config = config
        self._retry = RetryPolicy(config.retry.attempts, config.retry.base, config.retry.max)
        dropped = [case for path, case in self._cases.items() if not is_ours(path)]
        for case in dropped:
            self._drop(case)
            self._agenda.discard(case)
            self._backlog.discard(case)
        self._tools = replace(self._tools, config=config)  # of this, too, what bears on no verdict
        if look_again:
            self._tools = self._new_tools()
            self._changes = 0
            for case in self._cases.values():
                self._outdate(case)
        self.news.set()
        self._leaving |= {case.database.path: case for case in dropped}
        self._leaving = {path: case for path, case in self._leaving.items() if case.checking or case.initializing}
        return list(self._leaving.values())

    def _come_back(self, path: Path) -> Case | None:
        """The one at this path that was ours before, if it is still being worked on: it is not begun a second time."""
        case = self._leaving.pop(path, None)
        if case is None or not (case.checking or case.initializing):
            return None
        self._outdate(case)
        return case

    def _new_tools(self) -> Tools:
        planner = Planner(self.config, announce=_announce, start=self._start)
        return Tools(self.config, planner, self._reader.read, self._start, figures=self._figures)

    def _is_known(self, case: Case) -> bool:
        return self._cases.get(case.database.path) is case

    def _schedule(self, case: Case, settle: float) -> None:
        if case.checking or case.initializing:
            case.dirty = True
            return
        now = anyio.current_time()
        if case.is_asked_anew():
            self._put(case, now, first=True)
            return
        case.first_hint = case.first_hint or now
        # A database that is never quiet is looked at all the same.
        longest = case.first_hint + max(5 * settle, self.config.watch.min_interval)
        self._put(case, max(min(now + settle, longest), case.checked_at + self.config.watch.min_interval))

    def _stands(self, case: Case, standing: Standing) -> None:
        if case.standing is not standing:
            if self._is_known(case):
                self._standings.subtract([case.standing])
                self._standings[standing] += 1
            case.standing = standing
            self.news.set()

    def _put(self, case: Case, due: float, *, first: bool = False) -> None:
        if self._is_known(case):
            self._agenda.put(case, due, first=first or case.requested)
            self._agenda_changed.set()

    def _look_again(self, case: Case, pause: float) -> None:
        """Check it in ``pause`` seconds, or in ``watch.min_interval`` where nobody waits for it."""
        pause = pause if case.requested else max(pause, self.config.watch.min_interval)
        self._put(case, anyio.current_time() + pause)

    def _drop(self, case: Case) -> None:
        del self._cases[case.database.path]
        self._standings[case.standing] -= 1

    def _forget(self, case: Case) -> None:
        """There is no database, and nobody asks for one.

        It is forgotten at the second look: one that goes and comes all the time is not a new one each time, which
        would be checked without measure.
        """
        self._backlog.discard(case)
        case.settled = None
        if case.gone and self._is_known(case):
            self._drop(case)
            self.news.set()
        else:
            case.gone = True
            self._look_again(case, 0.0)

    async def follow_project(self) -> None:
        """Look again at every database if a dbt project has changed, or at those that got no plan, if they do now.

        While dbt refuses what was changed, nothing is looked at: what is ready stays so. A database without a plan is
        asked for first, one after the other with each call: variables of its own may be why it has none.
        """
        planner = self._tools.planner
        await planner.look_at_projects([case.database for case in self._cases.values()])
        if planner is not self._tools.planner:
            return  # a reload came in between, and has all of them looked at
        planless = [case for case in self._cases.values() if case.planless]
        self._samples += 1
        first, other = self._next_of(planless), self._next_of(list(self._cases.values()))
        if planner.changes != self._changes:
            if await self._gets_plan(first) or await self._gets_plan(other):
                if planner is not self._tools.planner:
                    return
                self._changes = planner.changes
                event_log("project_seen", "the dbt project has changed: looking at every database", "DEBUG")
                await self._look_at(list(self._cases.values()))
        elif first is not None:
            if await self._gets_plan(first):
                await self._look_at(planless)
        elif other is not None and other.fingerprint is not None:
            with suppress(InitializationError):  # its own check will tell
                if other.fingerprint != await planner.fingerprint_for(other.database, fresh=True):
                    await self._look_at([other])  # dbt.vars_command says something else of it

    async def _gets_plan(self, case: Case | None) -> bool:
        if case is None:
            return False
        try:
            await self._tools.planner.plan_for(case.database, fresh=True)
        except InitializationError:
            return False
        return True

    def _next_of(self, cases: Sequence[Case]) -> Case | None:
        return cases[self._samples % len(cases)] if cases else None

    async def _look_at(self, cases: Sequence[Case]) -> None:
        for number, case in enumerate(cases):
            self._outdate(case)
            if number % AT_A_STRETCH == 0:
                await anyio.lowlevel.checkpoint()

    def _outdate(self, case: Case) -> None:
        """Decide anew about it; what is at work on it now goes by what held before."""
        case.refused = case.fingerprint = None
        case.not_before = float("-inf")
        case.outdated = True
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
                self._moved = anyio.current_time()
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
        began, began_at, outcome = time.time(), anyio.current_time(), None
        try:
            async with case.turn:
                began, began_at = time.time(), anyio.current_time()
                await self._check(case)
        except InitializationError as error:
            outcome = self._refuse(case, error)
        except OSError as error:
            outcome = self._refuse(case, from_os_error(error, error.filename or case.database, "use"))
        except Exception as error:  # noqa: BLE001 - one bad workspace never stops the daemon
            outcome = "error"
            event_log("check_error", f"unexpected: {error!r}", "ERROR", database=str(case.database), exception=error)
        finally:
            case.checking = False
            case.checked_at = self._moved = anyio.current_time()
            case.first_hint = None
            case.rest()
            slots.release()
            case.tell_of_check(began)
            outcome = outcome or ("gone" if case.gone else case.standing.value)
            self._figures.checked(outcome, case.checked_at - began_at)
        self._once_more_if_dirty(case)

    def _once_more_if_dirty(self, case: Case) -> None:
        """Something came in while it was checked or initialized: perhaps a change, perhaps our own writing."""
        if case.dirty and self._is_known(case):
            case.dirty = False
            self.hint(case.database.path, quiet=True)

    async def _check(self, case: Case) -> None:
        database = case.database
        seen = sight(database.path)
        case.settled, case.outdated = None, False
        try:
            there, request_id = take_request(database)
        except InitializationError:
            case.begin_anew(waiting_request(database))
            raise
        if there and (not case.requested or case.status.record["answers"] != request_id):
            case.requested, case.attempt, case.not_before, case.refused = True, 0, float("-inf"), None
            case.obstacle = case.owed = None
            case.begin_anew(request_id)
            self._reader.forgive(database.path)
            event_log("request", "a simulator asks for it", "DEBUG", database=str(database))
            case.status.begin("check_tables")
            if not os.path.lexists(database.marker):  # else the record of how it became ready stays
                case.show(state=InitializationState.NOT_STARTED.value)
        if not case.cleaned:  # once after the start, and after a failure
            with suppress(InitializationError, OSError):  # the next check tries again
                case.cleaned = clean_up(database)
        if case.not_before > anyio.current_time():
            self._put(case, case.not_before)
            return
        if not os.path.lexists(database.path) and not case.requested:
            remove_marker(database)
            self._forget(case)
            return
        case.gone = False
        planner = self._tools.planner
        try:
            if not case.requested:
                # What is ready needs no plan, and so no dbt, however many databases have variables of their own.
                fingerprint = await planner.fingerprint_for(database)
                if is_fresh(database, fingerprint):
                    case.fingerprint, case.planless = intern(fingerprint), False
                    self._now_ready(case, seen)
                    return
            plan, settings = await planner.plan_and_settings(database, fresh=there)
            case.fingerprint, case.planless = intern(plan.fingerprint), False
        except InitializationError as error:
            case.planless = not error.retryable  # a shortage of the machine says nothing about the project
            if not case.requested and valid_marker(database.path) is not None:
                case.settle(seen)
                self._stands(case, Standing.READY)
                return  # what is ready stays so while somebody mends the project
            raise
        self._act(case, await look(self._tools, database, plan, settings), seen)

    def _act(self, case: Case, found: Inspection, seen: Sight) -> None:
        database, check = case.database, found.check
        if not check.complete and not is_shortage(check.error) and remove_marker(database):
            event_log("marker_removed", "no longer ready", database=str(database))
        wanted = decision.decide(check, requested=case.requested, heal=self.config.watch.heal)
        if wanted is Decision.LOOK_AGAIN:
            self._busy(case, found.reading.holder)
        elif wanted is Decision.WAIT:
            self._busy(case, found.reading.holder, _lacking(check))
        elif wanted is Decision.ADOPT:
            self._adopt(case, found, seen)
        elif wanted is Decision.FORGET:
            self._forget(case)
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
        else:
            if wanted is Decision.INITIALIZE:
                if case.is_worth_trying(found):
                    self._enqueue(case, _lacking(check))
                else:
                    case.catch_up()
            else:
                self._leave(case)
            identity = found.reading.identity
            if identity is not None and outlived_a_tick(identity, found.reading.read_at):
                case.settle(seen)

    def _leave(self, case: Case) -> None:
        """It lacks tables, and is not to be touched: nor is it, if it was to be before the configuration changed."""
        self._stands(case, Standing.WAITING)
        if self._backlog.discard(case):
            case.show(state=InitializationState.NOT_STARTED.value, reason=None, queue_position=None)

    def _adopt(self, case: Case, found: Inspection, seen: Sight) -> None:
        put_status_right(case.status)
        if not adopt(case.database, found, answers=case.status.record["answers"]):
            self._look_again(case, BUSY_SECONDS[0])
            return
        level = "DEBUG"  # one that is in use changes all the time
        if case.standing is not Standing.READY:
            level = "INFO"
            self._figures.adopted()
        event_log("adopted", "ready: all tables are there", level, database=str(case.database))
        self._now_ready(case, seen)

    def _busy(self, case: Case, holder: Holder | None, missing: Sequence[str] = ()) -> None:
        """Somebody is at work on it: look again soon; say so once in the log, and in the status if one waits."""
        if not case.busy_logged:
            case.busy_logged = True
            who = "somebody is writing to it" if holder is None else f"PID {holder.pid} ({holder.command}) holds it"
            event_log("busy", f"busy: {who}", database=str(case.database))
        if case.requested or not os.path.lexists(case.database.marker):
            self._stands(case, Standing.BUSY)
            case.show(
                state=InitializationState.NOT_STARTED.value,
                reason="busy",
                queue_position=None,
                holder=None if holder is None else holder.as_dict(),
                missing_tables_found=list(missing) or case.status.record["missing_tables_found"],
            )
        self._look_again(case, case.busy_pause)
        case.busy_pause = min(case.busy_pause * 2, BUSY_SECONDS[1])

    def _no_longer_busy(self, case: Case) -> None:
        case.busy_pause = BUSY_SECONDS[0]
        if case.busy_logged:
            case.busy_logged = False
            event_log("no_longer_busy", "no longer busy", database=str(case.database))

    def _now_ready(self, case: Case, seen: Sight | None) -> None:
        self._no_longer_busy(case)
        self._stands(case, Standing.READY)
        self._backlog.discard(case)
        finish_request(case.database)
        case.begin_anew()
        case.requested, case.attempt, case.refused, case.obstacle, case.owed = False, 0, None, None, None
        if os.path.lexists(case.database.marker):
            case.settle(seen)
        case.not_before = float("-inf")

    def _refuse(self, case: Case, error: InitializationError) -> str:
        """A check ended in an error: tell once, and answer whoever asked."""
        outcome = Standing.FAILED.value
        key = (error.code, error.message, *identity_key(file_identity(case.database.path)))
        if case.refused == key and not case.requested:
            case.catch_up()
            return outcome
        case.refused = key
        self._stands(case, Standing.FAILED)
        self._figures.check_failed(error.code)
        case.attempt += 1
        pause = self._retry.pause(error.code, case.attempt, random.random())
        error.step = error.step or "check_tables"
        error.path = error.path or str(case.database)
        case.status.end(error.step, error.message)
        event_log(
            "check_failed",
            error.sentence,
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
            case.tell_unwritten(unwritten)
        if pause is None:
            self._give_up(case, error)
        else:
            self._try_again(case, pause)
        return outcome

    def _try_again(self, case: Case, pause: float) -> None:
        """Look again in ``pause`` seconds; whoever asked is not answered yet."""
        case.refused = None
        case.begin_anew(case.status.record["answers"])
        case.not_before = anyio.current_time() + pause
        self._put(case, case.not_before)

    def _give_up(self, case: Case, error: InitializationError) -> None:
        """No further attempt is planned; what of the machine was in the way is looked at now and then.

        Whoever asked is answered by a verdict on disk; while it cannot be written the request stays.
        """
        case.owed = case.status if case.status.unwritten else None
        case.obstacle = obstacle_of(error, (case.database.folder, case.database.private, case.database.path))
        case.cleaned, case.settled = False, None
        answers = None
        if case.owed is None or not case.requested:
            finish_request(case.database)
            case.requested = False
        else:
            answers = case.status.record["answers"]
        # What failed for want of something is tried but once when that seems to be there.
        case.attempt = 0 if case.obstacle is None else self._retry.attempts - 1
        case.begin_anew(answers)

    def _enqueue(self, case: Case, missing: Sequence[str]) -> None:
        self._no_longer_busy(case)
        self._stands(case, Standing.BUILDING if case.initializing else Standing.WAITING)
        if case.initializing:
            case.dirty = True
            return
        if not self._is_known(case):
            return
        if case not in self._backlog:
            case.queued_at = anyio.current_time()
        added = self._backlog.add(case, requested=case.requested)
        if added or case.requested:
            position = self._backlog.position(case)
            case.show(
                state=InitializationState.NOT_STARTED.value,
                reason="queued",
                queue_position=position,
                holder=None,
                missing_tables_found=list(missing),
            )
        if added:
            event_log("queued", f"queued: {position} before it", "DEBUG", database=str(case.database))
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
            case.initializing, self._at_work, self._work_began = True, case, anyio.current_time()
            self._stands(case, Standing.BUILDING)
            case.settled = None
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
                case.initializing, self._at_work = False, None
                if case.standing is Standing.BUILDING:
                    self._stands(case, Standing.WAITING)
            self._once_more_if_dirty(case)

    def _show_positions(self) -> None:
        """Tell those who wait how many are before them: those far back now and then, or it would take longer than
        what they wait for."""
        began = anyio.current_time()
        if began < self._tell_at:
            return
        for position, case in enumerate(self._backlog):
            if not case.requested:
                break
            told = case.status.record["queue_position"]
            if told is None or told - position > told // WORTH_TELLING:
                case.show(queue_position=position)  # its folder may be gone by now: its own turn will tell
        now = anyio.current_time()
        self._tell_at = now + TELLING_SHARE * (now - began)

    async def _initialize(self, case: Case) -> None:
        database = case.database
        case.attempt += 1
        case.status.on_write = self._wrote
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
            self._figures.postponed()
            case.begin_anew(case.status.record["answers"])
            if isinstance(obstacle, BusyError):
                self._busy(case, obstacle.holder)
            else:
                self._look_again(case, BUSY_SECONDS[0])
            return
        attempt = case.attempt
        if result.success:
            seen, marker = sight(database.path), valid_marker(database.path)
            # The marker may tell of another file by now: then a scan looks again.
            self._now_ready(case, seen if marker is not None else None)
            origin = "adopted" if result.outcome == "adopted" else str((marker or {}).get("origin"))
            self._figures.initialized(result, origin=origin, attempt=attempt)
            return
        self._figures.initialized(result, origin="none", attempt=attempt)
        self._stands(case, Standing.FAILED)
        if pause is not None:
            self._try_again(case, pause)
        else:
            assert result.error is not None
            with suppress(InitializationError):  # without a plan there is nothing that could be refused again
                case.refused = refusal(await inspect(self._tools, database))
            self._give_up(case, result.error)

    def _wrote(self, _record: dict[str, Any]) -> None:
        self.news.set()


def _lacking(check: CheckResult) -> list[str]:
    """The names of the tables that an initialization has to make."""
    return [table.qualified for table in check.to_make]


def _announce(message: str) -> None:
    event_log("plan", message, "WARNING" if message.startswith("warning:") else "INFO")
