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
from pathlib import Path
from typing import Any

import pytest
from fixtures.figures import SOAK, Figures, scaled
from fixtures.publishing import CHILD, RUNNER, Duck, House, Talk
from fixtures.slow_files import SlowFiles, slow_library

__all__ = ["slow_library"]

PINNED = os.environ.get("SELFHEALD_TEST_PINNED", "")
PYTHONS = {"2": sys.executable, "1": PINNED}

#: Seconds by which a simulator is ahead at most; how much later it may come depends on what is raced.
HEAD_START = 0.03
#: Who is slow, by how many milliseconds after opening and before locking, and how many rounds.
PACES = [
    ("nobody", 0, 0, scaled(2, 100)),
    ("simulator", 0, 300, scaled(1, 4)),
    ("both", 0, 120, scaled(1, 4)),
    ("publisher", 20, 0, scaled(1, 4)),
    *(
        (who, opened, locking, scaled(0, 4))
        for who in ("publisher", "simulator", "both")
        for opened, locking in ((0, 3), (30, 0), (0, 80))
    ),
]

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
    tables: set[str] = field(default_factory=set)


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

        versions = {name: ".".join(map(str, duck.version)) for name, duck in (("1", self.duck), ("2", self.reader))}
        self.versions = {"publisher": versions[publisher], "simulator": versions[simulator]}

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


MODES = [
    ("create", "put_in_place", 0.04),
    ("replace", "put_in_place", 0.10),
    ("graft", "_quiet", 0.15),
    ("graft", "_open_unchanged", 0.15),
]


@pytest.mark.promise(3)
@pytest.mark.soak
@pytest.mark.timeout(scaled(120, 3600))
@pytest.mark.parametrize(
    ("publisher", "simulator"),
    [("2", "2"), ("1", "2")] if not SOAK else [("2", "2"), ("1", "2"), ("2", "1"), ("1", "1")],
)
@pytest.mark.parametrize(("mode", "gate", "spread"), MODES)
def test_no_commit_is_lost_beside_publishing(
    track: Callable[..., Track], figures: Figures, mode: str, gate: str, spread: float, publisher: str, simulator: str
) -> None:
    """Each round halts the publishing at ``gate``, then lets both go, first one and then the other ahead."""
    if "1" in (publisher, simulator) and not PINNED:
        pytest.skip("needs SELFHEALD_TEST_PINNED, the Python of the pinned environment")
    races = track(publisher, simulator, gate)
    race, plain = Race(), Race()
    for who, opened, locking, rounds in PACES:
        for turn in range(rounds):
            for outcome, play in ((race, published), (plain, without)):
                # DuckDB itself opens no empty file; without delays, its own writers are measured elsewhere.
                if play is without and (mode == "replace" or who == "nobody"):
                    continue
                house = races.house(f"{who}-{opened}-{locking}-{turn}", mode)
                for name in ("publisher", "simulator", "other"):
                    late = who in ("both", "publisher" if name == "other" else name)
                    races.slow[name].delay(house.database, opened=late * opened, locking=late * locking)
                play(races, outcome, house, mode, lead_of(turn, rounds, (opened + locking) / 1000, spread))
                shutil.rmtree(house.folder)
    what = f"{mode} at {gate} by DuckDB {races.versions['publisher']}, simulator {races.versions['simulator']}"
    tried = sum(rounds for *_, rounds in PACES)
    figures.tell(
        3,
        what,
        tried=tried,
        survived=tried - len(race.lost) - len(race.wrong),
        lost=len(race.lost),
        wrong=len(race.wrong),
        note=f"{race.seen['acknowledged']} commits, {race.seen['published']} published; two plain writers under the "
        f"same delays lost {len(plain.lost) + len(plain.wrong)} of {plain.seen['rounds']}",
    )
    assert race.lost == []
    assert race.wrong == []
    assert race.seen["published"] > 0
    assert race.seen["acknowledged"] > tried // 2


def lead_of(turn: int, rounds: int, reach: float, spread: float) -> float:
    """Seconds by which the simulator is ahead: from one that has all done to one that comes when all is done."""
    if rounds == 1:
        return HEAD_START
    if turn == rounds - 1:
        return -1.0
    return HEAD_START + reach - (HEAD_START + reach + spread) * turn / rounds


def published(races: Track, race: Race, house: House, mode: str, lead: float) -> None:
    """A round of a publishing beside a simulator."""
    races.publisher.tell(house.job)
    races.publisher.hear_event("paused")
    races.simulator.tell([str(house.database), "sim", 7, max(0.0, -lead)])
    time.sleep(max(0.0, lead))
    races.publisher.tell("go on")
    outcome: dict[str, Any] = races.publisher.hear_event("result", "error")
    acknowledged = races.simulator.hear() is True
    race.seen["acknowledged"] += acknowledged
    if "outcome" not in outcome:
        race.wrong.append(f"{house.folder.name}: {outcome}")
        return
    race.seen[outcome["outcome"]] += 1
    look(race, house, mode, {"sim": acknowledged, "new": outcome["outcome"] == "published"})
    if outcome["outcome"] != "published" and "main.new" in race.tables:
        race.wrong.append(f"{house.folder.name}: {outcome} but it is there")


def without(races: Track, race: Race, house: House, mode: str, lead: float) -> None:
    """The same round with another plain writer in the publishing's place."""
    races.other.tell([str(house.database), "new", 0, max(0.0, lead)])
    races.simulator.tell([str(house.database), "sim", 7, max(0.0, -lead)])
    new, sim = races.other.hear() is True, races.simulator.hear() is True
    race.seen["rounds"] += 1
    look(race, house, mode, {"sim": sim, "new": new})


def look(race: Race, house: House, mode: str, told: dict[str, bool]) -> None:
    """Compare what is there with what both were told."""
    name, race.tables = house.folder.name, set()
    try:
        if house.database.exists() and house.database.stat().st_size > 0:
            race.tables = house.tables()
        if told["sim"] and ("main.sim" not in race.tables or house.live("SELECT i FROM sim") != [["7"]]):
            race.lost.append(f"{name}: the simulator's commit, of {race.tables}")
        if told["new"] and "main.new" not in race.tables:
            race.wrong.append(f"{name}: what was published, of {race.tables}")
        if mode == "graft" and house.live("SELECT count(*), count(DISTINCT s) FROM old") != [["1000", "1000"]]:
            race.lost.append(f"{name}: rows that were there before")
        if "main.new" in race.tables and house.live("SELECT count(*) FROM new") not in ([["1000"]], [["1"]]):
            race.wrong.append(f"{name}: half of what was published")
    except AssertionError as damaged:
        race.wrong.append(f"{name}: {damaged}")
