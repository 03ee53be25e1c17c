"""``selfheald service``: installs it for the service manager, takes it away, shows how it stands."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selfheald.cli.output import ConfigOption, JsonOption, print_error, print_json
from selfheald.cli.progress import Progress
from selfheald.errors import InitializationError
from selfheald.printable import one_line
from selfheald.service.order import DEFAULT_USER, Given

if TYPE_CHECKING:
    from selfheald.service.installing import Standing

_DONE = {"installed": "Installed", "renewed": "Renewed", "started": "Started, unchanged", "unchanged": "Unchanged"}

app = typer.Typer(
    name="service",
    help="Have systemd or launchd run selfheald.\n\nExit codes: 0 done, 1 failed, 2 wrong usage or configuration.",
    epilog="Example: selfheald service install ~/workspaces",
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

    Without --system it is a service of your own. One that runs and stays as it is is not restarted.

    Exit codes: 0 it runs, 1 failed, 2 wrong usage or configuration.
    """
    from selfheald.config import warnings
    from selfheald.service import installing, planning

    given = _given(roots, system, config, user_name, group)
    manager = installing.manager_for(system, os.environ)
    order, effective = planning.planned(given, os.environ)
    for note in [*warnings(effective), *planning.unheard(os.environ)]:
        typer.echo(f"note: {note}", err=True)
    if dry_run:
        typer.echo(manager.text_for(order), nl=False)
        return
    with _told_with_one(), Progress("Installing the service") as progress:
        done = installing.install(order, manager, lambda text: progress.say(f"Installing: {text}"))
    typer.echo(f"{_DONE[done]}: {manager.file}")
    _print(installing.standing(manager, os.environ))
    for note in manager.notes():
        typer.echo(f"note: {note}", err=True)


@app.command("uninstall", epilog="Example: sudo selfheald service uninstall --system")
def uninstall_command(
    system: SystemOption = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print which file would be removed, and do nothing.")
    ] = False,
) -> None:
    """Stop the service and remove its file. Workspaces, configuration, state and logs stay as they are.

    Exit codes: 0 it is gone, 1 failed, 2 wrong usage.
    """
    from selfheald.service import installing

    manager = installing.manager_for(system, os.environ)
    if dry_run:
        if manager.file.exists():
            typer.echo(str(manager.file))
        return
    with _told_with_one(), Progress("Stopping the service"):
        removed = installing.uninstall(manager, Given(system))
    typer.echo(f"Removed: {manager.file}" if removed else f"Not installed: there is no {manager.file}")


@app.command("show", epilog="Example: selfheald service show --json")
def show_command(
    roots: RootsArgument = None,
    system: SystemOption = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show whether it is installed and runs, what it says, and whether its file is still what it should be.

    It is compared with what was said when it was installed, or with ROOT and --config, where they are given.

    Exit codes: 0 it runs, 1 it does not, 2 wrong usage or configuration.
    """
    from selfheald.service import installing

    manager = installing.manager_for(system, os.environ)
    wanted = _given(roots, system, config, None, None) if roots or config else None
    standing = installing.standing(manager, os.environ, wanted)
    if json:
        print_json(standing.as_dict())
    else:
        _print(standing)
    if not standing.condition.active:
        raise typer.Exit(1)


def _print(standing: Standing) -> None:
    condition = standing.condition
    if standing.given is None:
        typer.echo(f"Not installed: there is no {standing.manager.file}")
        return
    pid = "" if condition.pid is None else f", PID {condition.pid}"
    starts = "starts by itself" if condition.enabled else "does not start by itself"
    typer.echo(f"service  {condition.detail}{pid}, {starts}")
    if condition.status:
        typer.echo(f"status   {one_line(condition.status)}")
    if standing.another is not None:
        typer.echo(f"file     {standing.manager.file}, of the selfheald that {one_line(standing.another)} runs")
    elif standing.outdated is None:
        typer.echo(f"file     {standing.manager.file}, up to date")
    else:
        typer.echo(f"file     {standing.manager.file}, out of date: {one_line(standing.outdated)}")
        typer.echo(f"         renew it: {one_line(standing.install_command)}")
    typer.echo(f"log      {standing.manager.log_command}")


@contextmanager
def _told_with_one() -> Iterator[None]:
    """Where no service could be started the exit code is 1: 4 says that nobody watches a certain path."""
    try:
        yield
    except InitializationError as error:
        if error.code != "no_daemon":
            raise
        print_error(error)
        raise typer.Exit(1) from None


def _given(
    roots: list[Path] | None, system: bool, config: Path | None, user_name: str | None, group: str | None
) -> Given:
    if (user_name or group) and not system:
        raise typer.BadParameter("--user-name and --group are for --system: a service of your own runs as you.")
    absolute = tuple(str(root.expanduser().absolute()) for root in roots or ())
    return Given(system, absolute, None if config is None else str(config.absolute()), user_name, group)
