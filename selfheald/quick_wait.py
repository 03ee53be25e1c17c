"""``selfheald wait`` on a database that is ready: answered before the command line is loaded, which takes far longer.

Simulators ask in loops and in scripts, and nearly always the answer is yes. Only a command line that can mean but one
thing is read here; whatever else it may be, and whatever else the answer may be, is left to the whole command, which
begins anew. A test compares both on all that is read here.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from selfheald.client import read_status, valid_marker
from selfheald.errors import InitializationError
from selfheald.workspace import Database, resolve_database

TYPE_CHECKING = False
if TYPE_CHECKING:  # the module itself would cost a tenth of what all of this does
    from typing import Any, TextIO

#: The document of ``wait --json`` while nothing is known.
BLANK: Mapping[str, Any] = {
    "format": 1,
    "database": None,
    "outcome": "failed",
    "origin": None,
    "waited_seconds": 0.0,
    "steps": [],
    "error": None,
}


@dataclass(frozen=True)
class Order:
    """What a command line of ``wait`` asks for, as far as it matters where the database is ready."""

    db: str | None
    json: bool


def order_in(arguments: Sequence[str]) -> Order | None:
    """The order that the arguments give; ``None`` if they need to be looked at more closely."""
    if list(arguments[:1]) != ["wait"]:
        return None
    names: list[str] = []
    as_json = timed = False
    rest = iter(arguments[1:])
    for word in rest:
        if word == "--json":
            as_json = True
        elif word == "--timeout" and not timed and _is_plain_number(next(rest, "")):
            timed = True
        elif word and not word.startswith("-"):
            names.append(word)
        else:
            return None
    return Order(names[0] if names else None, as_json) if len(names) < 2 else None


def is_answered(arguments: Sequence[str], environ: Mapping[str, str]) -> bool:
    """True if they asked to wait for a database that is ready, which they were told; else nothing was said or done."""
    began = time.monotonic()
    order = order_in(arguments)
    if order is None or "_SELFHEALD_COMPLETE" in environ or sys.stdout is None or sys.stderr is None:
        return False
    try:
        database = resolve_database(order.db)
        marker = valid_marker(database.path)
        if marker is None:
            return False
        # On a terminal the first sentence would be wiped away by the last one.
        first = "" if os.isatty(sys.stderr.fileno()) else f"{waiting_sentence(database)}\n"
        _write(sys.stderr, f"{first}{ready_sentence(time.monotonic() - began)}\n")
        if order.json:
            document = {
                "database": str(database),
                "outcome": "ready",
                "origin": marker.get("origin"),
                "waited_seconds": round(time.monotonic() - began, 3),
                "steps": (read_status(database.path) or {}).get("steps") or [],
            }
            _write(sys.stdout, json.dumps({**BLANK, **document}, indent=2, default=str) + "\n")
    except (InitializationError, OSError, ValueError):
        return False
    return True


def waiting_sentence(database: Database) -> str:
    """The first thing that a waiting person is told."""
    return f"Waiting for {database}"


def ready_sentence(seconds: float) -> str:
    """The last one, where nothing had to be made."""
    return f"Ready after {seconds:.1f} s: all tables are there, nothing was changed"


def _write(stream: TextIO, text: str) -> None:
    stream.write(text)
    stream.flush()


def _is_plain_number(text: str) -> bool:
    return text.isascii() and text.replace(".", "", 1).isdecimal()
