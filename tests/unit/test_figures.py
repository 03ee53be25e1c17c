"""Counting: what is counted, under which words, and that nothing of it grows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfheald.errors import InitializationError
from selfheald.figures import CHECK_BOUNDS, WORK_BOUNDS, Figures, Snapshot, Spread, longest_wait
from selfheald.initialization_state import InitializationResult, InitializationState, InitializationStep


@given(st.lists(st.floats(min_value=-1, max_value=1000), max_size=50))
def test_a_spread_counts_each_duration_once_and_where_it_belongs(durations: list[float]) -> None:
    spread = Spread(CHECK_BOUNDS)
    for seconds in durations:
        spread.add(seconds)
    assert spread.count == len(durations)
    assert spread.sum == pytest.approx(sum(max(0.0, seconds) for seconds in durations))
    for number, bound in enumerate(CHECK_BOUNDS):
        assert sum(spread.counts[: number + 1]) == sum(seconds <= bound for seconds in durations)


@pytest.mark.parametrize("bounds", [CHECK_BOUNDS, WORK_BOUNDS])
def test_bounds_rise(bounds: tuple[float, ...]) -> None:
    assert list(bounds) == sorted(set(bounds))


def result(state: InitializationState, *steps: InitializationStep, code: str | None = None) -> InitializationResult:
    error = None if code is None else InitializationError("it failed", code=code)
    return InitializationResult("/w/simulation.duckdb", "x", state, list(steps), error=error, duration_seconds=3.0)


def test_an_initialization_is_counted_by_its_origin() -> None:
    figures = Figures()
    step = InitializationStep("load_seeds", duration_seconds=0.3)
    figures.initialized(result(InitializationState.COMPLETED, step), origin="template", attempt=1)
    # The marker was of another file by then, and gave no origin.
    figures.initialized(result(InitializationState.COMPLETED, step), origin="None", attempt=2)
    assert figures.initializations == {("completed", "template"): 1, ("completed", "dbt"): 1}
    assert figures.step_seconds["load_seeds"].count == 2
    assert figures.step_seconds["publish"].count == 0
    assert figures.initialization_seconds["template"].sum == 3.0
    assert figures.retries == 1


def test_a_failure_is_counted_by_its_code() -> None:
    figures = Figures()
    figures.initialized(result(InitializationState.FAILED, code="disk_full"), origin="none", attempt=1)
    figures.check_failed("database_corrupt")
    assert figures.initializations == {("failed", "none"): 1}
    assert figures.failures == {("initialization", "disk_full"): 1, ("check", "database_corrupt"): 1}


@pytest.mark.parametrize(
    ("state", "watcher", "why"),
    [
        ("starting", "native", "the daemon is starting"),
        ("stopping", "native", "the daemon is stopping"),
        ("ready", "degraded", "the watch is degraded"),
        ("ready", "native", None),
        ("ready", "polling", None),
    ],
)
def test_who_counts_on_it_is_told_when_not_to(state: str, watcher: str, why: str | None) -> None:
    found = Snapshot(state, watcher).unready()
    assert found is None if why is None else str(found).startswith(why)


def test_the_longest_wait() -> None:
    assert longest_wait([], 5.0) == 0.0
    assert longest_wait([4.0, 2.5, 9.0], 5.0) == 2.5
