"""Every error code, provoked: what the command line says then is what docs/troubleshooting.md shows."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import duckdb
import pytest
from conftest import Copied
from fixtures.damaged_files import DEADLY, nested_wal
from fixtures.documents import BLOCK, assert_printed
from fixtures.waiting import DEADLINE
from processes import ENDLESS, NAME, Selfheald, at_work, holding
from projects import copy_project, own_database
from test_bad_input import UNTOUCHABLE

from selfheald.errors import HINTS

TROUBLESHOOTING = Path(__file__).parents[2] / "docs" / "troubleshooting.md"


class Scene:
    """A home folder with a dbt project, a workspace that is called beta, and a selfheald to be run there."""

    def __init__(
        self, home: Path, selfheald: Selfheald, complete: Copied, stack: ExitStack, request: pytest.FixtureRequest
    ) -> None:
        self.home = home
        self.project = home / "project"
        self.workspace = home / "workspaces" / "beta"
        self.database = self.workspace / NAME
        self.stack = stack
        self.request = request
        self.complete = complete
        self.selfheald = Selfheald(home, selfheald.environment, selfheald.prefix)
        self.workspace.mkdir(parents=True)

    def run(self, *arguments: object, **settings: Any) -> tuple[int, str]:
        """A command; its exit code, and what it told on stderr."""
        done = self.selfheald.run(*arguments, **settings)
        return done.returncode, done.stderr

    def build(self, **settings: object) -> tuple[int, str]:
        """``ensure`` with the project of the scene."""
        return self.run("ensure", self.workspace, **self.of_project(**settings))

    def of_project(self, **settings: object) -> dict[str, Any]:
        if not self.project.exists():
            copy_project(self.project)
        return {"DBT__PROJECT_DIR": str(self.project), **settings}

    def write(self, file: str, text: str) -> None:
        copy_project(self.project)
        (self.project / file).write_text(text)

    def spoilt(self, how: str) -> tuple[int, str]:
        """``check`` of a database that is spoilt."""
        UNTOUCHABLE[how].spoil(self.database, self.complete)
        return self.run("check", self.database)


def _missing_seed_file(scene: Scene) -> tuple[int, str]:
    copy_project(scene.project)
    (scene.project / "seeds" / "regions.csv").unlink()
    return scene.build()


def _seed_invalid(scene: Scene) -> tuple[int, str]:
    scene.write("seeds/regions.csv", "region_code,region_name,headcount\n01,North,40,1,2\n02\n")
    return scene.build()


def _dbt_project_missing(scene: Scene) -> tuple[int, str]:
    return scene.run("ensure", scene.workspace, DBT__PROJECT_DIR=str(scene.home / "projects"))


def _dbt_project_invalid(scene: Scene) -> tuple[int, str]:
    scene.write("models/mart/dim_regions.sql", "select {{ reff('stg_regions' }} as region_code")
    return scene.build()


def _profile_invalid(scene: Scene) -> tuple[int, str]:
    profile = "own_profile: {target: dev, outputs: {dev: {type: duckdb, path: /srv/dev.duckdb}}}\n"
    scene.write("profiles.yml", profile)
    return scene.build()


def _selection_empty(scene: Scene) -> tuple[int, str]:
    return scene.build(REQUIRED__SELECT=["tag:fundation"])


def _dbt_failed(scene: Scene) -> tuple[int, str]:
    scene.write("models/mart/dim_regions.sql", "select nope\nfrom {{ ref('stg_regions') }}\n")
    return scene.build()


def _dbt_unavailable(scene: Scene) -> tuple[int, str]:
    environment = scene.home / "environment"
    command = [sys.executable, "-m", "venv", "--without-pip", str(environment)]
    subprocess.run(command, check=True, timeout=DEADLINE)
    return scene.build(DBT__PYTHON=str(environment / "bin" / "python"))


def _timeout(scene: Scene) -> tuple[int, str]:
    return scene.build(DBT__TIMEOUT=4.0, DBT__PRE_SQL=ENDLESS)


def _schema_mismatch(scene: Scene) -> tuple[int, str]:
    UNTOUCHABLE["view"].spoil(scene.database, scene.complete)
    return scene.run("ensure", scene.database)


def _disk_full(scene: Scene) -> tuple[int, str]:
    return scene.build(LIMITS__MIN_FREE_BYTES="1000 TB")


def _permission_denied(scene: Scene) -> tuple[int, str]:
    prefix, environment = scene.request.getfixturevalue("nobody")
    state = scene.home / "state"
    state.mkdir(mode=0o777)
    state.chmod(0o777)
    own = scene.of_project(STATE_DIR=str(state), LOG__FILE="none")
    done = subprocess.run(
        [*prefix, "ensure", str(scene.workspace)],
        env=scene.selfheald.settings(**own) | environment | {"HOME": str(state), "XDG_CONFIG_HOME": str(state)},
        cwd=scene.home, capture_output=True, text=True, timeout=DEADLINE, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr


def _locked(scene: Scene) -> tuple[int, str]:
    own_database(scene.workspace)
    with holding(scene.database):
        return scene.run("ensure", scene.database, "--timeout", "1", **scene.of_project())


def _concurrent_initialization(scene: Scene) -> tuple[int, str]:
    scene.stack.enter_context(scene.selfheald.daemon(scene.home / "workspaces"))
    return scene.run("run", scene.home / "workspaces")


def _verification_failed(scene: Scene) -> tuple[int, str]:
    copy_project(scene.project)
    file = scene.project / "dbt_project.yml"
    hook = """    +post-hook: "delete from {{ this }} where region_code = '01'"\n"""
    file.write_text(file.read_text().replace("seeds:\n  own_project:\n", f"seeds:\n  own_project:\n{hook}"))
    return scene.build()


def _interrupted(scene: Scene) -> tuple[int, str]:
    with scene.selfheald.started("ensure", scene.workspace, **scene.of_project(DBT__PRE_SQL=ENDLESS)) as ensuring:
        os.kill(at_work(ensuring.pid, scene.database), signal.SIGKILL)
        return ensuring.wait(), ensuring.stderr


def _check_crashed(scene: Scene) -> tuple[int, str]:
    with duckdb.connect(str(scene.database)) as connection:
        connection.execute("create table notes as select 42 as answer")
    nested_wal(scene.database, DEADLY)
    return scene.run("check", scene.database)


def _config_invalid(scene: Scene) -> tuple[int, str]:
    (scene.home / "selfheald.toml").write_text('[watch]\nroots = ["/srv/simulations"]\nsetle = 0.3\n')
    return scene.run("config", "validate")


def _no_daemon(scene: Scene) -> tuple[int, str]:
    return scene.run("wait", scene.workspace)


def _sections(document: Path) -> dict[str, str]:
    """What each code's section shows of it: its first block of output."""
    parts = re.split(r"^## `(\w+)`$", document.read_text(encoding="utf-8"), flags=re.MULTILINE)
    shown = {code: BLOCK.search(text) for code, text in zip(parts[1::2], parts[2::2], strict=True)}
    return {code: "" if found is None else found["text"] for code, found in shown.items()}


