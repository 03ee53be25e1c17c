"""The terminal that this process was started on, if it was started on one, and its colours."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress


class Terminal:
    """Tells whether a hangup means that the terminal has gone, which ends a program; else it asks for a reload."""

    def __init__(self) -> None:
        self._was_there = _is_there()

    def is_gone(self) -> bool:
        """True if there was one, and is none any more."""
        return self._was_there and not _is_there()


def colour_allowed(environ: Mapping[str, str] | None = None) -> bool:
    """False where the user asked for no colours (``NO_COLOR``), or the terminal knows none."""
    environ = os.environ if environ is None else environ
    return not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


def _is_there() -> bool:
    for descriptor in (0, 1, 2):
        with suppress(OSError):
            if os.isatty(descriptor):
                return True
    return False
