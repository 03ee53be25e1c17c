"""Judges what earlier runs left behind, and the daemon that runs now. Values in, findings out."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selfheald.diagnosis.findings import Finding, green, red, yellow
from selfheald.diagnosis.judge_places import format_size

#: So many paths are named; of more, only the number is told.
NAMED = 3


@dataclass(frozen=True, slots=True)
class Traces:
    """What lies in the roots: staging folders that nobody holds, databases set aside and their bytes together.

    ``complete`` is false if the search was broken off.
    """

    staging: tuple[Path, ...] = ()
    aside: tuple[Path, ...] = ()
    aside_bytes: int = 0
    complete: bool = True


@dataclass(frozen=True, slots=True)
class Watcher:
    """What watches a root: the daemon's record; ``root`` is the folder that it has claimed, perhaps one above."""

    path: Path
    root: Path
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_running(self) -> bool:
        return bool(self.record.get("state", "down") != "down")


def judge_traces(found: Traces) -> list[Finding]:
    """Leftovers do no harm: the next attempt removes them. What was set aside is a person's to delete."""
    more = "" if found.complete else " so far"
    if found.staging:
        message = f"{_number(found.staging, 'staging folder')} of killed attempts{more}: {_named(found.staging)}"
        first = shlex.quote(str(found.staging[0].parent.parent))
        hint = (
            f"A daemon removes them when it next looks at the database; now, for the first: `selfheald ensure {first}`"
        )
        leftovers = yellow("leftovers", message, hint)
    else:
        leftovers = green("leftovers", f"nothing is left of killed attempts{more}")
    aside = f"{_number(found.aside, 'file')} set aside by `selfheald repair --quarantine`{more}"
    size = f", {format_size(found.aside_bytes)}: {_named(found.aside)}" if found.aside else ""
    return [leftovers, green("set_aside", f"{aside}{size}")]


def judge_suspects(suspects: Sequence[Path] | OSError) -> Finding:
    """Databases whose reading ended a daemon, or was not done in time; an error: the notes cannot be read."""
    if isinstance(suspects, OSError):
        message = f"the daemons' notes in {suspects.filename} cannot be read: {suspects.strerror}"
        return yellow("suspects", message, "Run doctor as the user of the daemon.")
    if not suspects:
        return green("suspects", "no database was being read when a daemon died")
    message = f"a daemon died while it read {_number(suspects, 'database')}: {_named(suspects)}"
    return yellow("suspects", message, "They are read in a process apart; see them with `selfheald status`.")


def judge_daemons(watchers: Sequence[Watcher], *, version: str, database: str, mode: str, uid: int) -> list[Finding]:
    """Of each root: does a daemon watch it, and as it is configured? ``uid`` is the user whose rights were judged."""
    return [_judge_daemon(each, version, database, mode, uid) for each in watchers]


def _judge_daemon(watcher: Watcher, version: str, database: str, mode: str, uid: int) -> Finding:
    record, root = watcher.record, shlex.quote(str(watcher.path))
    if not watcher.is_running:
        hint = f"Start one: `selfheald run {root}`, or as a service."
        return yellow("daemon", f"no daemon watches {watcher.path}", hint)
    pid, state, kind = record.get("pid"), record.get("state"), record.get("watcher")
    above = f", as part of {watcher.root}" if watcher.root != watcher.path else ""
    message = f"PID {pid} watches {watcher.path}{above}: {state}, {kind}"
    if record.get("version") != version:
        return yellow("daemon", f"{message}; its version is {record.get('version')}, not {version}", "Restart it.")
    if record.get("database") not in (None, database):
        hint = "Restart it with this configuration."
        return red("daemon", f"{message}; it looks for {record['database']}, not {database}", hint)
    if kind == "degraded":
        return yellow(
            "daemon", f"{message}: part of it is gone, or without events", "Its log tells which part, and why."
        )
    if kind == "polling" and mode == "native":
        return yellow("daemon", f"{message}, though watch.mode is native", "Restart it with this configuration.")
    owner = record.get("uid")
    if isinstance(owner, int) and owner != uid:  # anybody may have written the record
        hint = f"Judge what that user may do: `sudo selfheald doctor --user {owner}`"
        return yellow("daemon", f"{message}; it runs as user {owner}, and the rights of user {uid} were judged", hint)
    return green("daemon", message)


def _number(items: Sequence[object], what: str) -> str:
    return f"{len(items)} {what}" + ("" if len(items) == 1 else "s")


def _named(paths: Sequence[Path]) -> str:
    more = f" and {len(paths) - NAMED} more" if len(paths) > NAMED else ""
    return ", ".join(map(str, paths[:NAMED])) + more
