"""``selfheald status``: what is ready, waiting, building, busy, failed, and why. Reads files alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selfheald.cli.output import ConfigOption, JsonOption, configuration, print_json
from selfheald.cli.standings import common_folder, daemon_line, start_command, tabbed_line, table
from selfheald.errors import InitializationError
from selfheald.terminal import colour_allowed

if TYPE_CHECKING:
    from selfheald.config import Config
    from selfheald.overview import Entry, Overview, Places

#: On a terminal, where there are more databases, those that are ready are left out.
_ALL_SHOWN = 200


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
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Go on showing it until Ctrl-C; with --json a line for each change.")
    ] = False,
    fail: Annotated[bool, typer.Option("--fail", help="Exit with 1 if any has failed.")] = False,
    config: ConfigOption = None,
) -> None:
    """Show where each database stands and why. Works with the daemon down.

    Of a single database or workspace it tells all that is known, and the next step.

    Exit codes: 0 shown, 1 with --fail if any has failed, 2 wrong usage or configuration.

    Example: selfheald status ~/workspaces
    """
    from selfheald.overview import find_places, look, summary
    from selfheald.standing import Standing

    if watch and fail:
        raise typer.BadParameter("--watch has no end that could tell of a failure: leave out one of them.")
    try:
        effective = configuration(config)
        places = find_places([str(path) for path in paths or ()], effective)
    except InitializationError as error:
        if json:
            print_json({"format": 1, "daemons": [], "summary": summary({}), "databases": [], "error": error.as_dict()})
        raise
    if watch:
        from selfheald.cli import status_watch

        raise typer.Exit(status_watch.watch(places, as_json=json))
    overview = look(places)
    if json:
        print_json(overview.as_dict())
    else:
        _print(overview, places, effective)
    if fail and overview.counts()[Standing.FAILED]:
        raise typer.Exit(1)


def _print(overview: Overview, places: Places, config: Config) -> None:
    from rich.console import Console
    from rich.text import Text

    from selfheald.overview import summary

    console = Console(no_color=not colour_allowed(), highlight=False)
    alone = _the_one_meant(overview, places)
    if alone is not None:
        from selfheald.cli.status_of_one import print_one

        print_one(console, overview, alone, config)
        return
    for daemon in overview.daemons:
        start = start_command(Path(daemon["root"])) if daemon["state"] == "down" else None
        console.print(Text(daemon_line(daemon, start)), soft_wrap=True)
    if not overview.entries:
        console.print("No databases here.")
        return
    if console.is_terminal:
        many = len(overview.entries) > _ALL_SHOWN
        shown = [entry for entry in overview.entries if not (many and entry.is_ready)]
        if shown:
            console.print(table(overview, shown, console.width, common_folder(shown)))
        if len(shown) < len(overview.entries):
            console.print("What is ready is not shown: it is many. All: --json, or into a file.", style="dim")
    else:
        for entry in overview.entries:
            # Not by rich, which makes spaces of tabs.
            typer.echo(tabbed_line(overview, entry))
    console.print(", ".join(f"{count} {word}" for word, count in summary(overview.counts()).items()))


def _the_one_meant(overview: Overview, places: Places) -> Entry | None:
    """The one database, if that or its workspace is what was asked about."""
    if len(overview.entries) != 1 or len(places.files) + len(places.folders) != 1:
        return None
    [entry] = overview.entries
    is_meant = bool(places.files) or places.folders[0] in (entry.database.folder, entry.database.workspace)
    return entry if is_meant else None
