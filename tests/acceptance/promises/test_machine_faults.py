"""Disks that fill up, rights that are missing, limits that are reached, a clock that jumps: nothing false, nothing lost.

In each case the daemon lives on at rest, says what is the matter, and goes on by itself when it is over.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fixtures.figures import Figures, scaled
from machine import MB, Disk, disk, private_mounts
from processes import DEADLINE, NAME, OWN_PROJECT, Daemon, Record, Selfheald, cpu_seconds, rows, status, throughout, wait_for
from projects import NOTES, OWN_TABLES, own_database, staging_left, tables

from selfheald.client import read_record, request_path, valid_marker

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
ROUNDS = scaled(1, 5)
#: What a daemon at rest may do in a second: of processor time, and lines in its log.
CALM_SECONDS, CALM_LINES = 0.5, 12


@pytest.fixture(scope="module")
def mounts() -> Iterator[None]:
    with private_mounts():
        yield


@pytest.fixture
def small(mounts: None, tmp_path: Path) -> Iterator[Disk]:
    """A disk of 40 MB."""
    with disk(tmp_path / "disk", 40 * MB) as made:
        yield made


def untouched(database: Path) -> None:
    """What was there is there as it was, and nothing else: neither tables, nor a marker, nor staging."""
    assert tables(database) == NOTES
    assert rows(database, "from notes") == [(42,)]
    assert valid_marker(database) is None
    assert not staging_left(database)


def healed(database: Path, deadline: float = DEADLINE) -> None:
    """All is there, what was there is as it was, and status and marker say so."""
    wait_for(lambda: valid_marker(database), deadline, lambda: status(database))
    assert tables(database) == OWN_TABLES | NOTES
    assert rows(database, "from notes") == [(42,)]
    assert (status(database)["state"], status(database)["error"]) == ("completed", None)
    assert not staging_left(database)
    assert not request_path(database).exists()


def calm(daemon: Daemon, seconds: float = 2.0) -> None:
    """It lives, and does next to nothing."""
    assert daemon.process is not None
    cpu, lines = cpu_seconds(daemon.pid), len(daemon.told().splitlines())
    throughout(seconds, lambda: daemon.process is not None and daemon.process.poll() is None, daemon.told)
    told = daemon.told().splitlines()[lines:]
    assert cpu_seconds(daemon.pid) - cpu < CALM_SECONDS * seconds, told
    assert len(told) < CALM_LINES * seconds, told


def failed(database: Path, code: str) -> Record:
    """Wait until the last attempt has failed, with this code."""
    found = wait_for(
        lambda: status(database) if status(database).get("reason") == "needs_person" else None,
        what=lambda: status(database),
    )
    assert found["error"]["code"] == code, found
    assert found["error"]["hint"]
    return found


def moved_in(database: Path, folder: Path) -> Path:
    """Let it appear in a watched folder; that takes no room."""
    return Path(shutil.move(database.parent, folder)) / NAME


def aside(small: Disk) -> Path:
    """A folder on the disk that is not watched."""
    return small.path / "aside"


def test_full_before_anything(small: Disk, selfheald: Selfheald, figures: Figures) -> None:
    root = small.path / "root"
    root.mkdir()
    with selfheald.daemon(root, **QUICK) as daemon:
        database = own_database(aside(small) / "a")
        small.fill()
        database = moved_in(database, root / "a")
        wait_for(lambda: daemon.log_lines("check_failed", database) or daemon.log_lines("initialization_failed", database), what=daemon.told)
        calm(daemon)
        untouched(database)
        print(daemon.told())
        print(status(database))
        small.make_room()
        healed(database)
        print(daemon.told())
