"""Many workspaces: how starting, a change until its marker, and idling grow with their number."""

from __future__ import annotations

import random
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.bench import Bench
from benchmarks.databases import ready_workspace
from benchmarks.measuring import in_turns
from benchmarks.results import Aim, Figure, Kind, Peer, Series
from benchmarks.subjects import Subject

#: The number of workspaces that the aims are for.
MANY = 10_000


def _measure(bench: Bench) -> Iterator[Figure]:
    scale = import_module("benchmarks.scale")
    folder = bench.make_folder("workspaces")
    model = ready_workspace(bench)
    few: Series | None = None
    counts = bench.scaled(tiny=(3,), small=(100, 1_000, MANY), large=(100, 1_000, MANY, 30_000))
    for count in counts:
        databases = scale.plant(folder / f"root-{count}", count, model)
        yield _start(bench, scale, folder, count)
        with _daemon(bench, scale, folder, count) as daemon:
            daemon.until_calm()
            changed = random.Random(1).sample(databases, min(count, bench.scaled(tiny=2, small=60, large=200)))
            waited = Series(tuple(scale.changes_to_markers(changed)))
            yield from _changes(waited, few, count)
            few = few or waited
            if count == min(MANY, counts[-1]):
                yield from _idle(bench, scale, daemon, count)


def _start(bench: Bench, scale: Any, folder: Path, count: int) -> Figure:
    def start() -> float:
        with _daemon(bench, scale, folder, count) as daemon:
            seconds: float = daemon.ready_after
            return seconds

    # In the first start the daemon gets to know them all.
    turns = {"start": start, "scan": lambda: float(scale.bare_scan(folder / f"root-{count}"))}
    series = in_turns(turns, bench.scaled(tiny=1, small=3, large=7), warm_up=bench.scaled(tiny=0, small=1, large=1))
    aim = Aim(Kind.WITHIN, 3) if count == MANY else None
    scan = Peer("a bare scan of the tree", series["scan"])
    return Figure("start to READY", series["start"], peer=scan, aim=aim, at=("workspaces", count))


def _changes(waited: Series, few: Series | None, count: int) -> Iterator[Figure]:
    what, at = "changed file to fresh marker", ("workspaces", float(count))
    many = count == MANY
    yield Figure(what, waited, aim=Aim(Kind.MEDIAN, 0.120) if many else None, at=at)
    if many:
        p95 = Figure(f"{what}, {count:,} workspaces", waited, aim=Aim(Kind.P95, 0.250))
        yield p95
        if few is not None:
            yield Figure(p95.what, waited, peer=Peer("the same with 100 workspaces", few), aim=Aim(Kind.WITHIN, 1.2))


def _idle(bench: Bench, scale: Any, daemon: Any, count: int) -> Iterator[Figure]:
    daemon.until_calm()
    found = scale.idle(daemon.pid, bench.scaled(tiny=1, small=60, large=300))
    percent, wakes, size = found["share_of_a_core"] * 100, found["wake_ups_per_second"], found["resident_mib"]
    where = f"idle at {count:,} workspaces"
    note = "dbt was in memory" if found["dbt_in_memory"] else ""
    yield Figure(f"{where}: of a core", Series((percent,)), unit="%", aim=Aim(Kind.MEDIAN, 0.2))
    yield Figure(f"{where}: wake-ups a second", Series((wakes,)), unit="")
    yield Figure(f"{where}: resident", Series((size,)), unit="MiB", aim=Aim(Kind.MEDIAN, 100), note=note)


def _daemon(bench: Bench, scale: Any, folder: Path, count: int) -> Any:
    environment = bench.environment(WATCH__SETTLE=0.05)
    return scale.Daemon(folder / f"root-{count}", folder / f"daemon-{count}", environment)


SUBJECT = Subject("workspaces", "Many workspaces", _measure)
