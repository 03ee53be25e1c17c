"""Which dbt nodes an attempt ran, and how long each took."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from selfheald.node_times import NodeTimes

NOW = 1_795_449_600.0  # 2026-11-23T16:00:00Z


def event(name: str, state: str, seconds: float | None = None) -> dict[str, Any]:
    status = "success" if state == "finished" else "started"
    return {"event": "node", "unique_id": f"model.x.{name}", "name": name, "state": state, "status": status,
            "seconds": seconds}  # fmt: skip


def test_a_node_from_start_to_end() -> None:
    times = NodeTimes()
    times.take(event("a", "started"), "load_seeds", NOW)
    times.take(event("b", "started"), "build_foundation", NOW + 1)
    times.take(event("a", "finished", 1.5), "build_foundation", NOW + 1.5)
    assert times.as_dict() == {
        "slowest": [
            {
                "name": "a",
                "step": "load_seeds",
                "status": "success",
                "started_at": "2026-11-23T16:00:00.000Z",
                "completed_at": "2026-11-23T16:00:01.500Z",
                "duration_seconds": 1.5,
            },
            {
                "name": "b",
                "step": "build_foundation",
                "status": "running",
                "started_at": "2026-11-23T16:00:01.000Z",
                "completed_at": None,
                "duration_seconds": None,
            },
        ],
        "others": 0,
    }


def test_none() -> None:
    assert NodeTimes().as_dict() == {"slowest": [], "others": 0}


@given(st.lists(st.none() | st.floats(0, 1e4), max_size=30), st.integers(0, 10))
def test_the_slowest_are_kept_in_their_order(lengths: list[float | None], keep: int) -> None:
    times = NodeTimes()
    for number, seconds in enumerate(lengths):
        times.take(event(str(number), "started"), "build_foundation", NOW)
        if seconds is not None:
            times.take(event(str(number), "finished", seconds), "build_foundation", NOW)
    found = times.as_dict(keep)
    kept = [int(node["name"]) for node in found["slowest"]]
    assert kept == sorted(kept)
    assert len(kept) + found["others"] == len(lengths)
    assert len(kept) == min(keep, len(lengths))
    infinite = [float("inf") if seconds is None else seconds for seconds in lengths]
    left = [seconds for number, seconds in enumerate(infinite) if number not in kept]
    assert not kept or not left or min(infinite[number] for number in kept) >= max(left)
