"""How all is measured: again and again, in turns, so that whatever else the machine does is shared by all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from benchmarks.results import Series

Name = TypeVar("Name", bound=str)

#: Does something once, and tells the seconds that count of it: what it needs before and after does not.
Turn = Callable[[], float]


def in_turns(turns: Mapping[Name, Turn], rounds: int, *, warm_up: int = 0) -> dict[Name, Series]:
    """Measure several things ``rounds`` times, one after the other in each round (A B A B); before it unmeasured."""
    values: dict[Name, list[float]] = {name: [] for name in turns}
    for number in range(-warm_up, rounds):
        for name, turn in turns.items():
            seconds = turn()
            if number >= 0:
                values[name].append(seconds)
    return {name: Series(tuple(series)) for name, series in values.items()}


def timed(action: Callable[[], object]) -> Turn:
    """A turn of which all counts."""

    def turn() -> float:
        began = time.perf_counter()
        action()
        return time.perf_counter() - began

    return turn


def repeated(action: Callable[[], object], times: int) -> Turn:
    """A turn that does it so many times, for what is too short for the clock; the seconds of one."""

    def turn() -> float:
        began = time.perf_counter()
        for _ in range(times):
            action()
        return (time.perf_counter() - began) / times

    return turn
