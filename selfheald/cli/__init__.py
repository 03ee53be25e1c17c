"""The command line. Each command is a module; this one puts them together and is the boundary to the user."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Annotated

import typer

from selfheald.cli import (
    check,
    config_commands,
    demo,
    doctor,
    ensure,
    history,
    logs,
    repair,
    run,
    service,
    status,
    wait,
)
from selfheald.cli.output import exit_code, print_error
from selfheald.errors import InitializationError

#: Seconds that threads have to end once all is done.
_LAST_SECONDS = 2.0

app = typer.Typer(
    name="selfheald",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command line; a known error ends in two lines on stderr and an exit code, never a traceback."""
    code: object = 1
    try:
        _run()
        code = 0
    except SystemExit as end:
        code = end.code
        raise
    finally:
        if threading.active_count() > 1:
            # A thread that a damaged database blocks must not keep the process: Python would wait for it.
            number = code if isinstance(code, int) else int(bool(code))
            threading.Thread(target=_end, args=(number,), daemon=True).start()


def _run() -> None:
    try:
        arguments, command = wait.split_command(sys.argv[1:])
        app(arguments, prog_name="selfheald", obj=command)
    except InitializationError as error:
        print_error(error)
        sys.exit(exit_code(error))
    except BrokenPipeError:
        # Whoever read our output has gone: that is no failure worth a word.
        sys.stderr.close()
        sys.exit(1)


def _end(code: int) -> None:
    time.sleep(_LAST_SECONDS)
    os._exit(code)


def _print_version(wanted: bool) -> None:
    if wanted:
        from selfheald.marker import installed_version

        typer.echo(f"selfheald {installed_version()}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Makes DuckDB workforce-simulation databases ready by themselves.

    Exit codes: 0 yes, 1 failed or not ready, 2 wrong usage or configuration, 3 timed out, 4 no daemon watches the path.

    Example: selfheald run ~/workspaces
    """


app.command("run")(run.command)
app.command("ensure")(ensure.command)
app.command("wait")(wait.command)
app.command("exec", options_metavar="[OPTIONS]", epilog="The command follows after --.")(wait.exec_command)
app.command("check")(check.command)
app.command("status")(status.command)
app.command("history")(history.command)
app.command("logs")(logs.command)
app.command("repair")(repair.command)
app.command("doctor")(doctor.command)
app.command("demo")(demo.command)
app.add_typer(config_commands.app, name="config")
app.add_typer(service.app, name="service")
