"""What all commands share: their options, JSON on stdout, errors on stderr, exit codes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selfheald.errors import InitializationError, InitializationTimeoutError
from selfheald.printable import one_line
from selfheald.workspace import get_database_path

if TYPE_CHECKING:
    from selfheald.config import Config

DatabaseArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="DB",
        help="A database or its folder. Default: $DATABASE_PATH, else dbt/simulation.duckdb.",
        show_default=False,
        readable=False,  # one that may not be read is told of with its code, as by the daemon
    ),
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Configuration file.", show_default=False)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
TimeoutOption = Annotated[
    float, typer.Option("--timeout", min=0, metavar="SECONDS", help="How long to wait at most. 0: no limit.")
]


def configuration(path: Path | None, overrides: dict[str, Any] | None = None) -> Config:
    """The configuration; what was passed over on the way is said on stderr."""
    from selfheald.config import config_sources, load_config

    config = load_config(path, overrides)
    for notice in config_sources(config).notices:
        _tell(f"note: {notice}", "WARNING")
    return config


def print_json(document: dict[str, Any]) -> None:
    """One document on stdout."""
    typer.echo(json.dumps(document, indent=2, default=str))


@contextmanager
def told_as_json(wanted: bool, blank: Mapping[str, Any], db: Path | None) -> Iterator[None]:
    """With ``--json``, an error that comes before there is a document is told in one too: ``blank`` and the error."""
    try:
        yield
    except InitializationError as error:
        if wanted:
            database = get_database_path() if db is None else os.path.abspath(db)
            print_json({**blank, "database": str(database), "error": error.as_dict()})
        raise


def print_error(error: InitializationError) -> None:
    """A line of what and where, below it what more dbt or DuckDB said in their layout, and a line of what to do.

    Only a kept staging folder adds lines to the hint.
    """
    first, *more = error.message.splitlines() or [""]
    where = "" if error.path is None or error.path in first else f" ({error.path})"
    lines = [f"error[{error.code}]: {first}{where}", *(f"  {line}" for line in more)]
    if error.hint:
        hint, *more = error.hint.splitlines()
        log = f" Log: {error.log}" if error.log else ""
        lines += [f"  {hint}{log}", *(f"  {line}" for line in more)]
    _tell("\n".join(one_line(line.expandtabs()) for line in lines), "ERROR")


def _tell(text: str, level: str) -> None:
    """Lines on stderr; with their level, where that is the journal of a service manager."""
    from selfheald.journal import as_journal_line, stderr_is_journal

    if stderr_is_journal():
        text = "\n".join(as_journal_line(line, level) for line in text.splitlines())
    typer.echo(text, err=True)


def exit_code(error: InitializationError) -> int:
    """1 failed, 2 wrong usage or configuration, 3 the wait timed out, 4 nobody watches."""
    if isinstance(error, InitializationTimeoutError) and error.timeout_seconds and error.step is None:
        return 3
    return {"config_invalid": 2, "no_daemon": 4}.get(error.code, 1)
