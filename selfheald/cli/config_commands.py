"""`selfheald config`: what is in force, whether it is right, what it may be, and a file to begin with."""

from __future__ import annotations

import errno
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import anyio
import typer

from selfheald.cli.output import ConfigOption, JsonOption, configuration, print_json
from selfheald.cli.progress import Progress
from selfheald.errors import InitializationError
from selfheald.workspace import Database

if TYPE_CHECKING:
    from selfheald.config import Config
    from selfheald.plan import Plan

#: Stands for the database, where variables name one and the plan is the same for all.
_ANY_DATABASE = Path("/workspace/simulation.duckdb")

app = typer.Typer(
    name="config",
    help="Show, check, describe or begin the configuration.\n\nExit codes: 0 done, 2 wrong usage or configuration.",
    epilog="Example: selfheald config init",
    no_args_is_help=True,
)


@app.command("show", epilog="Example: selfheald config show --json")
def show_command(
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the effective configuration: file, environment and defaults together, secrets hidden.

    Exit codes: 0 shown, 2 wrong usage or configuration.
    """
    from selfheald.config import config_sources, show, show_toml

    loaded = configuration(config)
    if as_json:
        sources = config_sources(loaded)
        document = {
            "format": 1,
            "file": None if sources.file is None else str(sources.file),
            "notices": list(sources.notices),
            "origins": dict(sources.origins),
            "config": show(loaded),
            "error": None,
        }
        print_json(document)
        return
    typer.echo(f"# {_file_of(loaded)}")
    typer.echo(show_toml(loaded), nl=False)


@app.command("validate", epilog="Example: selfheald config validate --config /etc/selfheald/selfheald.toml")
def validate_command(config: ConfigOption = None) -> None:
    """Check the configuration: OK and the file that was used, or every error with its line.

    What required.select means is asked of the dbt project, which is read for that if it has changed. What is wrong
    with the project, or hardly meant, is a note: the configuration is right all the same.

    Exit codes: 0 right, 2 wrong usage or configuration.
    """
    from selfheald.config import load_config, warnings

    loaded = load_config(config)
    for warning in [*warnings(loaded), *_project_notes(loaded)]:
        typer.echo(f"note: {warning}", err=True)
    typer.echo(f"OK: {_file_of(loaded)}")


def _project_notes(config: Config) -> list[str]:
    """What the plan warns of, or why there is none. The bundled project and its own selection need no look."""
    from selfheald.config import Config
    from selfheald.config_values import has_placeholder

    dbt, bare = config.dbt, Config()
    if (dbt.project_dir, config.required) == (bare.dbt.project_dir, bare.required):
        return []
    if dbt.vars_command or has_placeholder(f"{dbt.project_dir}{dbt.profiles_dir or ''}"):
        what = "the dbt project or its variables depend on the workspace"
        return [f"required.select: {what}; `selfheald ensure WORKSPACE --dry-run` tells what is required there"]
    if not os.path.isfile(dbt.project_dir / "dbt_project.yml"):  # noqa: PTH113 - never raises
        return []  # told already
    try:
        plan = anyio.run(_plan, config)
    except InitializationError as error:
        return [f"the dbt project gives no plan: {error.code}: {error.message}\n  {error.hint}"]
    return list(plan.warnings)


async def _plan(config: Config) -> Plan:
    from selfheald.planner import Planner

    with Progress("Checking required.select") as progress:
        planner = Planner(config, announce=progress.say)
        return await progress.along(planner.plan_for(Database(_ANY_DATABASE), fresh=True))


@app.command("schema", epilog="Example: selfheald config schema > selfheald.schema.json")
def schema_command() -> None:
    """Print the JSON schema of selfheald.toml, for editors and other tools.

    Exit codes: 0 printed, 2 wrong usage.
    """
    from selfheald.config import Config

    print_json(Config.model_json_schema())


@app.command("init", epilog="Example: selfheald config init /etc/selfheald/selfheald.toml")
def init_command(
    path: Annotated[
        Path | None,
        typer.Argument(metavar="[PATH]", help="A file, or a folder to put selfheald.toml into.", show_default=False),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="The same as PATH.", show_default=False),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write a configuration file with every key, its meaning and its default, all commented out.

    Exit codes: 0 written, 2 not: wrong usage, the file exists, or cannot be written.
    """
    from selfheald.config import template
    from selfheald.config_file import FILE_NAME

    if path is not None and config is not None:
        raise typer.BadParameter("PATH and --config both name the file to write; give one of them")
    target = (path or config or Path(FILE_NAME)).expanduser().absolute()
    if target.is_dir():
        target /= FILE_NAME
    try:
        _write(target, template(), replace=force)
    except FileExistsError:
        raise InitializationError(
            f"{target} exists already",
            code="config_invalid",
            hint="Add --force to replace it, or give another path.",
            path=target,
        ) from None
    except OSError as error:
        raise InitializationError(
            f"{target} cannot be written: {error.strerror or error}",
            code="config_invalid",
            hint="Give a path that you may write to.",
            path=target,
        ) from None
    typer.echo(f"Wrote {target}")
    typer.echo("Next: set watch.roots in it, then run `selfheald config validate`.", err=True)


def _write(target: Path, text: str, *, replace: bool) -> None:
    """Create the file whole, readable by all and writable by its owner alone: others' writing would void it."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError:  # said of a parent that is a plain file, and meant here for the target alone
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None
    draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        if replace:
            draft.replace(target)
        else:
            target.hardlink_to(draft)
    finally:
        draft.unlink(missing_ok=True)


def _file_of(config: Config) -> str:
    from selfheald.config import config_sources

    file = config_sources(config).file
    return "no configuration file; environment and defaults" if file is None else str(file)
