"""``selfheald wait`` and ``selfheald exec``: until the marker is there."""

from __future__ import annotations

import os
import time
from pathlib import Path
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
from selfheald.client import daemon_root, read_record, read_status, wait_until_ready_async
from selfheald.errors import InitializationError
from selfheald.quick_wait import BLANK, waiting_sentence
from selfheald.workspace import PRIVATE_FOLDER, Database, resolve_database

if TYPE_CHECKING:
    from selfheald.config import Config

_OrEnsure = Annotated[bool, typer.Option("--or-ensure", help="Where no daemon watches the path, make it ready here.")]


def command(
    db: DatabaseArgument = None,
    timeout: TimeoutOption = 300.0,
    or_ensure: _OrEnsure = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Wait until a database is ready, showing the daemon's progress.

    Exit codes: 0 ready, 1 failed, 2 wrong usage or configuration, 3 timed out, 4 no daemon watches the path.

    Example: selfheald wait workspace --timeout 120
    """
    with told_as_json(json, BLANK, db):
        database = resolve_database(db)
        effective = _configuration(config, or_ensure)
    document, error = anyio.run(_wait, database, timeout, effective)
    if json:
        print_json(document)
    if error is not None:
        print_error(error)
        raise typer.Exit(exit_code(error))


def exec_command(
    context: typer.Context,
    db: DatabaseArgument = None,
    timeout: TimeoutOption = 300.0,
    or_ensure: _OrEnsure = False,
    config: ConfigOption = None,
) -> None:
    """Wait until a database is ready, set DATABASE_PATH, and become COMMAND.

    Exit codes: the command's, or wait's. 127 if there is no such command.

    Example: selfheald exec workspace -- python simulate.py
    """
    command_line: list[str] = context.obj or []
    if not command_line:
        raise typer.BadParameter("the command is missing: selfheald exec [DB] -- COMMAND...")
    database = resolve_database(db)
    _, error = anyio.run(_wait, database, timeout, _configuration(config, or_ensure))
    if error is not None:
        print_error(error)
        raise typer.Exit(exit_code(error))
    environment = {**os.environ, "DATABASE_PATH": str(database)}
    try:
        os.execvpe(command_line[0], command_line, environment)
    except OSError as failure:
        typer.echo(f"error: cannot run {command_line[0]}: {failure.strerror}", err=True)
        raise typer.Exit(127 if isinstance(failure, FileNotFoundError) else 126) from None


def split_command(arguments: list[str]) -> tuple[list[str], list[str]]:
    """What is ours and what is the command: ``exec [DB] -- COMMAND…`` is parted at its first ``--``.

    Done before the arguments are parsed, where that ``--`` cannot be told from one of the command's own any more.
    """
    if arguments[:1] != ["exec"] or "--" not in arguments:
        return arguments, []
    place = arguments.index("--")
    return arguments[:place], arguments[place + 1 :]


def _configuration(path: Path | None, or_ensure: bool) -> Config | None:
    """The configuration, if it is to be used; what is wrong with one that was given is told before the wait."""
    given = configuration(path) if or_ensure or path is not None else None
    return given if or_ensure else None


def _attempts(database: Database) -> int:
    """How often the daemon that watches a database tries in all; 0: unknown."""
    root = daemon_root(database.path)
    record = None if root is None else read_record(root / PRIVATE_FOLDER / "daemon.json")
    attempts = (record or {}).get("attempts")
    return attempts if isinstance(attempts, int) else 0


async def _wait(
    database: Database, timeout: float, config: Config | None
) -> tuple[dict[str, Any], InitializationError | None]:
    """Wait, with progress; the document of ``--json``, and the error if it did not become ready.

    With a ``config`` it is made ready here where no daemon watches the path.
    """
    began = time.monotonic()
    seen: set[str | None] = set()
    error: InitializationError | None = None
    marker: dict[str, Any] = {}
    with Progress(waiting_sentence(database)) as progress:

        def on_progress(status: dict[str, Any]) -> None:
            seen.add(status.get("attempt_id"))
            progress.on_status(status, _attempts(database) if status.get("next_attempt_at") else 0)

        async with anyio.create_task_group() as group:
            group.start_soon(progress.keep_talking)
            try:
                marker = await wait_until_ready_async(database.path, timeout, on_progress)
            except InitializationError as failure:
                error = failure
            group.cancel_scope.cancel()
        if error is not None and error.code == "no_daemon" and config is not None:
            from selfheald.cli.ensure import run_ensure

            left = 0.0 if not timeout else max(1.0, timeout - (time.monotonic() - began))
            result = await run_ensure(database, config, left, progress)
            error = result.error
            marker = read_record(database.marker) or {}
        elif error is None:
            status = read_status(database.path)
            made = status is not None and status.get("attempt_id") in seen - {None}
            progress.final(describe_ready(status, time.monotonic() - began, made=made))
    status = read_status(database.path) or {}
    outcome = "ready"
    if error is not None:
        outcome = {3: "timeout", 4: "no_daemon"}.get(exit_code(error), "failed")
    return {
        **BLANK,
        "database": str(database),
        "outcome": outcome,
        "origin": marker.get("origin"),
        "waited_seconds": round(time.monotonic() - began, 3),
        "steps": status.get("steps") or [],
        "error": None if error is None else error.as_dict(),
    }, error
