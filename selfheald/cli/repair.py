"""``selfheald repair``: a person's word, where the daemon must not act by itself."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import anyio
import typer

from selfheald.cli.ensure import inspect_here, run_ensure
from selfheald.cli.output import ConfigOption, DatabaseArgument, TimeoutOption, configuration, print_error
from selfheald.cli.progress import Progress
from selfheald.client import daemon_root, drop_request
from selfheald.errors import ConcurrentInitializationError, InitializationError
from selfheald.initialization_state import InitializationResult
from selfheald.workspace import Database, resolve_database

if TYPE_CHECKING:
    from selfheald.config import Config


def command(
    db: DatabaseArgument = None,
    retry: Annotated[bool, typer.Option("--retry", help="Clear a failure and start again at once.")] = False,
    quarantine_it: Annotated[
        bool, typer.Option("--quarantine", help="Rename a corrupt database aside and ask for a new one.")
    ] = False,
    rebuild_seeds: Annotated[
        bool,
        typer.Option(
            "--rebuild-seeds",
            help="Load seed tables anew whose columns are not those of their file. The old ones get another name.",
        ),
    ] = False,
    timeout: TimeoutOption = 300.0,
    config: ConfigOption = None,
) -> None:
    """Clear a failure, set a corrupt database aside (it is renamed, never deleted), or load seed tables anew.

    Exit codes: 0 done, 1 refused (nothing to repair, or somebody is at work on it) or failed, 2 wrong usage.

    Example: selfheald repair workspace --quarantine
    """
    if retry + quarantine_it + rebuild_seeds != 1:
        raise typer.BadParameter("say one of --retry, --quarantine and --rebuild-seeds")
    effective = configuration(config, {"dbt.on_schema_mismatch": "rebuild-seeds"} if rebuild_seeds else None)
    database = resolve_database(db, effective.watch.database)
    try:
        if rebuild_seeds:
            result = anyio.run(_rebuild_seeds, database, effective, timeout)
            if result.error is not None:
                raise result.error
            return
        if quarantine_it:
            from selfheald.quarantine import quarantine

            for moved in quarantine(database):
                typer.echo(f"kept as {moved}")
        else:
            _require_failure(database)
        drop_request(database.path)
    except InitializationError as error:
        print_error(error)
        raise typer.Exit(1) from error
    if daemon_root(database.path) is None:
        typer.echo("No daemon watches it now. Make it ready with `selfheald ensure`, or start `selfheald run`.")
    else:
        typer.echo("Asked the daemon to make it ready; `selfheald wait` shows how it goes.")


async def _rebuild_seeds(database: Database, config: Config, timeout: float) -> InitializationResult:
    """Load anew what differs; refused unless it is seed tables alone."""
    with Progress(f"Checking {database}") as progress:
        found = await inspect_here(database, config, progress)
        if not found.check.outdated:
            raise InitializationError(
                "nothing to rebuild: each seed table that is there has the columns of its file",
                code="config_invalid",
                path=database,
                hint="`selfheald check` tells what is missing; `selfheald ensure` makes it.",
            )
        return await run_ensure(database, config, timeout, progress)


def _require_failure(database: Database) -> None:
    """Raise unless an attempt at it has failed, and nobody is at work on it now."""
    from selfheald.locks import held, holder
    from selfheald.marker import read_status
    from selfheald.quarantine import held_by

    if held(database.lock):
        raise ConcurrentInitializationError(
            "nothing to retry: an initialization of it is under way",
            lock_file=database.lock,
            hint="`selfheald wait` shows how it goes.",
        )
    status = read_status(database)
    if status is None or status.get("state") != "failed":
        there = os.path.lexists(database.path)
        raise InitializationError(
            "nothing to retry: " + ("no initialization of it has failed" if there else "there is no such database"),
            code="config_invalid",
            path=database,
            hint="`selfheald status` tells where it stands."
            if there
            else "Correct the path, or let one be made there.",
        )
    someone = holder(database.path)
    if someone is not None:
        raise held_by(database, someone)
