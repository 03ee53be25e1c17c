"""What a subject of the benchmarks is, and which there are.

A new one is a module that defines a ``SUBJECT``, named in :data:`MODULES`. Its ``measure`` is a generator: it yields
each figure as soon as it is known, so that a run that is ended before its end keeps what it has. It takes all that it
needs from the :class:`~benchmarks.bench.Bench`: the folder that everything goes into, how large the run is, and daemons
and commands that end with it. ::

    def _measure(bench: Bench) -> Iterator[Figure]:
        for count in bench.scaled(tiny=(10, 20), small=(100, 1_000, 10_000), large=(1_000, 10_000, 30_000)):
            root = bench.make_folder("workspaces")
            ...
            with bench.daemon(root, WATCH__SETTLE=0.05) as daemon:
                series = in_turns({"daemon": ..., "bare scan": ...}, rounds=5)
            peer = Peer("a bare scan", series["bare scan"])
            yield Figure(
                "start to READY", series["daemon"], peer=peer, aim=Aim(Kind.WITHIN, 3), at=("workspaces", count)
            )


    SUBJECT = Subject("workspaces", "Many workspaces", _measure)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module

from benchmarks.bench import Bench
from benchmarks.results import Figure

#: In the order in which they are run.
MODULES = ("client", "check", "fresh_dbt", "fresh_template", "workspaces")


@dataclass(frozen=True, slots=True)
class Subject:
    """Something to be measured. ``name`` is what ``--only`` takes."""

    name: str
    title: str
    measure: Callable[[Bench], Iterator[Figure]]


def subjects() -> list[Subject]:
    """All that there are."""
    return [import_module(f"benchmarks.{name}").SUBJECT for name in MODULES]
