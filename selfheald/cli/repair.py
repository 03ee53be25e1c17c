"""``selfheald repair``: a person's word, where the daemon must not act by itself."""

from __future__ import annotations

import os
import time
from typing import Annotated

import typer

from selfheald.cli.output import ConfigOption, DatabaseArgument
from selfheald.client import daemon_root, drop_request
from selfheald.errors import InitializationError
from selfheald.workspace import WAL_SUFFIXES, Database, open_folder, resolve_database


def command(
    db: DatabaseArgument = None,
    retry: Annotated[bool, typer.Option("--retry", help="Clear a failure and start again at once.")] = False,
    quarantine_it: Annotated[
        bool, typer.Option("--quarantine", help="Rename a corrupt database aside and ask for a new one.")
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Clear a failure, or set a corrupt database aside (it is renamed, never deleted).

    Example: selfheald repair workspace --quarantine
    """
    if retry == quarantine_it:
        raise typer.BadParameter("say either --retry or --quarantine")
    database = resolve_database(db)
    if quarantine_it:
        for moved in quarantine(database):
            typer.echo(f"kept as {moved}")
    else:
        _require_failure(database)
    drop_request(database.path)
    if daemon_root(database.path) is None:
        typer.echo("No daemon watches it now. Make it ready with `selfheald ensure`, or start `selfheald run`.")
    else:
        typer.echo("Asked the daemon to make it ready; `selfheald wait` shows how it goes.")


def quarantine(database: Database) -> list[str]:
    """Rename a corrupt database and its WAL family to ``….corrupt-<time>``; the new paths.

    Raises :class:`InitializationError` if it is not corrupt, if somebody has it open, or is at work on it.
    """
    from selfheald.locks import DatabaseLock
    from selfheald.marker import remove_marker
    from selfheald.table_checker import read_in_child
    from selfheald.workspace import ensure_private_folder

    ensure_private_folder(database)
    with DatabaseLock(database.lock):
        reading = read_in_child(database.path)
        if reading.holder is not None:
            raise InitializationError(
                f"PID {reading.holder.pid} ({reading.holder.command}) has it open",
                code="locked",
                path=database,
                hint="Close that connection first.",
            )
        if not reading.certain or reading.error is None or reading.error.code != "database_corrupt":
            found = "" if reading.error is None else f" ({reading.error.code}: {reading.error.message})"
            raise InitializationError(
                f"nothing to set aside: the database is not corrupt{found}",
                code="locked" if not reading.certain else "config_invalid",
                path=database,
                hint="`selfheald check` tells what there is.",
            )
        remove_marker(database)
        suffix = f".corrupt-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}"
        moved = []
        with open_folder(database.folder) as folder:
            for name in [database.path.name, *(database.path.name + wal for wal in WAL_SUFFIXES)]:
                try:
                    os.link(name, name + suffix, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
                except FileNotFoundError:
                    continue
                os.unlink(name, dir_fd=folder)
                moved.append(str(database.folder / (name + suffix)))
            os.fsync(folder)
    return moved


def _require_failure(database: Database) -> None:
    from selfheald.marker import read_status

    status = read_status(database)
    if status is None or status.get("state") != "failed":
        raise InitializationError(
            "nothing to retry: no initialization of it has failed",
            code="config_invalid",
            path=database,
            hint="`selfheald status` tells where it stands.",
        )
