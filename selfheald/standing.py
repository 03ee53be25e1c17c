"""How many databases stand where, and that in a few words."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any


class Standing(Enum):
    """Where a database stands, in the words of ``selfheald status``."""

    READY = "ready"
    BUILDING = "building"
    WAITING = "waiting"
    BUSY = "busy"
    FAILED = "failed"


#: What comes first where not all can be shown.
URGENCY = (Standing.BUILDING, Standing.FAILED, Standing.BUSY, Standing.WAITING, Standing.READY)


def standing_of(ready: bool, status: Mapping[str, Any] | None) -> Standing:
    """Where a database stands whose marker is valid (``ready``) or not, as its status record tells."""
    status = status or {}
    if ready:
        return Standing.READY
    if status.get("state") == "failed":
        return Standing.FAILED
    if status.get("state") == "in_progress":
        return Standing.BUILDING
    return Standing.BUSY if status.get("reason") == "busy" else Standing.WAITING


def in_words(counts: Mapping[Standing, int], progress: Mapping[str, Any] | None = None) -> str:
    """``12 ready, 1 building 3/10, 1 failed``. ``progress`` is that of the status record of what is being built."""
    words = []
    for standing in Standing:
        count = counts.get(standing, 0)
        if count:
            done = f" {progress['done']}/{progress['total']}" if standing is Standing.BUILDING and progress else ""
            words.append(f"{count} {standing.value}{done}")
    return ", ".join(words) or "no databases"
