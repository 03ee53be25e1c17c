"""What the daemon remembers of one database."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import anyio

from selfheald.errors import InitializationError
from selfheald.initialization_state import iso_time
from selfheald.inspection import Inspection
from selfheald.locks import held
from selfheald.log import event_log
from selfheald.marker import Status, finish_request, has_request
from selfheald.obstacle import Obstacle
from selfheald.sight import Sight, same_database, sight
from selfheald.standing import Standing
from selfheald.workspace import Database

#: Seconds between two looks at a database that somebody holds: doubled from the first to the second. Where nobody
#: waits for it, there are at least ``watch.min_interval`` between them.
BUSY_SECONDS = (0.25, 2.0)


@dataclass(slots=True, eq=False)
class Case:
    """One database in the daemon. Times are of the event loop's clock.

    ``turn`` is held by a check or an initialization of it, so that neither answers for the other. ``settled`` is how
    it looked when nothing was left to do about it but to wait: for a change, a request, or its turn in the queue.
    ``refused`` is what was there when it was given up, ``obstacle`` what of the machine was in the way then; ``owed``
    is a verdict that could not be written. ``fingerprint`` is its plan's at the last check; ``planless`` says that none
    could be had then, and ``outdated`` that the project has changed since. ``queued_at`` counts while it
    is in the queue.

    There is one of these for each database, and most are ready: what only work on it needs is made when asked for.
    """

    database: Database
    standing: Standing = Standing.WAITING
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
    settled: Sight | None = None
    gone: bool = False
    refused: tuple[Any, ...] | None = None
    obstacle: Obstacle | None = None
    owed: Status | None = None
    cleaned: bool = False
    fingerprint: str | None = None
    planless: bool = False
    outdated: bool = False
    queued_at: float = 0.0
    _status: Status | None = None
    _turn: anyio.Lock | None = None

    @property
    def status(self) -> Status:
        """What is said of it, and was since that began."""
        if self._status is None:
            self._status = Status(self.database)
        return self._status

    @property
    def turn(self) -> anyio.Lock:
        if self._turn is None:
            self._turn = anyio.Lock()
        return self._turn

    def begin_anew(self, answers: str | None = None) -> None:
        """What comes from now on has a status of its own, which answers this request."""
        self._status = None if answers is None else Status(self.database, answers=answers)

    def rest(self) -> None:
        """Keep nothing that only work on it needs, unless somebody is at it."""
        if self._turn is not None and not self._turn.locked():
            self._turn = None

    def settle(self, seen: Sight | None) -> None:
        """Nothing is left to do about the database as it was ``seen`` before it was looked at."""
        now = sight(self.database.path)
        is_done = self.obstacle is None and self.owed is None and not self.outdated
        self.settled = now if is_done and seen is not None and same_database(seen, now) else None

    def is_asked_anew(self) -> bool:
        """True if a request waits that is not being worked on: also a second one, beside the one that is."""
        return has_request(self.database, taken=not self.requested)

    def is_worth_trying(self, found: Inspection) -> bool:
        """True if something is another than when it was given up, or somebody asks who has had no verdict yet."""
        if self.obstacle is not None and self.obstacle.is_over():
            return True
        return self.refused != refusal(found) or (self.requested and self.owed is None)

    def show(self, **changes: Any) -> None:
        """Show how it goes, where that can be written: the work itself does not depend on it."""
        try:
            self.status.show(**changes)
        except InitializationError as error:
            self.tell_unwritten(error, "DEBUG")

    def catch_up(self) -> None:
        """Write down the verdict that could not be written, unless somebody is at work there."""
        if self.owed is not None and not held(self.database.lock):
            with suppress(InitializationError):
                self.owed.write()
                finish_request(self.database)
                self.requested, self.owed = False, None
                self.begin_anew()

    def tell_unwritten(self, error: InitializationError, level: str = "ERROR") -> None:
        """Log that a status could not be written."""
        event_log("status_not_written", error.message, level, database=str(self.database), error_code=error.code)

    def tell_of_check(self, began: float) -> None:
        """Log that a check has ended, which ``began`` so many seconds after the epoch."""
        event_log(
            "checked",
            "checked: nothing is left to do" if self.settled is not None else "checked",
            "DEBUG",
            database=str(self.database),
            started_at=iso_time(began),
            duration_seconds=time.time() - began,
        )


def refusal(found: Inspection) -> tuple[Any, ...]:
    """What must change before a refused database is tried again by itself."""
    return (found.plan.fingerprint, *identity_key(found.reading.identity))


def identity_key(identity: dict[str, Any] | None) -> tuple[Any, ...]:
    """What of a file's identity changes with its content."""
    return () if identity is None else (identity["inode"], identity["size"], identity["mtime_ns"])
