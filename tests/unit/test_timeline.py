"""Steps as bars: where they begin, how long they are, and records that are not what they should be."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfheald.initialization_state import seconds_of
from selfheald.timeline import Bar, bars, other_nodes

BEGAN = 1_764_000_000.0


def moment(seconds: float) -> str:
    return datetime.fromtimestamp(BEGAN + seconds, UTC).isoformat()


def step(name: str, begin: float, end: float | None, status: str = "completed") -> dict[str, Any]:
    return {
        "name": name,
        "display_name": name.title(),
        "status": status,
        "started_at": moment(begin),
        "completed_at": None if end is None else moment(end),
    }


def test_one_after_the_other() -> None:
    found = bars({"steps": [step("check", 0, 1), step("load", 1, 3), step("build", 3, 4, "failed")]}, 8)
    assert found == [
        Bar("Check", "completed", 1.0, 0, 2),
        Bar("Load", "completed", 2.0, 2, 4),
        Bar("Build", "failed", 1.0, 6, 2),
    ]


def test_one_that_has_not_ended_has_no_length() -> None:
    assert bars({"steps": [step("load", 0, 2), step("build", 2, None, "running")]}, 8)[1] == Bar("Build", "running")


def test_one_that_has_not_begun_is_not_shown() -> None:
    later = {"name": "verify", "status": "pending", "started_at": None, "completed_at": None}
    assert [bar.name for bar in bars({"steps": [step("load", 0, 2), later]}, 8)] == ["Load"]


def node(name: str, of: str, begin: float, end: float | None, status: str = "success") -> dict[str, Any]:
    found = step(name, begin, end, status)
    return {**found, "name": name, "display_name": None, "step": of}


def test_nodes_stand_below_their_steps() -> None:
    steps = [step("load", 0, 2), step("build", 2, 8, "failed")]
    nodes = [node("seed", "load", 0, 2), node("fast", "build", 2, 3), node("slow", "build", 3, 8, "error")]
    attempt = {"steps": steps, "nodes": {"slowest": nodes, "others": 3}}
    assert bars(attempt, 8, 2) == [
        Bar("Load", "completed", 2.0, 0, 2),
        Bar("seed", "success", 2.0, 0, 2, is_node=True),
        Bar("Build", "failed", 6.0, 2, 6),
        Bar("slow", "error", 5.0, 3, 5, is_node=True),
    ]
    assert other_nodes(attempt, 2) == 4
    assert [bar.name for bar in bars(attempt, 8)] == ["Load", "Build"]


def test_an_attempt_of_an_earlier_version_has_no_nodes() -> None:
    attempt = {"steps": [step("load", 0, 2)]}
    assert bars(attempt, 8, 10) == bars(attempt, 8)
    assert other_nodes(attempt, 10) == 0


@given(st.lists(st.tuples(st.floats(0, 1e5), st.floats(0, 1e5)), min_size=1), st.integers(1, 200))
def test_all_stay_within_the_width(spans: list[tuple[float, float]], width: int) -> None:
    steps = [step("x", begin, begin + length) for begin, length in spans]
    for bar in bars({"steps": steps}, width):
        assert bar.seconds is None or 0 <= bar.seconds <= 1e5 + 1
        assert bar.blanks + bar.blocks <= width
        assert (bar.blocks > 0) == (bar.seconds is not None)


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"steps": None},
        {"steps": "x"},
        {"steps": [None, 1, {}, {"started_at": "yesterday"}, {"started_at": 5, "completed_at": []}]},
        {"steps": [{"started_at": "0001-01-01T00:00:00", "completed_at": "9999-12-31T23:59:59"}]},
        {"steps": [step("load", 0, 2)], "nodes": []},
        {"steps": [step("load", 0, 2)], "nodes": {"slowest": 1, "others": "x"}},
        {"steps": [step("load", 0, 2)], "nodes": {"slowest": [1, {}, {"step": "load", "started_at": "x"}]}},
    ],
)
def test_records_of_somebody_else(record: dict[str, Any]) -> None:
    assert all(bar.blanks + bar.blocks <= 40 for bar in bars(record, nodes=5))
    assert other_nodes(record, 5) == 0


def test_moments() -> None:
    assert seconds_of("1970-01-01T00:00:01.500Z") == 1.5
    assert seconds_of("soon") is None
    assert seconds_of(None) is None
