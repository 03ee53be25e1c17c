"""The rows of the page: each database as its files tell. Nothing is opened but status files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfheald.errors import in_one_line
from selfheald.initialization_state import seconds_of
from selfheald.marker import read_status
from selfheald.standing import URGENCY, Standing
from selfheald.workspace import Database

#: Databases that a page shows; of more, those that somebody may want to do something about.
MOST_ROWS = 200


@dataclass(frozen=True, slots=True)
class Row:
    """One database for a person. ``since`` is in seconds since the epoch; ``done`` and ``total`` are dbt nodes."""

    database: str
    workspace: str
    standing: Standing
    why: str = ""
    advice: str = ""
    since: float | None = None
    done: int = 0
    total: int = 0


def first_ones(listed: Iterable[tuple[Path, Standing]], most: int) -> list[tuple[Path, Standing]]:
    """At most so many: what is not ready before what is."""
    return sorted(listed, key=lambda each: (URGENCY.index(each[1]), each[0]))[:most]


def read_rows(listed: Sequence[tuple[Path, Standing]]) -> list[Row]:
    """A row for each of these databases, in their order."""
    return [row(Database(path), standing, read_status(Database(path)) or {}) for path, standing in listed]


def row(database: Database, standing: Standing, status: Mapping[str, Any]) -> Row:
    """The row of a database whose daemon says that it stands there, by its status record.

    The record is a file that others can write: whatever is in it is text, or is left out.
    """
    why, advice = _explained(standing, status)
    progress = _mapping(status.get("progress")) if standing is Standing.BUILDING else {}
    return Row(
        database=str(database),
        workspace=str(database.workspace),
        standing=standing,
        why=why,
        advice=advice,
        since=seconds_of(status.get("completed_at") or status.get("started_at")),
        done=_number(progress.get("done")),
        total=_number(progress.get("total")),
    )


def _explained(standing: Standing, status: Mapping[str, Any]) -> tuple[str, str]:
    """Why it stands there, and what can be done about it."""
    if standing is Standing.READY:
        return "", ""
    if standing is Standing.FAILED:
        error = _mapping(status.get("error"))
        told = f"{error.get('code') or 'failed'}: {in_one_line(str(error.get('message') or 'the attempt failed'))}"
        again = "It is tried again by itself. " if status.get("next_attempt_at") else ""
        return told, again + str(error.get("hint") or "")
    if standing is Standing.BUSY:
        # Without its command line, which may hold what is not everybody's.
        pid = _mapping(status.get("holder")).get("pid")
        return "busy: " + (f"PID {pid} has it open" if pid else "another process has it open"), "Close it there."
    if standing is Standing.BUILDING:
        steps = [_mapping(step) for step in status.get("steps") or () if isinstance(status.get("steps"), list)]
        running = next((step for step in steps if step.get("status") == "running"), {})
        node = _mapping(status.get("progress")).get("node") or ""
        return f"{running.get('display_name') or 'Checking tables'}… {node}".rstrip(), ""
    if status.get("reason") == "queued":
        position = status.get("queue_position")
        return (f"queued: {position} before it" if position else "queued: next"), ""
    return "not checked yet", ""


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _number(value: object) -> int:
    return value if type(value) is int and 0 <= value < 1 << 53 else 0