PROVOKED: dict[str, Callable[[Scene], tuple[int, str]]] = {
    "missing_seed_file": _missing_seed_file,
    "seed_invalid": _seed_invalid,
    "dbt_project_missing": _dbt_project_missing,
    "dbt_project_invalid": _dbt_project_invalid,
    "profile_invalid": _profile_invalid,
    "selection_empty": _selection_empty,
    "dbt_failed": _dbt_failed,
    "dbt_unavailable": _dbt_unavailable,
    "timeout": _timeout,
    "database_corrupt": lambda scene: scene.spoilt("truncated"),
    "database_newer": lambda scene: scene.spoilt("newer"),
    "database_encrypted": lambda scene: scene.spoilt("encrypted"),
    "not_a_database": lambda scene: scene.spoilt("text"),
    "schema_mismatch": _schema_mismatch,
    "disk_full": _disk_full,
    "permission_denied": _permission_denied,
    "unsafe_path": lambda scene: scene.spoilt("link"),
    "locked": _locked,
    "concurrent_initialization": _concurrent_initialization,
    "verification_failed": _verification_failed,
    "interrupted": _interrupted,
    "check_crashed": _check_crashed,
    "config_invalid": _config_invalid,
    "no_daemon": _no_daemon,
}
#: The exit codes that are not 1.
EXITS = {"config_invalid": 2, "no_daemon": 4}


SECTIONS = _sections(TROUBLESHOOTING)


def test_every_code_has_its_section() -> None:
    assert list(SECTIONS) == list(HINTS) == list(PROVOKED)


@pytest.fixture
def scene(
    open_path: Path, shared_selfheald: Selfheald, complete: Copied, request: pytest.FixtureRequest
) -> Iterator[Scene]:
    with ExitStack() as stack:
        yield Scene(open_path, shared_selfheald, complete, stack, request)


@pytest.mark.parametrize("code", PROVOKED)
def test_what_is_told_is_what_the_guide_shows(code: str, scene: Scene) -> None:
    found, told = PROVOKED[code](scene)
    assert found == EXITS.get(code, 1), told
    assert next(line for line in told.splitlines() if line.startswith("error")).startswith(f"error[{code}]: ")
    assert_printed(SECTIONS[code], told, scene.home)
