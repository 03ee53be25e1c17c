"""``selfheald ensure``: check and initialize once, here."""

from __future__ import annotations

import sys
from typing import Annotated, Any

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
from selfheald.config import Config
from selfheald.initialization_state import InitializationResult
from selfheald.workspace import Database, resolve_database

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
    "template": {"usable": False, "why": "this version keeps no templates"},
}


def command(
    db: DatabaseArgument = None,
    timeout: TimeoutOption = 300.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, change nothing.")] = False,
    keep_staging: Annotated[bool, typer.Option("--keep-staging", help="On failure, keep the staging folder.")] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Make a database ready here and now, without a daemon; beside one, under the same lock.

    Example: selfheald ensure workspace
    """
    with told_as_json(json, _BLANK_DRY_RUN if dry_run else _BLANK, db):
        database = resolve_database(db)
        effective = configuration(config)
        document = anyio.run(_dry_run, database, effective) if dry_run else None
    if document is not None:
        if json:
            print_json(document)
        else:
            _print_dry_run(document)
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
    async with anyio.create_task_group() as group:
        group.start_soon(progress.keep_talking)
        result = await initializer.ensure_initialized_async()
        group.cancel_scope.cancel()
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


async def _dry_run(database: Database, config: Config) -> dict[str, Any]:
    from selfheald.auto_initializer import read_here
    from selfheald.initialization import Tools, inspect, work_for
    from selfheald.planner import Planner

    found = await inspect(Tools(config, Planner(config), read_here), database, fresh=True)
    if found.check.error is not None:
        raise found.check.error
    work = work_for(found, config)
    return {
        **_BLANK_DRY_RUN,
        "database": str(database),
        "missing": [table.qualified for table in found.check.missing],
        "nodes": [
            {"unique_id": node.unique_id, "tier": "seed" if node in work.seeds else "foundation"}
            for node in (*work.seeds, *work.models)
        ],
        "vars": dict(found.settings.variables),
        "project": found.plan.project_dir,
    }


def _print_dry_run(document: dict[str, Any]) -> None:
    if not document["missing"]:
        typer.echo("All required tables are there; nothing would be done.")
        return
    typer.echo(f"Missing in {document['database']}: {', '.join(document['missing'])}")
    typer.echo(f"dbt would run, from {document['project']}:")
    for node in document["nodes"]:
        typer.echo(f"  {node['tier']:<10} {node['unique_id']}")
    if document["vars"]:
        typer.echo(f"with the variables {document['vars']}")
