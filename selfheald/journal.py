"""The journal of a service manager, where stderr leads there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

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


def journal_command() -> str | None:
    """The command that shows what this process writes to the journal; ``None`` if it writes to none."""
    if not stderr_is_journal():
        return None
    try:
        group = Path("/proc/self/cgroup").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        group = ""
    return command_for(group, os.getpid())


def command_for(group: str, pid: int) -> str:
    """The command for a process in this control group: a unit of a user's, or of the system's."""
    units = [part for part in group.split("/") if part.endswith(".service")]
    if not units:
        return f"journalctl _PID={pid}"
    of_user = any(unit.startswith("user@") for unit in units[:-1])
    return f"journalctl {'--user ' if of_user else ''}-u {units[-1]}"
