"""The terminal that this process was started on, if it was started on one, and its colours."""

from __future__ import annotations

import os
from collections.abc import Mapping


class Terminal:
    """Tells whether a hangup means that the terminal has gone, which ends a program; else it asks for a reload."""

    def __init__(self) -> None:
        self._descriptors = [each for each in (0, 1, 2) if _is_terminal(each)]

    def is_gone(self) -> bool:
        """True if there was one, and is none any more."""
        return bool(self._descriptors) and not any(map(_is_terminal, (0, 1, 2)))

    def let_go(self) -> None:
        """What is still said to it goes nowhere: at its end Python would take a failure to write for the program's."""
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for each in self._descriptors:
            os.dup2(null, each)
        os.close(null)


def colour_allowed(environ: Mapping[str, str] | None = None) -> bool:
    """False where the user asked for no colours (``NO_COLOR``), or the terminal knows none."""
    environ = os.environ if environ is None else environ
    return not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


def _is_terminal(descriptor: int) -> bool:
    try:
        return os.isatty(descriptor)
    except OSError:
        return False
