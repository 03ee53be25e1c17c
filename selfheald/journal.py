"""The journal of a service manager, where stderr leads there."""

from __future__ import annotations

import os
from collections.abc import Mapping

#: How the journal spells the levels, as syslog does.
_PRIORITIES = {"TRACE": 7, "DEBUG": 7, "INFO": 6, "SUCCESS": 6, "WARNING": 4, "ERROR": 3, "CRITICAL": 2}


def stderr_is_journal(environ: Mapping[str, str] | None = None) -> bool:
    """True if whatever is written to stderr goes to the journal of a service manager."""
    named = (os.environ if environ is None else environ).get("JOURNAL_STREAM")
    try:
        found = os.fstat(2)
    except OSError:
        return False
    return named == f"{found.st_dev}:{found.st_ino}"


def as_journal_line(line: str, level: str) -> str:
    """A line as the journal reads its level off it."""
    return f"<{_PRIORITIES.get(level, 6)}>{line}"
