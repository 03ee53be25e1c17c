"""What a daemon counts, and how it stands: plain numbers, which cost next to nothing until somebody asks for them."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from selfheald.initialization_state import STEPS, InitializationResult
from selfheald.standing import Standing

#: Seconds that checks and steps are sorted by.
CHECK_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
WORK_BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
#: How a check can end: where the database then stands, or that it is gone, or in a fault of our own.
CHECKED = (*(each.value for each in Standing), "gone", "error")
#: How an initialization can end, and where the tables came from then. ``none``: it made none.
INITIALIZED = (
    ("completed", "adopted"), ("completed", "dbt"), ("completed", "template"),
    ("failed", "none"), ("postponed", "none"),
)  # fmt: skip
ORIGINS = ("adopted", "dbt", "template", "none")
#: How a scan that makes up for lost events can end.
RESCANNED = ("nothing_missed", "events_missed", "failed")
RELOADED = ("followed", "refused")
JOBS = ("plan", "build", "publish")

TemplateEvent = Literal["hit", "miss", "built", "evicted", "damaged"]


class Spread:
    """How many durations were at most as long as each of the bounds (seconds)."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, seconds: float) -> None:
        """Count one. A clock that was set back makes no negative duration."""
        seconds = max(0.0, seconds)
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.sum += seconds

    @property
    def count(self) -> int:
        return sum(self.counts)


class Figures:
    """All that is counted, from the daemon's start. No name of a database is kept, and nothing grows."""

    def __init__(self) -> None:
        self.checks: Counter[str] = Counter()
        self.check_seconds = Spread(CHECK_BOUNDS)
        self.initializations: Counter[tuple[str, str]] = Counter()
        self.initialization_seconds = {origin: Spread(WORK_BOUNDS) for origin in ORIGINS}
        self.step_seconds = {step: Spread(WORK_BOUNDS) for step in STEPS}
        #: By what was being done, and the error's code.
        self.failures: Counter[tuple[str, str]] = Counter()
        self.retries = 0
        self.scans = 0
        #: When the last scan of all roots ended (seconds since the epoch), and what it took.
        self.scan_ended_at = self.scan_seconds = 0.0
        self.rescans: Counter[str] = Counter()
        self.databases_missed = 0
        self.watches_ended = 0
        self.reloads: Counter[str] = Counter()
        #: By the kind of job, and whether the child was forked from the warm host.
        self.children: Counter[tuple[str, bool]] = Counter()
        self.hosts_started = self.hosts_troubled = 0
        self.templates: Counter[TemplateEvent] = Counter()

    def checked(self, outcome: str, seconds: float) -> None:
        """A check has ended: one of :data:`CHECKED`."""
        self.checks[outcome] += 1
        self.check_seconds.add(seconds)

    def check_failed(self, code: str) -> None:
        """A check ended in an error that was told."""
        self.failures["check", code] += 1

    def adopted(self) -> None:
        """A check found a database complete that was not known to be ready."""
        self.initializations["completed", "adopted"] += 1

    def initialized(self, result: InitializationResult, *, origin: str, attempt: int) -> None:
        """An initialization has ended; ``origin`` is its marker's, where it has one."""
        outcome = "completed" if result.success else "failed"
        origin = (origin if origin in ORIGINS else "dbt") if result.success else "none"
        self.initializations[outcome, origin] += 1
        self.initialization_seconds[origin].add(result.duration_seconds)
        for step in result.steps:
            if step.duration_seconds is not None and step.name in self.step_seconds:
                self.step_seconds[step.name].add(step.duration_seconds)
        self.retries += attempt > 1
        if result.error is not None:
            self.failures["initialization", result.error.code] += 1

    def postponed(self) -> None:
        """An initialization changed nothing, since somebody else was at work on the database."""
        self.initializations["postponed", "none"] += 1

    def scanned(self, seconds: float) -> None:
        """A scan of all roots has ended just now."""
        self.scans += 1
        self.scan_ended_at, self.scan_seconds = time.time(), seconds

    def rescanned(self, outcome: str, missed: int = 0) -> None:
        """A scan made up for lost events: for those of ``missed`` databases. One of :data:`RESCANNED`."""
        self.rescans[outcome] += 1
        self.databases_missed += missed

    def template(self, event: TemplateEvent) -> None:
        """Something happened in the store of templates."""
        self.templates[event] += 1


@dataclass(frozen=True, slots=True)
class Snapshot:
    """How a daemon stands at one moment.

    ``running`` is for how many seconds the initialization that is under way has been so, or ``None``; ``oldest`` for
    how many the first in the queue has waited; ``overdue`` for how many a check has been due while none went on.
    """

    state: str
    watcher: str
    version: str = ""
    roots: tuple[str, ...] = ()
    standings: Mapping[Standing, int] = field(default_factory=dict)
    queue: int = 0
    oldest: float = 0.0
    running: float | None = None
    overdue: float = 0.0
    reload_refused: bool = False

    def unready(self) -> str | None:
        """Why nobody should count on this daemon now; ``None`` where one can."""
        if self.state != "ready":
            return f"the daemon is {self.state}"
        if self.watcher == "degraded":
            return "the watch is degraded: part of the roots is gone, or without events"
        return None


def longest_wait(since: Iterable[float], now: float) -> float:
    """Seconds for which the one has waited that came first; 0 where nobody waits."""
    return max(0.0, now - min(since, default=now))
