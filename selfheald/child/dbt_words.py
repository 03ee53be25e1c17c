"""What dbt and DuckDB say, made fit for a status file, a terminal and a log."""

from __future__ import annotations

import re

#: Longer messages are cut (characters): they go into the status file and the history.
MAX_MESSAGE = 4000
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_COMPILED = re.compile(r"\s*compiled code at \S+", re.IGNORECASE)


def as_said(text: object) -> str:
    """The message in its own layout, which is part of what it tells: a pointer stands below what it points at.

    Left out are blank lines, colours, and the place of dbt's own compiled code, since that folder does not last.
    """
    lines = _COMPILED.sub("", _ANSI.sub("", str(text).replace("\r\n", "\n"))).split("\n")
    kept = "\n".join(line.rstrip() for line in lines if line.strip())
    said = _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", kept).strip()
    return said if len(said) <= MAX_MESSAGE else said[: MAX_MESSAGE - 1] + "…"


def one_line(text: object) -> str:
    """The message without its layout."""
    return " ".join(as_said(text).split())
