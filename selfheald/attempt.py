"""The record of one initialization: its steps and outcome, told to the status file, the log and the history."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from selfheald.errors import InitializationError
from selfheald.initialization_state import STEPS, InitializationResult, InitializationState, iso_time
from selfheald.log import event_log
from selfheald.marker import Status, append_history, new_attempt_id
from selfheald.node_times import NodeTimes
from selfheald.workspace import Database

#: Seconds after which even what is done in a moment is shown.
SHOW_SECONDS = 0.5

#: Seconds until the next attempt after an error, or ``None`` if there is to be none.
RetryRule = Callable[[InitializationError], float | None]


@dataclass(slots=True)
class Attempt:
    """One attempt at a database. Times are seconds since the epoch, ``began`` is monotonic.

    ``missing`` are the names of the tables that were found missing, ``created`` of those that are there since. While it
    is ``hurried`` the status is written only where a step has lasted for a while: writing takes longer than the step.
    """

    database: Database
    status: Status
    trigger: str
    number: int
    retry: RetryRule
    history_keep: int
    attempt_id: str = field(default_factory=lambda: new_attempt_id(time.time()))
    started_at: float = field(default_factory=time.time)
    began: float = field(default_factory=time.monotonic)
    missing: list[str] = field(default_factory=list)
    created: list[str] = field(default_factory=list)
    nodes: NodeTimes = field(default_factory=NodeTimes)
    origin: str | None = None
    hurried: bool = False
    shown_at: float = float("-inf")

    def start(self, missing: list[str], nodes: int, eta_seconds: float) -> None:
        """Tell that ``nodes`` dbt nodes are to be run for the missing tables."""
        self.missing = missing
        self.status.write(
            state=InitializationState.IN_PROGRESS.value,
            reason=None,
            queue_position=None,
            holder=None,
            attempt_id=self.attempt_id,
            attempt=self.number,
            next_attempt_at=None,
            error=None,
            missing_tables_found=missing,
            tables_created=[],
            warnings=[],
            started_at=iso_time(self.started_at),
            completed_at=None,
            progress={"done": 0, "total": nodes, "node": None},
            eta_seconds=eta_seconds,
        )
        self.shown_at = time.monotonic()
        self.log("initialization_start", f"making what is missing: {', '.join(missing)}")

    def on_event(self, event: dict[str, Any]) -> None:
        """Take in what the child tells."""
        if event["event"] == "step":
            if event["state"] == "started" and self.status.running() == event["name"]:
                return  # begun already, with the start of the child
            if event["state"] == "started":
                self.begin(event["name"])
            else:
                self.end(event["name"])
        elif event["event"] == "node":
            self.nodes.take(event, self.status.running(), time.time())
            progress = dict(self.status.record["progress"])
            progress["node"] = event["name"]
            progress["done"] += event["state"] == "finished"
            self._show(progress=progress)
        elif event["event"] == "warning":
            self.log("dbt_warning", str(event["message"]), level="WARNING")
            self._show(warnings=[*self.status.record["warnings"], str(event["message"])])

    def kept(self, name: str, aside: str) -> None:
        """A table was made anew; the old one is ``aside``."""
        message = f"{name} was made anew; the old table is kept as {aside}"
        self.log("table_kept", message, level="WARNING")
        self._show(warnings=[*self.status.record["warnings"], message])

    def begin(self, name: str) -> None:
        """A step begins."""
        step = self.status.begin(name)
        if self.status.record["progress"] is not None:
            self.status.record["progress"] = {**self.status.record["progress"], "node": None}
        if self.status.record["state"] == InitializationState.IN_PROGRESS.value:
            self._show()
        assert step.started_at is not None
        self.log(
            "initialization_step_start",
            f"{step.display_name}…",
            level="DEBUG",
            step_name=name,
            started_at=iso_time(step.started_at),
        )

    def end(self, name: str, error: str | None = None) -> None:
        """A step has ended, with ``error`` if it failed."""
        step = self.status.end(name, error)
        if self.status.record["state"] == InitializationState.IN_PROGRESS.value and error is None:
            self._show()
        self.log(
            "initialization_step_complete",
            f"{step.display_name}: {'failed' if error else 'done'} after {step.duration_seconds or 0:.2f} s",
            level="DEBUG" if error else "INFO",
            step_name=name,
            started_at=None if step.started_at is None else iso_time(step.started_at),
            completed_at=None if step.completed_at is None else iso_time(step.completed_at),
            duration_seconds=step.duration_seconds,
            success=error is None,
        )

    def take_time(self) -> None:
        """What follows may last: show where it stands, and each step from now on."""
        if self.hurried:
            self.hurried = False
            self._show()

    def begin_again(self, name: str) -> None:
        """A step begins once more, and those behind it are still to come."""
        self.status.put_back_to(name)
        self.begin(name)

    def completed(self, outcome: str) -> InitializationResult:
        """The database is ready: ``initialized`` now, or ``adopted`` since all was there."""
        for name in STEPS:
            if outcome == "initialized" and self.status.step(name).started_at is None:
                self.status.end(name)
        result = self._result(outcome, None)
        if outcome == "initialized":
            made = f"{len(self.created)} of {len(self.missing)} missing tables made"
            message = f"ready in {result.duration_seconds:.1f} s: {made}"
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
        self.log(
            "initialization_complete",
            message,
            level="SUCCESS" if outcome == "initialized" else "INFO",
            duration_seconds=result.duration_seconds,
            success=True,
        )
        return result

    def failed(self, error: InitializationError) -> InitializationResult:
        """The attempt has failed. Raises nothing, also where that cannot be written down."""
        running = self.status.running()
        error.step = error.step or running or "check_tables"
        error.missing_tables = error.missing_tables or self.missing
        error.path = error.path or str(self.database)
        if running is not None:
            self.end(running, error.message)
        elif self.status.step(error.step).started_at is None:
            self.status.end(error.step, error.message)
        result = self._result("failed", error)
        pause = self.retry(error)
        self.log(
            "initialization_failed",
            error.sentence,
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
                attempt=self.number,
                next_attempt_at=None if pause is None else iso_time(time.time() + pause),
                missing_tables_found=self.missing,
                tables_created=[],
                error=error.as_dict(),
                eta_seconds=None,
                completed_at=iso_time(result.completed_at),
            )
        except InitializationError as unwritten:
            self.log("status_not_written", unwritten.message, level="ERROR", error_code=unwritten.code)
        self._record(result)
        return result

    def _show(self, **changes: Any) -> None:
        """Show how far it is, where that can be written: the work itself does not depend on it."""
        if self.hurried and time.monotonic() - self.shown_at < SHOW_SECONDS:
            self.status.record.update(changes)
            return
        self.shown_at = time.monotonic()
        try:
            self.status.write(**changes)
        except InitializationError as unwritten:
            self.log("status_not_written", unwritten.message, level="DEBUG", error_code=unwritten.code)

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
        """The history is a memory: a database is no less ready where there is no room for it."""
        entry = {**result.as_dict(), "trigger": self.trigger, "origin": self.origin, "nodes": self.nodes.as_dict()}
        try:
            append_history(self.database, entry, self.history_keep)
        except InitializationError as unwritten:
            self.log("history_not_written", unwritten.message, level="WARNING", error_code=unwritten.code)
        except OSError as unwritten:
            self.log("history_not_written", str(unwritten), level="WARNING")

    def log(self, event: str, message: str, *, level: str = "INFO", **fields: Any) -> None:
        event_log(event, message, level, database=str(self.database), attempt_id=self.attempt_id, **fields)
