"""``selfheald service``: installs it for the service manager, takes it away, shows how it stands."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from selfheald.cli.output import ConfigOption
from selfheald.service.order import DEFAULT_USER, Given

app = typer.Typer(
    name="service",
    help="Have systemd or launchd run selfheald.",
    no_args_is_help=True,
)

RootsArgument = Annotated[
    list[Path] | None,
    typer.Argument(metavar="ROOT", help="Folders to watch; they replace watch.roots.", show_default=False),
]
SystemOption = Annotated[bool, typer.Option("--system", help="One service for the whole machine (as root).")]
UserOption = Annotated[
    str | None,
    typer.Option(
        "--user-name",
        metavar="NAME",
        help=f"With --system: as whom it runs. Default: {DEFAULT_USER}.",
        show_default=False,
    ),
]
GroupOption = Annotated[
    str | None,
    typer.Option(
        "--group", metavar="NAME", help="With --system: its group. Default: the user's own.", show_default=False
    ),
]


@app.command("install", epilog="Example: selfheald service install ~/workspaces")
def install_command(
    roots: RootsArgument = None,
    system: SystemOption = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the file that would be installed, and do nothing.")
    ] = False,
    config: ConfigOption = None,
    user_name: UserOption = None,
    group: GroupOption = None,
) -> None:
    """Write the service's file for this selfheald, start it, and wait until it is ready.

    Without --system it is a service of your own. What stays as it is is not restarted.
    """
    from selfheald.service import planning
    from selfheald.service.files import file_for

    given = _given(roots, system, config, user_name, group)
    order, _ = planning.planned(given, os.environ)
    for name in planning.unheard(os.environ):
        typer.echo(f"note: {name} is set here, and not for the service: put it into selfheald.toml", err=True)
    if dry_run:
        typer.echo(file_for(order), nl=False)
        return


def _given(
    roots: list[Path] | None, system: bool, config: Path | None, user_name: str | None, group: str | None
) -> Given:
    if (user_name or group) and not system:
        raise typer.BadParameter("--user-name and --group are for --system: a service of your own runs as you.")
    absolute = tuple(str(root.expanduser().absolute()) for root in roots or ())
    return Given(system, absolute, None if config is None else str(config.absolute()), user_name, group)
