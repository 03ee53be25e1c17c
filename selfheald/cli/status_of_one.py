"""``selfheald status DB``: one database in a paragraph: whether it is ready, and if not, why, and what now."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfheald.cli.standings import COLOURS, daemon_line
from selfheald.explanation import Explanation, View, describe_holder, describe_tables, explain
from selfheald.initialization_state import seconds_of
from selfheald.printable import one_line, shell_word
from selfheald.standing import Standing

if TYPE_CHECKING:
    from rich.console import Console

    from selfheald.config import Config
    from selfheald.overview import Entry, Overview
    from selfheald.workspace import Database

#: So many past attempts, and lines of the log, are shown.
_ATTEMPTS, _LINES = 3, 6

#: A label and what stands behind it, in lines.
Fact = tuple[str, list[str]]


def print_one(console: Console, overview: Overview, entry: Entry, config: Config) -> None:
    """All that is known of one database, and the next step."""
    from rich.table import Table
    from rich.text import Text

    from selfheald.cli.standings import start_command
    from selfheald.overview import look_closer

    view = overview.view(entry)
    view = look_closer(overview, entry, start_command(Path(view.root)) if view.daemon is None else None)
    told = explain(view)
    verdict = "ready" if told.is_ready else "not ready"
    title = [Text(one_line(view.database), "bold"), Text(f"{verdict}: ", COLOURS[entry.standing])]
    title[1].append(one_line(told.why), "default")
    facts = [*_facts(view, told, entry.database), *_past(entry.database, overview, config)]
    if not console.is_terminal:
        lines = [text.plain for text in title]
        for label, texts in facts:
            lines += [f"  {label if number == 0 else '':<10}{one_line(text)}" for number, text in enumerate(texts)]
        lines += [f"→ {one_line(told.advice)}", *(f"  {command}" for command in told.commands)]
        console.print(Text("\n".join(lines)), soft_wrap=True)
        return
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, texts in facts:
        grid.add_row(f"  {label}", Text("\n".join(map(one_line, texts))))
    console.print(*title, grid, Text(f"→ {one_line(told.advice)}", "bold"), sep="\n")
    for command in told.commands:
        # Never folded: it is to be copied.
        console.print(Text(f"  {command}", "cyan"), soft_wrap=True)


def _facts(view: View, told: Explanation, database: Database) -> list[Fact]:
    """What is so now."""
    status, error = view.status or {}, view.error
    facts: list[Fact] = [("decision", [told.decision])]
    if view.standing is Standing.READY:
        facts += _of_marker(database)
    missing = describe_tables(status.get("missing_tables_found"))
    if missing and view.standing is not Standing.READY:
        facts.append(("missing", [missing]))
    holder = view.holder or (status.get("holder") if view.standing is Standing.BUSY else None)
    if holder and (held := describe_holder(holder)) not in told.why:
        facts.append(("held by", [held]))
    said = str(error.get("message") or "").splitlines()
    if len(said) > 1:  # what dbt or DuckDB said keeps its layout
        facts.append(("error", said))
    if error.get("path") not in (None, view.database):
        facts.append(("path", [str(error["path"])]))
    if error.get("log"):
        facts.append(("log", [str(error["log"])]))
    warnings = status.get("warnings")
    if isinstance(warnings, list) and warnings:
        facts.append(("warnings", list(map(str, warnings))))
    line = daemon_line(view.daemon or {"root": view.root, "state": "down"}, view.start)
    return [*facts, ("daemon", [line.removeprefix("Daemon ")])]


def _of_marker(database: Database) -> list[Fact]:
    from selfheald.client import read_record

    marker = read_record(database.marker) or {}
    tables = marker.get("tables")
    counts = ", ".join(f"{count} {tier}" for tier, count in tables.items()) if isinstance(tables, dict) else ""
    how = {"dbt": "made by dbt", "template": "made from a template", "adopted": "found complete"}
    made = how.get(str(marker.get("origin")), "of unknown origin")
    at = "" if marker.get("initialized_at") is None else f" {_moment(marker['initialized_at'])}"
    return [("tables", [f"{counts}; {made}{at}, checked {_moment(marker.get('checked_at'))}"])]


def _past(database: Database, overview: Overview, config: Config) -> list[Fact]:
    """What has happened: the last attempts, and the last lines of the log."""
    from selfheald.marker import read_history

    facts: list[Fact] = []
    attempts = read_history(database)
    if attempts:
        more = [f"all: selfheald history {shell_word(str(database))}"] if len(attempts) > _ATTEMPTS else []
        facts.append(("attempts", [*map(_attempt, attempts[-_ATTEMPTS:]), *more]))
    lines = _last_lines(database, [Path(each["root"]) for each in overview.daemons], config)
    if lines:
        facts.append(("events", lines))
    return facts


def _attempt(record: Mapping[str, Any]) -> str:
    began, ended = seconds_of(record.get("started_at")), seconds_of(record.get("completed_at"))
    took = "" if began is None or ended is None else f" in {ended - began:.1f} s"
    made = record.get("tables_created")
    what = f", {len(made)} tables made" if isinstance(made, list) and made else ""
    error = record.get("error")
    code = f": {error.get('code')}" if isinstance(error, Mapping) else ""
    return f"{_moment(record.get('started_at'))} {record.get('outcome')}{took}{what} ({record.get('trigger')}){code}"


def _last_lines(database: Database, roots: Sequence[Path], config: Config) -> list[str]:
    """What the daemon logged last about this database, if its log is a file that we may read."""
    from selfheald.log_reading import Filter, parsed, tail_of
    from selfheald.presence import log_of

    told = [Path(str(file)) for root in roots if (file := log_of(root).get("file"))]
    wanted = Filter(frozenset({str(database)}), "INFO")
    for file in (*told, *([] if config.log.file is None else [config.log.file])):
        entries = [entry for line in tail_of(file) if (entry := parsed(line, ())) is not None and wanted.wants(entry)]
        if entries:
            return [
                f"{'' if entry.time is None else entry.time.astimezone().strftime('%m-%d %H:%M:%S')} {entry.message}"
                for entry in entries[-_LINES:]
            ]
    return []


def _moment(text: object) -> str:
    """In local time."""
    seconds = seconds_of(text)
    return "at an unknown time" if seconds is None else time.strftime("%m-%d %H:%M:%S", time.localtime(seconds))
