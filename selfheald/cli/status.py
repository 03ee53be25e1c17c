"""``selfheald status``: what is ready, waiting, building, busy, failed, and why. Reads files alone."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selfheald.cli.output import ConfigOption, JsonOption, configuration, print_json
from selfheald.cli.progress import describe
from selfheald.errors import InitializationError, in_one_line
from selfheald.initialization_state import seconds_of
from selfheald.terminal import colour_allowed
from selfheald.workspace import Database, is_reachable, is_under, merge_roots, resolve_database

if TYPE_CHECKING:
    from selfheald.config import Config

_COLOURS = {"ready": "green", "failed": "red", "building": "cyan", "busy": "yellow", "waiting": "blue"}


def command(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="ROOT or DB",
            help="Roots, workspaces or databases. Default: watch.roots, else here.",
            show_default=False,
        ),
    ] = None,
    json: JsonOption = False,
    fail: Annotated[bool, typer.Option("--fail", help="Exit with 1 if any has failed.")] = False,
    config: ConfigOption = None,
) -> None:
    """Show where each database stands and why. Works with the daemon down.

    Exit codes: 0 shown, 1 with --fail if any has failed, 2 wrong usage or configuration.

    Example: selfheald status ~/workspaces
    """
    try:
        document = survey([str(path) for path in paths or ()], configuration(config))
    except InitializationError as error:
        if json:
            print_json({"format": 1, "daemons": [], "summary": _none(), "databases": [], "error": error.as_dict()})
        raise
    if json:
        print_json(document)
    else:
        _print(document)
    if fail and document["summary"]["failed"]:
        raise typer.Exit(1)


def survey(paths: Sequence[str], config: Config) -> dict[str, Any]:
    """The document of ``status --json`` for roots, folders and databases."""
    from selfheald.client import daemon_root
    from selfheald.presence import daemon_record
    from selfheald.scan import scan

    name = config.watch.database
    files = [resolve_database(path, name) for path in paths if not is_reachable(Path(path))]
    given = [Path(path) for path in paths if is_reachable(Path(path))]
    folders = merge_roots(given if paths else list(config.watch.roots) or [Path.cwd()])
    found = scan(folders, name, frozenset(config.watch.exclude))
    databases = sorted({*files, *(Database(path) for path in found.databases | found.requested | found.tried)})
    roots = {daemon_root(folder / name) or folder for folder in folders}
    roots |= {daemon_root(file.path) or file.folder for file in files}
    entries = [_entry(database) for database in databases]
    summary = _none()
    for entry in entries:
        summary[standing(entry)] += 1
    daemons = [daemon_record(root) for root in sorted(roots) if not _is_below_another(root, roots)]
    return {"format": 1, "daemons": daemons, "summary": summary, "databases": entries}


def _none() -> dict[str, int]:
    return dict.fromkeys(("ready", "waiting", "building", "busy", "failed"), 0)


def standing(entry: dict[str, Any]) -> str:
    """Which of the summary's words holds for a database."""
    status = entry["status"] or {}
    if entry["ready"]:
        return "ready"
    if status.get("state") == "failed":
        return "failed"
    if status.get("state") == "in_progress":
        return "building"
    return "busy" if status.get("reason") == "busy" else "waiting"


def _entry(database: Database) -> dict[str, Any]:
    from selfheald.locks import held
    from selfheald.marker import marker_state, read_status

    marker = marker_state(database)
    status = read_status(database)
    if status is not None and status.get("state") == "in_progress" and not held(database.lock):
        # Whoever was at work has been killed: the next start begins anew.
        status = {**status, "state": "not_started", "reason": None}
    return {
        "database": str(database),
        "workspace": str(database.workspace),
        "ready": marker == "valid",
        "marker": marker,
        "status": status,
    }


def _is_below_another(root: Path, roots: set[Path]) -> bool:
    return any(root != other and is_under(root, other) for other in roots)


def _why(entry: dict[str, Any]) -> str:
    status = entry["status"] or {}
    error = status.get("error")
    if standing(entry) == "ready":
        return ""
    if standing(entry) == "failed" and error and not status.get("next_attempt_at"):
        return f"{error['code']}: {in_one_line(error['message'])} → {error['hint']}"
    if entry["marker"] == "stale" and status.get("state") in (None, "completed"):
        return "changed since it was last checked"
    return describe(status) or "not checked yet"


def _print(document: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(no_color=not colour_allowed(), highlight=False)
    for daemon in document["daemons"]:
        if daemon["state"] == "down":
            line = f"No daemon watches {daemon['root']} (start one: selfheald run {daemon['root']})"
        else:
            line = f"Daemon PID {daemon['pid']} watches {daemon['root']}: {daemon['state']}, {daemon['watcher']}"
        console.print(Text(line), soft_wrap=True)
    if not document["databases"]:
        console.print("No databases here.")
        return
    base = os.path.commonpath([entry["workspace"] for entry in document["databases"]])
    if not console.is_terminal:
        for entry in document["databases"]:
            # Not by rich, which makes spaces of tabs.
            typer.echo(f"{standing(entry)}\t{entry['database']}\t{_why(entry)}".rstrip())
    else:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("workspace", "state", "since", "why and what now"):
            table.add_column(column, overflow="fold")
        for entry in document["databases"]:
            word = standing(entry)
            workspace = os.path.relpath(entry["workspace"], base)
            table.add_row(Text(workspace), Text(word, _COLOURS[word]), _since(entry), Text(_why(entry)))
        console.print(table)
    console.print(", ".join(f"{count} {word}" for word, count in document["summary"].items()))


def _since(entry: dict[str, Any]) -> str:
    status = entry["status"] or {}
    seconds = seconds_of(status.get("completed_at") or status.get("started_at"))
    return "" if seconds is None else time.strftime("%m-%d %H:%M", time.localtime(seconds))
