"""A daemon on a machine that fails, and what must hold of it and of its databases whatever the fault is."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from fixtures.figures import scaled
from fixtures.waiting import throughout, wait_for
from processes import NAME, OWN_PROJECT, Daemon, Record, Selfheald, cpu_seconds, rows, status
from projects import NOTES, OWN_TABLES, own_database, staging_left, tables

from selfheald.client import marker_path, request_path, valid_marker

#: Quick enough for a test to see the last attempt fail, and a rescan.
QUICK: dict[str, object] = {
    "DBT__PROJECT_DIR": str(OWN_PROJECT),
    "WATCH__RESCAN": 1,
    "RETRY__BASE": 0.2,
    "RETRY__MAX": 0.4,
    "RETRY__ATTEMPTS": 3,
    "LIMITS__MIN_FREE_BYTES": 0,
}
#: Rounds of each fault.
ROUNDS = scaled(1, 4)
#: Seconds for which a daemon is looked at while a fault lasts, and what it may do in one of them: of processor time,
#: and lines in its log, where it scans each second and tells all.
LOOK_SECONDS, CALM_SECONDS, CALM_LINES = 3.0, 0.5, 15


@dataclass
class Site:
    """A daemon, the folder that it watches, the folder on whose file system that is, and a finished database."""

    daemon: Daemon
    selfheald: Selfheald
    home: Path
    finished: Path

    @property
    def root(self) -> Path:
        return self.daemon.roots[0]

    def incomplete(self, name: str) -> Path:
        """A new workspace, not yet watched, whose database holds nothing that is required."""
        return own_database(self.home / "aside" / name)

    def complete(self, name: str) -> Path:
        """A new workspace, not yet watched, whose database holds all."""
        folder = self.home / "aside" / name
        folder.mkdir(parents=True)
        return Path(shutil.copyfile(self.finished, folder / NAME))

    def show(self, database: Path) -> Path:
        """Let the daemon see it. That takes no room on the disk."""
        return database.parent.rename(self.root / database.parent.name) / NAME


def finished_in(folder: Path, selfheald: Selfheald) -> Path:
    """A complete database of the small project, made there. Not to be changed."""
    database = own_database(folder)
    selfheald.ok("ensure", database, **QUICK)
    return database


def untouched(database: Path) -> None:
    """What was there is there as it was, and nothing else: neither tables, nor a marker, nor staging."""
    assert not marker_path(database).exists()
    assert tables(database) == NOTES
    assert rows(database, "from notes") == [(42,)]
    assert not staging_left(database)


def healed(database: Path) -> None:
    """It becomes so that all is there, what was there is as it was, and status and marker say so."""
    wait_for(lambda: valid_marker(database), what=lambda: status(database))
    assert tables(database) == OWN_TABLES | NOTES
    assert rows(database, "from notes") == [(42,)]
    assert status(database).get("state", "completed") == "completed"
    assert not staging_left(database)
    assert not request_path(database).exists()


def lines_of(daemon: Daemon, event: str, database: Path) -> list[Record]:
    """What stderr tells of a database: the log file itself may be what fails."""
    lines = [json.loads(line) for line in daemon.told().splitlines()]
    return [line for line in lines if (line["event"], line["database"]) == (event, str(database))]


def calm(daemon: Daemon) -> None:
    """It lives, and does next to nothing."""
    process = daemon.process
    assert process is not None
    cpu, lines = cpu_seconds(daemon.pid), len(daemon.told().splitlines())
    throughout(LOOK_SECONDS, lambda: process.poll() is None, daemon.told)
    told = [json.loads(line) for line in daemon.told().splitlines()[lines:]]
    events = Counter((line["event"], line["error_code"], line["database"]) for line in told)
    assert cpu_seconds(daemon.pid) - cpu < CALM_SECONDS * LOOK_SECONDS, events
    assert len(told) < CALM_LINES * LOOK_SECONDS, events


def told(daemon: Daemon, database: Path, code: str) -> Record:
    """Wait until the log tells that this database failed with this code for the last time."""

    def last() -> Record | None:
        lines = [
            line
            for event in ("check_failed", "initialization_failed")
            for line in lines_of(daemon, event, database)
            if line["level"] == "ERROR" and line["error_code"] == code
        ]
        return lines[-1] if lines else None

    return wait_for(last, what=daemon.told)


def given_up(database: Path, code: str, *words: str) -> None:
    """Wait until the status says that no further attempt is planned, why, and what to do."""
    found = wait_for(
        lambda: status(database) if status(database).get("reason") == "needs_person" else None,
        what=lambda: status(database),
    )
    error = found["error"]
    assert (error["code"], found["next_attempt_at"]) == (code, None), found
    assert error["path"], found
    assert all(word in error["hint"] for word in words), error
