"""How long the steps of an attempt took, and when, as bars that stand one below the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from selfheald.initialization_state import seconds_of

#: Characters that fit beside the names on a terminal of 80.
WIDTH = 40


@dataclass(frozen=True, slots=True)
class Bar:
    """A step that took so many ``seconds``, as characters: so many blanks, then so many blocks. None for one that has
    no beginning or no end."""

    name: str
    status: str
    seconds: float | None = None
    blanks: int = 0
    blocks: int = 0


def bars(attempt: Mapping[str, Any], width: int = WIDTH) -> list[Bar]:
    """The steps of an attempt (a status record, or one of the history) that began, within ``width`` characters.

    Records are files that others can write: what in them is no time is passed over.
    """
    found = attempt.get("steps")
    steps = [step for step in found if isinstance(step, Mapping)] if isinstance(found, list) else []
    spans = [(step, seconds_of(step.get("started_at")), seconds_of(step.get("completed_at"))) for step in steps]
    begins = [begin for _, begin, _ in spans if begin is not None]
    ends = [end for _, _, end in spans if end is not None]
    if not begins:
        return []
    first, whole = min(begins), max([*ends, *begins]) - min(begins)
    made = []
    for step, begin, end in spans:
        if begin is None:
            continue
        name, status = str(step.get("display_name") or step.get("name")), str(step.get("status"))
        if end is None or end < begin or not whole:
            made.append(Bar(name, status))
            continue
        blanks = min(width - 1, int(width * (begin - first) / whole))
        blocks = max(1, min(width - blanks, round(width * (end - begin) / whole)))
        made.append(Bar(name, status, end - begin, blanks, blocks))
    return made
