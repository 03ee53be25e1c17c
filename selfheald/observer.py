"""Where all databases stand, and what changes about it: looks at their files again and again, at little cost.

Nothing is read but what ``stat`` tells to be another. What is being built is looked at each time; what is not ready,
what is ready, and the folders, each at a pace of its own: looking takes a bounded part of the time, however many there
are.
"""

from __future__ import annotations

import heapq
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from selfheald.initialization_state import seconds_of
from selfheald.overview import Entry, Overview, Places, read_entry
from selfheald.sight import Facts, facts, sight
from selfheald.standing import URGENCY, Standing
from selfheald.workspace import Database

#: A look that took so long is followed by a pause of so many times that.
PAUSES = 20
#: Seconds between two looks, at least: at what is being built; at what is not ready; at what is; at the folders.
BUILDING_SECONDS, WAITING_SECONDS, READY_SECONDS, SCAN_SECONDS = 0.25, 0.5, 1.0, 2.0
#: What is counted as recent (seconds).
RATE_SECONDS = 60.0

#: What ``stat`` tells of a database's files: itself, its WALs, its marker; its status and its request.
Seen = tuple[Facts, ...]


@dataclass(slots=True)
class Pace:
    """When to do something again that takes some time: not before ``least`` seconds. Times are monotonic."""

    least: float
    due: float = float("-inf")

    def is_due(self, now: float) -> bool:
        """True if it is time."""
        return now >= self.due

    def done(self, began: float, ended: float) -> None:
        """It was done."""
        self.due = ended + max(self.least, PAUSES * (ended - began))


@dataclass(slots=True)
class Recently:
    """How often something has happened in the last minute. Times are monotonic."""

    _moments: deque[float] = field(default_factory=deque)

    def add(self, now: float) -> None:
        """It has happened."""
        self._moments.append(now)

    def count(self, now: float) -> int:
        """How often until now."""
        while self._moments and self._moments[0] < now - RATE_SECONDS:
            self._moments.popleft()
        return len(self._moments)


@dataclass(frozen=True, slots=True)
class News:
    """What a look has found: entries that are new or others than before, those that are gone, and whether a daemon
    came, went, or says something else."""

    changed: list[Entry]
    gone: list[Database]
    daemons: bool = False

    def __bool__(self) -> bool:
        return bool(self.changed or self.gone or self.daemons)


class Observer:
    """Looks at the databases of some places. ``clock`` is monotonic, ``since`` in seconds since the epoch."""

    def __init__(self, places: Places, clock: Callable[[], float] = time.monotonic, since: float | None = None) -> None:
        self._places = places
        self._clock = clock
        self._since = time.time() if since is None else since
        self._entries: dict[Database, Entry] = {}
        self._seen: dict[Database, Seen] = {}
        self._standing: dict[Standing, set[Database]] = {standing: set() for standing in Standing}
        self._scan = Pace(SCAN_SECONDS)
        self._paces = {
            standing: Pace(READY_SECONDS if standing is Standing.READY else WAITING_SECONDS) for standing in Standing
        }
        self._paces[Standing.BUILDING].least = BUILDING_SECONDS
        self.daemons: list[dict[str, Any]] = []
        #: Of checks those that had a new verdict written down; of initializations those that ended.
        self.checks, self.initializations = Recently(), Recently()

    def look(self) -> News:
        """What has changed since the last look; at the first one, everything is new."""
        news = News([], [], self._look_at_daemons())
        now = self._clock()
        if self._scan.is_due(now):
            self._look_for(news)
            self._scan.done(now, self._clock())
        for standing, pace in self._paces.items():
            began = self._clock()
            if pace.is_due(began):
                self._look_at(list(self._standing[standing]), news)
                pace.done(began, self._clock())
        return news

    def counts(self) -> Counter[Standing]:
        """How many stand where."""
        return Counter({standing: len(databases) for standing, databases in self._standing.items()})

    def overview(self, entries: Collection[Entry] | None = None) -> Overview:
        """The daemons, with these databases or all."""
        chosen = self._entries.values() if entries is None else entries
        return Overview(self.daemons, sorted(chosen, key=lambda entry: entry.database))

    def first(self, count: int) -> list[Entry]:
        """So many of the databases: what is not ready first."""
        chosen: list[Database] = []
        for standing in URGENCY:
            chosen += heapq.nsmallest(count - len(chosen), self._standing[standing])
        return [self._entries[database] for database in chosen]

    def _look_at_daemons(self) -> bool:
        before, self.daemons = self.daemons, self._places.daemons()
        return before != self.daemons

    def _look_for(self, news: News) -> None:
        """Find out which databases there are."""
        found = set(self._places.databases())
        for database in self._entries.keys() - found:
            self._forget(database)
            news.gone.append(database)
        self._look_at(sorted(found - self._entries.keys()), news)

    def _look_at(self, databases: list[Database], news: News) -> None:
        for database in databases:
            before, seen = self._entries.get(database), _seen(database)
            is_building = before is not None and before.standing is Standing.BUILDING
            if not is_building and before is not None and self._seen[database] == seen:
                continue
            entry = read_entry(database)
            if before is not None:
                self._count(before, self._seen[database], entry, seen)
                self._forget(database)
            elif (seconds_of((entry.status or {}).get("completed_at")) or 0.0) > self._since:
                self._count(Entry(database, "absent", None), seen, entry, seen)
            if not entry.is_there and database not in self._places.files:
                if before is not None:
                    news.gone.append(database)
                continue
            self._entries[database], self._seen[database] = entry, seen
            self._standing[entry.standing].add(database)
            if entry != before:
                news.changed.append(entry)

    def _forget(self, database: Database) -> None:
        self._standing[self._entries.pop(database).standing].discard(database)
        del self._seen[database]

    def _count(self, before: Entry, earlier: Seen, entry: Entry, seen: Seen) -> None:
        now = self._clock()
        if is_verdict(before, entry) or (entry.is_ready and earlier[_MARKER] != seen[_MARKER]):
            self.checks.add(now)
        if has_ended(before.status, entry.status):
            self.initializations.add(now)


def is_verdict(before: Entry, entry: Entry) -> bool:
    """True if a check has since come to another end, as the status tells."""
    was, status = before.status or {}, entry.status or {}
    return any(was.get(key) != status.get(key) for key in ("state", "reason", "completed_at"))


def has_ended(before: Mapping[str, Any] | None, status: Mapping[str, Any] | None) -> bool:
    """True if an initialization has ended since, well or badly."""
    was, now = before or {}, status or {}
    if now.get("state") not in ("completed", "failed") or now.get("attempt_id") is None:
        return False
    return was.get("attempt_id") != now["attempt_id"] or was.get("state") == "in_progress"


def _seen(database: Database) -> Seen:
    return (*sight(database.path), facts(database.status), facts(database.request))


#: Where the marker is in what is seen: before status and request.
_MARKER = -3
