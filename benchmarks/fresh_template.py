"""A fresh workspace that gets a copy of a template, beside dbt's commands, and beside copying the finished file."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.databases import NAME
from benchmarks.fresh import in_daemon, make_all_ready, make_ready, new_workspace, origin
from benchmarks.fresh_dbt import THREE
from benchmarks.measuring import in_turns
from benchmarks.projects import ByHand, Project, bundled, generated
from benchmarks.results import Aim, Figure, Kind, Peer, Series
from benchmarks.subjects import Subject

COPY = "copying the file, fsync, rename"
NOT_USED = "no template was used: the marker's origin is {}"


def _measure(bench: Bench) -> Iterator[Figure]:
    small = bench.scaled(tiny=generated(bench, 8), small=None, large=None)
    for project in [small] if small else [bundled(bench), generated(bench, 300)]:
        yield from _one(bench, project)
    yield from _many(bench)


def _one(bench: Bench, project: Project) -> Iterator[Figure]:
    """One workspace after the other, and in turns with it what it is compared with."""
    bench.say(f"{project.what} …")
    hand, root, copies = ByHand(bench, project), bench.make_folder("template"), bench.make_folder("copies")
    numbers = count()
    made = new_workspace(root, "first")
    used: list[Path] = []
    inside: list[float] = []

    def template() -> float:
        folder = new_workspace(root, f"w{next(numbers)}")
        seconds = make_ready(folder)
        used.append(folder)
        inside.append(in_daemon(folder))
        return seconds

    with bench.daemon(root, **_settings(bench), **project.settings):
        make_ready(made)
        turns = {"template": template, COPY: lambda: _copy(made / NAME, copies / f"{next(numbers)}.duckdb")}
        rounds = bench.scaled(tiny=1, small=25, large=100)
        unmeasured = bench.scaled(tiny=0, small=1, large=1)
        series = in_turns(turns, rounds, warm_up=unmeasured)
        # dbt's commands take a thousand times as long: a few in turns with the same must do.
        slow = bench.scaled(tiny=1, small=3, large=5)
        turns = {"template": template, THREE: lambda: hand.run(project.three)}
        beside = in_turns(turns, slow, warm_up=unmeasured)
    note = _verdict(used)
    three, copy = Peer(THREE, beside[THREE]), Peer(COPY, series[COPY])
    what = f"request to marker, {project.what}"
    yield Figure(what, beside["template"], peer=three, aim=Aim(Kind.FASTER, 200), note=note)
    yield Figure(what, series["template"], peer=copy, aim=Aim(Kind.WITHIN, 5), note=note)
    yield Figure(f"the initialization alone, {project.what}", Series(tuple(inside)), peer=copy, note=note)


def _many(bench: Bench) -> Iterator[Figure]:
    """Many fresh workspaces that all want to be ready at once, and no template yet."""
    wanted = bench.scaled(tiny=2, small=1000, large=1000)
    project = bundled(bench)
    note = "" if bench.form == "tiny" else _trial(bench, project)
    # If dbt makes each of them, all would take it an hour.
    number = 20 if note else wanted
    root = bench.make_folder("many")
    folders = [new_workspace(root, f"w{place:04}") for place in range(number)]
    with bench.daemon(root, **_settings(bench), **project.settings):
        seconds = make_all_ready(folders)
    runs = [origin(folder) for folder in folders].count("dbt")
    # Which of them it was is not known: the others are copies.
    note = note or _verdict([folder for folder in folders if origin(folder) != "dbt"])
    whole = number == wanted
    what = f"{number:,} workspaces at once, until the last marker"
    yield Figure(what, Series((seconds,)), aim=Aim(Kind.MEDIAN, 60.0) if whole else None, note=note)
    yield Figure("of these made by dbt", Series((float(runs),)), unit="", aim=Aim(Kind.MEDIAN, 1.0), note=note)


def _trial(bench: Bench, project: Project) -> str:
    """Two workspaces, one after the other: the verdict on the second."""
    root = bench.make_folder("trial")
    folders = [new_workspace(root, name) for name in ("first", "second")]
    with bench.daemon(root, **_settings(bench), **project.settings):
        for folder in folders:
            make_ready(folder)
    return _verdict(folders[1:])


def _settings(bench: Bench) -> dict[str, object]:
    """Those of a daemon whose store is empty."""
    return {
        "WATCH__SETTLE": 0.05,
        "TEMPLATES__MODE": "on",
        "TEMPLATES__DIR": str(bench.make_folder("templates")),
    }


def _verdict(folders: list[Path]) -> str:
    """Empty if all of these are copies of a template; else what they are."""
    others = sorted({origin(folder) for folder in folders} - {"template"})
    return NOT_USED.format(", ".join(others)) if others else ""


def _copy(source: Path, target: Path) -> float:
    """What the fastest way would do: copy, make it last, give it its name."""
    draft = target.with_suffix(".draft")
    began = time.perf_counter()
    shutil.copyfile(source, draft)
    handle = os.open(draft, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    draft.rename(target)
    return time.perf_counter() - began


SUBJECT = Subject("fresh_template", "A fresh workspace that gets a copy of a template", _measure)
