"""A fresh workspace that dbt has to make: by the daemon, by ``ensure``, and by dbt's own commands."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

from benchmarks.bench import Bench
from benchmarks.fresh import ensure, in_daemon, make_ready, new_workspace
from benchmarks.measuring import in_turns
from benchmarks.projects import ByHand, Project, bundled, generated
from benchmarks.results import Aim, Figure, Kind, Peer, Series
from benchmarks.subjects import Subject

THREE, ONE = "the three commands", "one dbt build"
#: Of the daemon and of ensure: no time to settle is counted, since a request is due at once.
_SETTINGS = {"WATCH__SETTLE": 0.05, "TEMPLATES__MODE": "off"}


def _measure(bench: Bench) -> Iterator[Figure]:
    if bench.form != "tiny":
        yield from _figures(bench, bundled(bench), factor=5)
    sizes = bench.scaled(tiny=(8,), small=(30, 100, 300), large=(30, 100, 300, 600))
    for models in sizes:
        factor = {300: 12}.get(models)
        yield from _figures(bench, generated(bench, models), factor=factor, curve=True)


def _figures(bench: Bench, project: Project, *, factor: float | None, curve: bool = False) -> Iterator[Figure]:
    bench.say(f"{project.what} …")
    series = _in_turns(bench, project)
    three, one = Peer(THREE, series[THREE]), Peer(ONE, series[ONE])
    at = ("models", project.models) if curve else None
    suffix = "" if curve else f", {project.what}"
    aim = None if factor is None else Aim(Kind.FASTER, factor)
    yield Figure(f"warm daemon{suffix}", series["warm"], peer=three, aim=aim, at=at)
    yield Figure(f"warm daemon{suffix}", series["warm"], peer=one, aim=aim and Aim(Kind.FASTER, 3), at=at)
    yield Figure(f"warm daemon, the initialization alone{suffix}", series["inside"], at=at)
    yield Figure(f"daemon that has just started{suffix}", series["cold"], peer=three, at=at)
    yield Figure(f"selfheald ensure{suffix}", series["ensure"], peer=three, at=at)


def _in_turns(bench: Bench, project: Project) -> dict[str, Series]:
    rounds = bench.scaled(tiny=1, small=3, large=7)
    hand_three, hand_one = ByHand(bench, project), ByHand(bench, project)
    warm_root, cold_root, own_root = (bench.make_folder(name) for name in ("warm", "cold", "ensure"))
    settings = {**_SETTINGS, **project.settings}
    numbers = count()
    inside: list[float] = []

    def warm() -> float:
        folder = new_workspace(warm_root, f"w{next(numbers)}")
        seconds = make_ready(folder)
        inside.append(in_daemon(folder))
        return seconds

    def cold() -> float:
        with bench.daemon(cold_root, **settings):
            return make_ready(new_workspace(cold_root, f"w{next(numbers)}"))

    with bench.daemon(warm_root, **settings):
        turns = {
            "warm": warm,
            "cold": cold,
            "ensure": lambda: ensure(bench, new_workspace(own_root, f"w{next(numbers)}"), **settings),
            THREE: lambda: hand_three.run(project.three),
            ONE: lambda: hand_one.run(project.one),
        }
        # The first time all read the project; from then on each knows it.
        series = in_turns(turns, rounds, warm_up=bench.scaled(tiny=0, small=1, large=1))
    return series | {"inside": Series(tuple(inside[-rounds:]))}


SUBJECT = Subject("fresh_dbt", "A fresh workspace that dbt has to make", _measure)
