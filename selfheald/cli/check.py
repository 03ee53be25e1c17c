"""``selfheald check``: one look, nothing changed."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import anyio
import typer

from selfheald.cli.output import (
    ConfigOption,
    DatabaseArgument,
    JsonOption,
    configuration,
    print_error,
    print_json,
    told_as_json,
)
from selfheald.cli.progress import Progress
from selfheald.errors import InitializationError
from selfheald.explanation import describe_holder
from selfheald.workspace import Database, resolve_database

if TYPE_CHECKING:
    from selfheald.config import Config

#: The document of ``--json`` while nothing is known.
_BLANK: dict[str, Any] = {
    "format": 1,
    "database": None,
    "workspace": None,
    "exists": False,
    "complete": False,
    "marker": "absent",
    "tables": [],
    "missing": [],
    "holder": None,
    "project": None,
    "fingerprint": None,
    "duration_seconds": 0.0,
    "error": None,
}


def command(db: DatabaseArgument = None, json: JsonOption = False, config: ConfigOption = None) -> None:
    """Look whether a database holds all tables that simulations need. Takes no lock, changes nothing.

    Exit codes: 0 all there, 1 not, 2 wrong usage or configuration.

    Example: selfheald check workspace --json
    """
    with told_as_json(json, _BLANK, db):
        database = resolve_database(db)
        effective = configuration(config)
    with Progress(f"Checking {database}", quiet=True) as progress:
        document, error = anyio.run(_check, database, effective, progress)
    if json:
        print_json(document)
    else:
        _print_tables(document)
    if error is not None:
        print_error(error)
    if not document["complete"]:
        raise typer.Exit(1)


async def _check(
    database: Database, config: Config, progress: Progress
) -> tuple[dict[str, Any], InitializationError | None]:
    from selfheald.auto_initializer import read_here
    from selfheald.inspection import Tools, inspect
    from selfheald.marker import marker_state
    from selfheald.planner import Planner

    began = time.monotonic()
    document = {
        **_BLANK,
        "database": str(database),
        "workspace": str(database.workspace),
        "exists": os.path.exists(database.path),  # noqa: PTH110 - never raises
        "marker": marker_state(database),
        "project": str(config.dbt.project_dir),
    }
    error: InitializationError | None = None
    try:
        tools = Tools(config, Planner(config, announce=progress.say), read_here)
        found = await progress.along(inspect(tools, database, fresh=True))
        error = found.check.error
        reading = found.reading
        document |= {
            "exists": reading.exists,
            "complete": found.check.complete and reading.certain,
            "tables": list(found.check.tables),
            "missing": [table.qualified for table in found.check.missing],
            "holder": None if reading.holder is None else reading.holder.as_dict(),
            "project": found.plan.project_dir,
            "fingerprint": found.plan.fingerprint,
            "duration_seconds": round(reading.duration_seconds, 4),
        }
    except InitializationError as failure:
        error = failure
        document["duration_seconds"] = round(time.monotonic() - began, 4)
    if error is not None:
        error.path = error.path or str(database)
        document["error"] = error.as_dict()
    return document, error


def _print_tables(document: dict[str, Any]) -> None:
    for table in document["tables"]:
        lacks = f", lacks {', '.join(table['missing_columns'])}" if table["missing_columns"] else ""
        typer.echo(f"{table['kind'] or 'missing':<8} {table['tier']:<11} {table['name']}{lacks}")
    if document["holder"]:
        typer.echo(describe_holder(document["holder"]))
    if document["complete"]:
        typer.echo(f"{document['database']}: all {len(document['tables'])} required tables are there")
    elif document["error"] is None:
        what = f"{len(document['missing'])} of {len(document['tables'])} required tables are missing"
        typer.echo(f"{document['database']}: {what}; `selfheald ensure` makes them")
