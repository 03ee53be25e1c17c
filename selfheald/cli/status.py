"""``selfheald status``: what is ready, waiting, building, busy, failed, and why. Reads files alone."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selfheald.cli.output import ConfigOption, JsonOption, configuration, print_json
from selfheald.errors import InitializationError
from selfheald.explanation import in_a_line
from selfheald.initialization_state import seconds_of
from selfheald.printable import one_line
from selfheald.terminal import colour_allowed

if TYPE_CHECKING:
    from selfheald.overview import Entry, Overview

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

    Example: selfheald status ~/workspaces
    """
    from selfheald.overview import summary, survey
    from selfheald.standing import Standing

    try:
        overview = survey([str(path) for path in paths or ()], configuration(config))
    except InitializationError as error:
        if json:
            print_json({"format": 1, "daemons": [], "summary": summary({}), "databases": [], "error": error.as_dict()})
        raise
    if json:
        print_json(overview.as_dict())
    else:
        _print(overview)
    if fail and overview.counts()[Standing.FAILED]:
        raise typer.Exit(1)


def _print(overview: Overview) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from selfheald.overview import summary

    console = Console(no_color=not colour_allowed(), highlight=False)
    for daemon in overview.daemons:
        if daemon["state"] == "down":
            line = f"No daemon watches {daemon['root']} (start one: selfheald run {daemon['root']})"
        else:
            line = f"Daemon PID {daemon['pid']} watches {daemon['root']}: {daemon['state']}, {daemon['watcher']}"
        console.print(Text(one_line(line)), soft_wrap=True)
    if not overview.entries:
        console.print("No databases here.")
        return
    base = os.path.commonpath([entry.database.workspace for entry in overview.entries])
    if not console.is_terminal:
        for entry in overview.entries:
            # Not by rich, which makes spaces of tabs.
            words = entry.standing.value, str(entry.database), in_a_line(overview.view(entry))
            typer.echo("\t".join(map(one_line, words)).rstrip())
    else:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("workspace", "state", "since", "why and what now"):
            table.add_column(column, overflow="fold")
        for entry in overview.entries:
            word = entry.standing.value
            workspace = one_line(os.path.relpath(entry.database.workspace, base))
            why = one_line(in_a_line(overview.view(entry)))
            table.add_row(Text(workspace), Text(word, _COLOURS[word]), _since(entry), Text(why))
        console.print(table)
    console.print(", ".join(f"{count} {word}" for word, count in summary(overview.counts()).items()))


def _since(entry: Entry) -> str:
    status = entry.status or {}
    seconds = seconds_of(status.get("completed_at") or status.get("started_at"))
    return "" if seconds is None else time.strftime("%m-%d %H:%M", time.localtime(seconds))
