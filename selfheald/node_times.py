"""Which dbt nodes an attempt ran, when, and how long each took: what the child tells of them, for the history."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from selfheald.initialization_state import iso_time

#: So many nodes of an attempt are kept, the slowest; of the others only their number.
KEPT = 50


@dataclass(slots=True)
class NodeTimes:
    """The nodes of one attempt, in the order in which they began. Moments are seconds since the epoch."""

    _told: dict[str, dict[str, Any]] = field(default_factory=dict)

    def take(self, event: Mapping[str, Any], step: str | None, now: float) -> None:
        """Note what the child tells of a node ``now``, while ``step`` is running."""
        node = self._told.setdefault(
            str(event.get("unique_id") or event["name"]),
            {
                "name": str(event["name"]),
                "step": step,
                "status": "running",
                "started_at": iso_time(now),
                "completed_at": None,
                "duration_seconds": None,
            },
        )
        if event["state"] == "finished":
            node["status"], node["duration_seconds"] = event.get("status"), event.get("seconds")
            node["completed_at"] = iso_time(now)

    def as_dict(self, keep: int = KEPT) -> dict[str, Any]:
        """``nodes`` of an attempt in the history: the slowest ones, in their order, and how many ``others`` ran.

        One that did not come to its end counts as the slowest: that is where the attempt stood.
        """
        nodes = list(self._told.values())
        by_length = sorted(nodes, key=_length, reverse=True)
        kept = {id(node) for node in by_length[:keep]}
        return {"slowest": [node for node in nodes if id(node) in kept], "others": max(0, len(nodes) - keep)}


def _length(node: Mapping[str, Any]) -> float:
    seconds = node["duration_seconds"]
    return float("inf") if seconds is None else float(seconds)
