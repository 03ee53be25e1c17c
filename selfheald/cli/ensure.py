"""``selfheald ensure``: check and initialize once, here."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import anyio
import typer

from selfheald.cli.output import (
    ConfigOption,
    DatabaseArgument,
    JsonOption,
    TimeoutOption,
    configuration,
    exit_code,
    print_error,
    print_json,
    told_as_json,
)
from selfheald.cli.progress import Progress, describe_ready
from selfheald.explanation import describe_holder
from selfheald.initialization_state import InitializationResult
from selfheald.workspace import Database, resolve_database

if TYPE_CHECKING:
    from selfheald.config import Config
    from selfheald.inspection import Inspection, Tools
    from selfheald.outlook import Outlook

#: The documents of ``--json`` while nothing is known.
_BLANK: dict[str, Any] = {
    "format": 1,
    "database": None,
    "outcome": "failed",
    "attempt_id": None,
    "state": "failed",
    "steps": [],
    "missing_tables_found": [],
    "tables_created": [],
    "started_at": None,
    "completed_at": None,
    "error": None,
}
_BLANK_DRY_RUN: dict[str, Any] = {
    "format": 1,
    "database": None,
    "missing": [],
    "nodes": [],
    "vars": {},
    "project": None,
    "template": {"usable": False, "why": "it could not be looked at"},
}


def command(
    db: DatabaseArgument = None,
    timeout: TimeoutOption = 300.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, change nothing.")] = False,
    keep_staging: Annotated[
        bool,
        typer.Option("--keep-staging", help="On failure, keep the staging folder, and print dbt's command for it."),
    ] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Make a database ready here and now, without a daemon; beside one, under the same lock.

    Exit codes: 0 ready, 1 failed, 2 wrong usage or configuration.

    Example: selfheald ensure workspace
    """
    with told_as_json(json, _BLANK_DRY_RUN if dry_run else _BLANK, db):
        database = resolve_database(db)
        effective = configuration(config)
        outlook = anyio.run(_dry_run, database, effective) if dry_run else None
    if outlook is not None:
        if json:
            print_json(outlook.as_dict())
        else:
            _print_outlook(outlook)
        return
    result = anyio.run(_ensure, database, effective, timeout, keep_staging)
    if _wants_quarantine(result, json):
        from selfheald.quarantine import quarantine

        quarantine(database)
        result = anyio.run(_ensure, database, effective, timeout, keep_staging)
    if json:
        print_json(result.as_dict())
    if result.error is not None:
        print_error(result.error)
        raise typer.Exit(exit_code(result.error) if result.error.code == "config_invalid" else 1)


async def run_ensure(
    database: Database, config: Config, timeout: float, progress: Progress, keep_staging: bool = False
) -> InitializationResult:
    """Make the database ready, with progress shown."""
    from selfheald.auto_initializer import AutoInitializer

    initializer = AutoInitializer(
        database.path,
        config,
        timeout=timeout,
        on_status=progress.on_status,
        announce=progress.say,
        keep_staging=keep_staging,
        in_process=True,
    )
    result = await progress.along(initializer.ensure_initialized_async())
    if result.success:
        status = {"tables_created": list(result.tables_created)}
        progress.final(describe_ready(status, result.duration_seconds, made=True))
    return result


async def _ensure(database: Database, config: Config, timeout: float, keep_staging: bool) -> InitializationResult:
    with Progress(f"Checking {database}") as progress:
        return await run_ensure(database, config, timeout, progress, keep_staging)


def _wants_quarantine(result: InitializationResult, json: bool) -> bool:
    corrupt = result.error is not None and result.error.code == "database_corrupt"
    if not corrupt or json or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    assert result.error is not None
    print_error(result.error)
    return typer.confirm("Set it aside under another name and make a new one?", default=False, err=True)


async def inspect_here(database: Database, config: Config, progress: Progress) -> Inspection:
    """Look at the database, with progress shown. Raises the error that is in the way of making what it lacks."""
    return await inspect_with(tools_here(config, progress), database, progress)


def tools_here(config: Config, progress: Progress) -> Tools:
    """What it takes to look at databases, in a process that never has one open."""
    from selfheald.auto_initializer import read_here
    from selfheald.inspection import Tools
    from selfheald.planner import Planner

    return Tools(config, Planner(config, announce=progress.say), read_here)


async def inspect_with(tools: Tools, database: Database, progress: Progress) -> Inspection:
    """As :func:`inspect_here`."""
    from selfheald.inspection import inspect

    found = await progress.along(inspect(tools, database, fresh=True))
    for warning in found.plan.warnings:
        progress.leave(f"warning: {warning}")
    error = found.check.error
    if error is not None:
        error.path = error.path or str(database)
        raise error
    return found


async def _dry_run(database: Database, config: Config) -> Outlook:
    from selfheald.from_template import foresee
    from selfheald.inspection import work_for
    from selfheald.outlook import Outlook

    with Progress(f"Checking {database}") as progress:
        tools = tools_here(config, progress)
        found = await inspect_with(tools, database, progress)
        work = work_for(found, config)
        template = await progress.along(foresee(tools, database, found, work))
    if found.is_new:
        typer.echo(f"There is no database yet: {database} would be made.", err=True)
    elif found.reading.holder is not None:
        typer.echo(f"{describe_holder(found.reading.holder.as_dict())}: it would be waited for.", err=True)
    elif not found.reading.certain:
        typer.echo(f"{describe_holder(None)}: it would be waited for, and what is missing may change.", err=True)
    return Outlook(
        database=str(database),
        plan=found.plan,
        missing=found.check.to_make,
        work=work,
        variables=found.settings.variables,
        python=found.settings.python,
        target=config.dbt.target,
        template=template.as_dict(),
    )


def _print_outlook(outlook: Outlook) -> None:
    if not outlook.missing:
        typer.echo("All required tables are there; nothing would be done.")
        return
    for line in outlook.lines():
        typer.echo(line)
