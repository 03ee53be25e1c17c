"""Asks interpreters what they are, and lets dbt read the project."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path

from selfheald.config import Config, child_environment
from selfheald.config_values import has_placeholder
from selfheald.dbt_host import run_job
from selfheald.diagnosis.judge_setup import Interpreter
from selfheald.errors import InitializationError, from_os_error
from selfheald.plan import Plan
from selfheald.planner import Planner
from selfheald.workspace import Database

#: Seconds that an interpreter may take to say what it is.
INTERPRETER_SECONDS = 60.0
#: What tells a person, or a shell, which environment is active.
_ENVIRONMENTS = ("VIRTUAL_ENV", "CONDA_PREFIX")


async def ask_interpreter(config: Config) -> Interpreter | InitializationError:
    """What ``dbt.python`` is and has, or why it cannot be asked."""
    python = str(config.dbt.python)
    extra = {name: value for name, value in config.dbt.env.items() if not has_placeholder(value)}
    try:
        with tempfile.TemporaryDirectory(prefix="selfheald-") as folder:
            answer = await run_job(
                {"job": "interpreter", "log_file": str(Path(folder, "interpreter.log"))},
                python=python,
                environment=child_environment(extra),
                timeout=INTERPRETER_SECONDS,
            )
    except InitializationError as error:
        return _without_log(error)
    except OSError as error:
        return from_os_error(error, error.filename, "make a temporary folder")
    return Interpreter(path=python, prefix=answer["prefix"], problem=answer["problem"], **answer["versions"])


async def read_project(
    config: Config, workspace: Path, announce: Callable[[str], None]
) -> tuple[Plan | InitializationError, bool]:
    """The plan for a workspace, or why there is none; and whether dbt was asked, or ``dbt.vars_command`` failed before.

    Nothing is written to the plan cache.
    """
    planner = Planner(config, announce=announce, keep=False)
    database = Database.at(workspace / config.watch.database)
    try:
        await planner.settings_for(database)
    except InitializationError as error:
        return error, False
    try:
        return await planner.plan_for(database), True
    except InitializationError as error:
        return _without_log(error), True


def _without_log(error: InitializationError) -> InitializationError:
    """Its log was in a temporary folder, and is gone with it."""
    error.log = None
    return error


def profile_of(config: Config, project_dir: Path) -> Path | None:
    """The profiles.yml that is used; ``None``: one is generated."""
    if config.dbt.profiles_dir is not None:
        return config.dbt.profiles_dir / "profiles.yml"
    own = project_dir / "profiles.yml"
    return own if os.path.isfile(own) else None  # noqa: PTH113 - never raises


def daemon_duckdb() -> str:
    """The version of the DuckDB that the daemon reads with."""
    return version("duckdb")


def simulators(environ: Mapping[str, str], known: set[str]) -> list[tuple[Path, str]]:
    """Other environments that are active here and have a DuckDB, each with its version: a simulator's, perhaps.

    ``known`` are the folders of environments that are judged already. Nothing is started.
    """
    candidates = [Path(environ[name]) / "bin" / "python" for name in _ENVIRONMENTS if environ.get(name)]
    found = shutil.which("python3", path=environ.get("PATH"))
    candidates += [Path(found)] if found else []
    seen = {os.path.realpath(prefix) for prefix in (*known, sys.prefix)}
    others = []
    for python in candidates:
        prefix = os.path.realpath(python.parent.parent)
        if prefix not in seen:
            seen.add(prefix)
            others += [(python, each) for each in _duckdb_below(Path(prefix))[:1]]
    return others


def _duckdb_below(prefix: Path) -> list[str]:
    """Versions of DuckDB that lie in an environment, as their metadata folders are named."""
    names = (found.name for found in prefix.glob("lib*/python3*/*-packages/duckdb-*.dist-info"))
    return sorted(name.removeprefix("duckdb-").removesuffix(".dist-info") for name in names)
