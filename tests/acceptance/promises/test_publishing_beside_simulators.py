"""Promises 2, 3 and 4: publishing beside simulators that do not wait for the marker.

A simulator opens, inserts, commits and closes at the very moment of a publishing. What it was told is committed stays,
nobody's file is clobbered, and what was published stays too. Both are also made slow between opening the database and
locking it, where DuckDB 2.0 has read the headers already. DuckDB's own writers lose commits to each other there: that
is measured beside it, with the same delays and without a publishing.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from fixtures.figures import Figures, scaled
from fixtures.publishing import CHILD, RUNNER, Duck, House, Talk
from fixtures.slow_files import SlowFiles, slow_library

__all__ = ["slow_library"]

PINNED = os.environ.get("SELFHEALD_TEST_PINNED", "")
PYTHONS = {"2": sys.executable, "1": PINNED}

#: Rounds of each race with each delay.
ROUNDS = scaled(2, 24)
#: Seconds by which a simulator is ahead at most; how much later it may come depends on what is raced.
HEAD_START = 0.03
#: Milliseconds of delay, after opening and before locking.
DELAYS = [(0, 3), (20, 0), (0, 80), (0, 300)]

#: Opens, makes a table of its own, commits and closes, from the moment on that it is told, until it succeeds once.
SIMULATOR = r"""
import json, sys, time, duckdb
print("ready", flush=True)
for line in sys.stdin:
    path, table, number, delay = json.loads(line)
    time.sleep(delay)
    end, told = time.perf_counter() + 5, "too late"
    while time.perf_counter() < end and told is not True:
        try:
            connection = duckdb.connect(path, config={"threads": 1})
            connection.execute(f"CREATE TABLE IF NOT EXISTS {table}(i BIGINT)")
            connection.execute(f"INSERT INTO {table} VALUES (?)", [number])
            connection.close()
            told = True
        except duckdb.Error as error:
            told = str(error)
            time.sleep(0.002)
    print(json.dumps(told), flush=True)
"""


@dataclass
class Race:
    """What came of the rounds of a race."""

    seen: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


class Track:
    """The processes that race, and the folders for the rounds."""

    def __init__(self, folder: Path, library: Path | None, publisher: str, simulator: str, gate: str) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.slow = {name: SlowFiles(library, folder / f"slow-{name}") for name in ("publisher", "simulator", "other")}
        self.duck = Duck(PYTHONS["1" if "1" in (publisher, simulator) else "2"])
        self.reader = Duck(PYTHONS["2"])
        self.publisher = self._talk("publisher", PYTHONS[publisher], "-c", RUNNER, str(CHILD), "pause", gate)
        self.publisher.hear_event("ready")
        self.simulator = self._talk("simulator", PYTHONS[simulator], "-c", SIMULATOR)
        self.other = self._talk("other", PYTHONS[publisher], "-c", SIMULATOR)
        assert self.simulator.hear_line() == self.other.hear_line() == b"ready"
        self.model = House(folder / "model", self.duck)
        rows = "CREATE TABLE old AS SELECT range i, 'r' || range s FROM range(1000)"
        self.model.build(rows, "CREATE TABLE new AS SELECT i FROM old")
        self.model.live(rows)

    def end(self) -> None:
        for process in (self.duck, self.reader, self.publisher, self.simulator, self.other):
            process.end()

    def house(self, name: str, mode: str) -> House:
        """A workspace as it is before a round."""
        house = House(self.folder / name, self.reader)
        shutil.copy(self.model.staging, house.staging)
        house.want("new", "i")
        if mode == "graft":
            shutil.copy(self.model.database, house.database)
            house.graft("old")
        elif mode == "replace":
            house.database.touch()
        return house

    def _talk(self, name: str, python: str, *arguments: str) -> Talk:
        return Talk(*arguments, python=python, env=os.environ | self.slow[name].environment)


@pytest.fixture
def track(tmp_path: Path, slow_library: Path | None) -> Iterator[Callable[..., Track]]:
    """Starts the processes of a race; they end with the test."""
    tracks: list[Track] = []

    def start(*arguments: str) -> Track:
        tracks.append(Track(tmp_path / f"track-{len(tracks)}", slow_library, *arguments))
        return tracks[-1]

    yield start
    for each in tracks:
        each.end()


def delays(who: str) -> list[tuple[int, int]]:
    return [(0, 0)] if who == "nobody" else DELAYS


MODES = [
    ("create", "put_in_place", 0.04),
    ("replace", "put_in_place", 0.10),
    ("graft", "_quiet", 0.15),
    ("graft", "_open_unchanged", 0.15),
]


@pytest.mark.promise(3)
@pytest.mark.soak
@pytest.mark.timeout(scaled(120, 3600))
@pytest.mark.parametrize(("publisher", "simulator"), list(product("21", "21")))
@pytest.mark.parametrize(("mode", "gate", "spread"), MODES)
def test_no_commit_is_lost_beside_publishing(
    track: Callable[..., Track], figures: Figures, mode: str, gate: str, spread: float, publisher: str, simulator: str
) -> None:
    """Each round halts the publishing at ``gate``, then lets both go, first one and then the other ahead."""
    if "1" in (publisher, simulator) and not PINNED:
        pytest.skip("needs SELFHEALD_TEST_PINNED, the Python of the pinned environment")
    races = track(publisher, simulator, gate)
    race = Race()
    for who in ("nobody", "publisher", "simulator", "both"):
        for opened, locking in delays(who):
            for turn in range(ROUNDS):
                name = f"{who}-{opened}-{locking}-{turn}"
                house = races.house(name, mode)
                for each in ("publisher", "simulator"):
                    late = who in (each, "both")
                    races.slow[each].delay(house.database, opened=late * opened, locking=late * locking)
                reach = (opened + locking) / 1000
                lead = HEAD_START + reach - (HEAD_START + 2 * reach + spread) * (turn + 0.5) / ROUNDS
                one_round(races, race, house, mode, name, lead)
                shutil.rmtree(house.folder)
    print(mode, gate, publisher, simulator, race)
    assert race.lost == []
    assert race.wrong == []


def one_round(races: Track, race: Race, house: House, mode: str, name: str, lead: float) -> None:
    races.publisher.tell(house.job)
    races.publisher.hear_event("paused")
    races.simulator.tell([str(house.database), "sim", 7, max(0.0, -lead)])
    time.sleep(max(0.0, lead))
    races.publisher.tell("go on")
    outcome: dict[str, Any] = races.publisher.hear_event("result", "error")
    acknowledged = races.simulator.hear()
    race.seen[outcome.get("outcome", "error")] += 1
    race.seen["acknowledged"] += acknowledged is True
    if "outcome" not in outcome:
        race.wrong.append(f"{name}: {outcome}")
        return
    if not house.database.exists() or house.database.stat().st_size == 0:
        if acknowledged is True:
            race.lost.append(f"{name}: no database")
        return
    try:
        tables = house.tables()
        if acknowledged is True and ("main.sim" not in tables or house.live("SELECT i FROM sim") != [["7"]]):
            race.lost.append(f"{name}: {tables} {outcome['outcome']}")
        if mode == "graft" and house.live("SELECT count(*) FROM old") != [["1000"]]:
            race.lost.append(f"{name}: old")
        if "main.new" in tables:
            assert house.live("SELECT count(*) FROM new") == [["1000"]]
        elif outcome["outcome"] == "published":
            race.seen["overwritten"] += 1
            race.wrong.append(f"{name}: overwritten")
    except AssertionError as error:
        race.wrong.append(f"{name}: damaged: {error}")
