"""A wall clock that is set: markers stay true, no pause becomes longer, nothing spins."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from faults import QUICK, Site, calm, finished_in, healed
from fixtures.figures import Figures, scaled
from fixtures.waiting import wait_for
from machine import Clock
from processes import Selfheald, change, children, marker, status

from selfheald.client import valid_marker

pytestmark = [pytest.mark.promise(1), pytest.mark.promise(6), pytest.mark.soak, pytest.mark.timeout(scaled(120, 900))]

HOUR, YEARS = 3600, 10 * 365 * 24 * 3600
#: Seconds ahead of the true time, one after the other.
SETTINGS = (HOUR, 0, -HOUR, YEARS, -YEARS, 0) * scaled(1, 3)


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    folder = tmp_path / "clock"
    folder.mkdir()
    return Clock(folder)


@pytest.fixture
def site(selfheald: Selfheald, clock: Clock, tmp_path: Path) -> Iterator[Site]:
    """A daemon, with all that it starts, whose clock is ``clock``."""
    root = tmp_path / "root"
    root.mkdir()
    finished = finished_in(tmp_path / "finished", selfheald)
    moved = Selfheald(selfheald.folder, selfheald.environment | clock.environment)
    with moved.daemon(root, **QUICK | {"RETRY__BASE": 1, "RETRY__MAX": 2}) as daemon:
        yield Site(daemon, moved, tmp_path, finished)


def test_a_clock_that_is_set(site: Site, clock: Clock, figures: Figures) -> None:
    """At rest, and while somebody waits: a complete database, one that loses a table, one that is given its stamps."""
    survived = 0
    for number, offset in enumerate(SETTINGS):
        clock.set(offset)
        database = site.show(site.complete(f"complete-{number}"))
        os.utime(database, times=(1e9 + number, 1e9 + number) if number % 2 else (4e9, 4e9))
        healed(database)
        told_at = datetime.fromisoformat(marker(database)["checked_at"]).timestamp()
        assert abs(told_at - offset - time.time()) < 120, "the daemon's clock was not moved"
        calm(site.daemon)
        change(database, "drop table dim_regions", "checkpoint")
        assert valid_marker(database) is None
        healed(database)
        assert site.selfheald.run("wait", database, "--timeout", "20").returncode == 0
        survived += 1
    what = "wall clock set by an hour and by ten years, back and forth"
    figures.tell(1, what, tried=len(SETTINGS), survived=survived)


def test_a_clock_that_jumps_while_there_is_work(site: Site, clock: Clock, figures: Figures) -> None:
    """In the middle of an initialization, and of the pause after its failure: that lasts as long as was said."""
    survived = 0
    for number, offset in enumerate(SETTINGS):
        database = site.incomplete(f"incomplete-{number}")
        database = site.show(database)
        child = wait_for(lambda: children(site.daemon.pid), what=site.daemon.told)[0]
        clock.set(offset)
        os.kill(child, signal.SIGKILL)
        wait_for(lambda: status(database).get("reason") == "backoff", what=site.daemon.told)  # noqa: B023
        clock.set(-offset)
        wait_for(lambda: status(database)["state"] == "in_progress", 10, lambda: status(database))  # noqa: B023
        clock.set(offset)
        healed(database)
        survived += 1
    what = "wall clock set within an initialization and a backoff"
    figures.tell(6, what, tried=len(SETTINGS), survived=survived)
