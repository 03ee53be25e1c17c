"""A project of 300 models, of which seven tables are required, with a census and variables of each workspace's own."""

from __future__ import annotations

import shutil
from pathlib import Path

import duckdb
import pytest
from fixtures.generated_project import write_project
from plain_dbt import by_hand, contents, relations
from processes import NAME, Selfheald, change, digests, rows, status, wait_until_marked

PLAN_YEAR = 2032
#: The project's models, and those of one that is still larger: the further ones are needed by nothing that is required.
MODELS, MORE_MODELS = 300, 400
#: How many people each workspace's census has.
EMPLOYEES = {"one": 500, "other": 120}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project; it is only read."""
    return tmp_path_factory.mktemp("large") / "project"


@pytest.fixture(scope="module")
def required(project: Path) -> set[str]:
    """Its required tables."""
    return {f"main.{name}" for name in write_project(project, models=MODELS, required=7)}


@pytest.fixture(scope="module")
def large(
    tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str], project: Path, required: set[str]
) -> Selfheald:
    """Commands and daemons with this project."""
    return Selfheald(tmp_path_factory.mktemp("commands"), environment).but(
        DBT__PROJECT_DIR=str(project),
        DBT__VARS={"census_path": "{workspace}/census.parquet", "plan_year": PLAN_YEAR},
        REQUIRED__SELECT=["tag:needed"],
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, large: Selfheald) -> dict[str, Path]:
    """The databases that a daemon made of fresh workspaces, each from its own census. Not to be changed."""
    root = tmp_path_factory.mktemp("workspaces")
    for name, employees in EMPLOYEES.items():
        (root / name).mkdir()
        _write_census(root / name, employees)
        (root / name / NAME).touch()
    databases = {name: root / name / NAME for name in EMPLOYEES}
    with large.daemon(root):
        for database in databases.values():
            wait_until_marked(database, deadline=90)
    return databases


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, project: Path, made: dict[str, Path]) -> Path:
    """What dbt's own commands make of the first of these workspaces."""
    variables = {"census_path": str(made["one"].parent / "census.parquet"), "plan_year": PLAN_YEAR}
    database = tmp_path_factory.mktemp("plain") / NAME
    return by_hand(project, database, ["seed"], ["run", "--select", "+tag:needed"], variables=variables)


@pytest.mark.timeout(240)
def test_fresh_workspaces_get_what_plain_dbt_makes(made: dict[str, Path], plain: Path, required: set[str]) -> None:
    assert len(required) == 7
    assert relations(made["one"]) == relations(made["other"]) == required
    assert contents(made["one"], required) == contents(plain, required)
    for name, employees in EMPLOYEES.items():
        years = "select plan_year, count(*) from m5_000 group by 1"
        assert rows(made[name], years) == [(PLAN_YEAR, employees)]


@pytest.mark.timeout(240)
def test_one_dropped_table_comes_back_and_nothing_else_changes(
    large: Selfheald, made: dict[str, Path], required: set[str], tmp_path: Path
) -> None:
    database = shutil.copyfile(made["one"], tmp_path / NAME)
    _write_census(tmp_path, EMPLOYEES["one"])
    change(
        database,
        "update sites set site_name = 'edited' where site_id = 2",
        "create table notes as select range as id from range(1000)",
        "drop table m5_001",
    )
    before = digests(database)
    large.ok("ensure", tmp_path, timeout=90)
    assert status(database)["tables_created"] == ["m5_001"]
    after = digests(database)
    assert {name: digest for name, digest in after.items() if name != "m5_001"} == before
    assert contents(database, ["main.m5_001"]) == contents(made["one"], ["main.m5_001"])
    assert relations(database) == required | {"main.notes"}


@pytest.mark.timeout(240)
def test_with_more_models_the_required_tables_are_the_same(
    large: Selfheald, made: dict[str, Path], required: set[str], tmp_path: Path
) -> None:
    project, workspace = tmp_path / "project", tmp_path / "workspace"
    assert {f"main.{name}" for name in write_project(project, models=MORE_MODELS, required=7)} == required
    assert len(list(project.glob("models/**/*.sql"))) == MORE_MODELS
    workspace.mkdir()
    _write_census(workspace, EMPLOYEES["one"])
    large.but(DBT__PROJECT_DIR=str(project)).ok("ensure", workspace, timeout=90)
    assert relations(workspace / NAME) == required
    assert contents(workspace / NAME, required) == contents(made["one"], required)


def _write_census(folder: Path, employees: int) -> None:
    with duckdb.connect() as connection:
        connection.execute(
            f"copy (select range as employee_id, 1 + range % 3 as level_id, 30000 + (range * 7919) % 90000 as pay "
            f"from range({employees})) to '{folder / 'census.parquet'}' (format parquet)"
        )
