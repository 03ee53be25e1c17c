"""The words of an initialization: tiers, required tables, steps, states and the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from selfheald.errors import InitializationError


class TableTier(StrEnum):
    """Which of the two groups a required table belongs to; seeds come first."""

    SEED = "seed"
    FOUNDATION = "foundation"


@dataclass(frozen=True, slots=True)
class RequiredTable:
    """A table that a simulation needs before it starts.

    ``name`` is the identifier in the database; ``dbt_selector`` what makes dbt build exactly this one;
    ``schema`` its schema; ``columns`` the ``(name, type)`` pairs it must have, where the type is ``None``
    unless an enforced contract (or a seed's ``column_types``) declares it; ``unique_id`` dbt's name of its node.
    """

    name: str
    tier: TableTier
    dbt_selector: str = ""
    schema: str = "main"
    columns: tuple[tuple[str, str | None], ...] = ()
    unique_id: str = ""

    @property
    def qualified(self) -> str:
        """The name as people know it: without the schema where that is DuckDB's default."""
        return self.name if self.schema == "main" else f"{self.schema}.{self.name}"


class InitializationState(StrEnum):
    """Where a database stands, as its status file tells."""

    NOT_STARTED = "not_started"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"


class StepStatus(StrEnum):
    """Where a step stands."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"


#: The steps of an initialization in their order, with what a user reads.
STEPS: dict[str, str] = {
    "check_tables": "Checking tables",
    "load_seeds": "Loading seed data",
    "build_foundation": "Building foundation models",
    "verify": "Verifying",
    "publish": "Publishing",
}


def iso_time(seconds: float) -> str:
    """Seconds since the epoch as UTC, ISO 8601, milliseconds: ``2026-11-23T16:00:00.000Z``."""
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def seconds_of(moment: object) -> float | None:
    """A moment in ISO 8601, as seconds after the epoch; ``None`` if it is none."""
    try:
        return datetime.fromisoformat(str(moment)).timestamp()
    except (ValueError, OverflowError, OSError):
        return None


@dataclass(slots=True)
class InitializationStep:
    """One step and what became of it. Times are seconds since the epoch; the duration is monotonic seconds."""

    name: str
    status: StepStatus = StepStatus.PENDING
    started_at: float | None = None
    completed_at: float | None = None
    duration_seconds: float | None = None
    error_message: str | None = None

    @property
    def display_name(self) -> str:
        """The step's name for people."""
        return STEPS[self.name]

    @property
    def success(self) -> bool:
        """True once the step has completed."""
        return self.status is StepStatus.COMPLETED

    def as_dict(self) -> dict[str, Any]:
        """The step as status files and ``--json`` show it."""
        return {
            "name": self.name,
            "display_name": self.display_name,
            "status": self.status.value,
            "started_at": None if self.started_at is None else iso_time(self.started_at),
            "completed_at": None if self.completed_at is None else iso_time(self.completed_at),
            "duration_seconds": None if self.duration_seconds is None else round(self.duration_seconds, 4),
            "success": self.success,
            "error_message": self.error_message,
        }


def new_steps() -> list[InitializationStep]:
    """All steps, none begun."""
    return [InitializationStep(name) for name in STEPS]


@dataclass(slots=True)
class InitializationResult:
    """What ``ensure_initialized`` found and made.

    ``outcome`` is ``nothing_to_do`` (the marker was valid already), ``adopted`` (all tables were there, the marker
    is new), ``initialized`` or ``failed``. ``tables_created`` is observed in the live database.
    """

    database: str
    outcome: str
    state: InitializationState
    steps: Sequence[InitializationStep] = field(default_factory=new_steps)
    missing_tables_found: Sequence[str] = ()
    tables_created: Sequence[str] = ()
    error: InitializationError | None = None
    attempt_id: str | None = None
    started_at: float = 0.0
    completed_at: float = 0.0
    duration_seconds: float = 0.0

    @property
    def success(self) -> bool:
        """True if the database is ready."""
        return self.state is InitializationState.COMPLETED

    def as_dict(self) -> dict[str, Any]:
        """The document that ``ensure --json`` prints and the history keeps."""
        return {
            "format": 1,
            "database": self.database,
            "outcome": self.outcome,
            "attempt_id": self.attempt_id,
            "state": self.state.value,
            "steps": [step.as_dict() for step in self.steps],
            "missing_tables_found": list(self.missing_tables_found),
            "tables_created": list(self.tables_created),
            "started_at": iso_time(self.started_at),
            "completed_at": iso_time(self.completed_at),
            "error": None if self.error is None else self.error.as_dict(),
        }
