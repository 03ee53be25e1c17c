"""The check: a database's catalog read without its lock, beside the connection that anybody else would open."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.databases import NAME, ready_workspace, sized_database
from benchmarks.results import Aim, Figure, Kind, Peer, Series
from benchmarks.subjects import Subject

_NEWEST = (sys.executable, "")


@dataclass(frozen=True, slots=True)
class _Case:
    """A database to be checked. ``factor``: how many times faster than a connection that must be."""

    what: str
    path: Path
    factor: float | None = None
    at: tuple[str, float] | None = None


def _measure(bench: Bench) -> Iterator[Figure]:
    for case in _cases(bench):
        for python, suffix in _pythons(bench) if case.factor else [_NEWEST]:
            found = _ask(bench, python, case.path)
            connect = Peer(f"a read-only connection{suffix}", Series(tuple(found["connect"])))
            aim = None if case.factor is None else Aim(Kind.FASTER, case.factor)
            at = None if suffix else case.at
            yield Figure(f"{case.what}{suffix}", Series(tuple(found["check"])), peer=connect, aim=aim, at=at)
            if case.path == ready_workspace(bench):
                yield Figure(f"equal to its marker: not opened{suffix}", Series(tuple(found["marker"])), peer=connect)


def _cases(bench: Bench) -> Iterator[_Case]:
    """The databases. Each is made when its turn comes, and gone when that of the next one does."""
    yield _Case("small database", ready_workspace(bench), factor=8)
    size = bench.scaled(tiny=1.0, small=20.0, large=50.0)
    counts = bench.scaled(tiny=(5, 10), small=(5, 50, 500), large=(5, 50, 500, 5000))
    for tables in counts:
        yield from _case(bench, "check, by tables", tables, size, ("tables", tables))
    tables = bench.scaled(tiny=10, small=500, large=500)
    sizes = bench.scaled(tiny=(2, 4), small=(20, 60, 200), large=(20, 140, 1000))
    for size in sizes:
        factor = 1.5 if size == sizes[-1] else None
        yield from _case(bench, f"check, by size ({tables} tables)", tables, size, ("MB", size), factor)


def _case(
    bench: Bench, what: str, tables: int, size: float, at: tuple[str, float], factor: float | None = None
) -> Iterator[_Case]:
    path = sized_database(bench.make_folder("sized") / NAME, tables=tables, megabytes=size)
    yield _Case(what, path, factor, at)
    path.unlink()


def _pythons(bench: Bench) -> Sequence[tuple[str, str]]:
    """The interpreters to measure with, and what their figures are called."""
    return [_NEWEST] if bench.pinned is None else [_NEWEST, (bench.pinned, ", oldest versions")]


def _ask(bench: Bench, python: str, path: Path) -> Mapping[str, Sequence[float]]:
    order = {
        "database": str(path),
        "rounds": bench.scaled(tiny=2, small=7, large=15),
        "times": bench.scaled(tiny=1, small=4, large=10),
    }
    _, told = bench.answer([python, "-m", "benchmarks.check_script", json.dumps(order)])
    found: Mapping[str, Sequence[float]] = json.loads(told.splitlines()[-1])
    return found


SUBJECT = Subject("check", "The check, and a database that equals its marker", _measure)
