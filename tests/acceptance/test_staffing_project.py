"""A user's own project, in which much is other than in the bundled one, is served as dbt itself would build it.

Schemas, aliases, tags in capitals, views, an ephemeral model, an incremental one, a snapshot, hooks that make tables,
indexes, a vendored package, tests, an exposure, a source, and a model that reads tables which it doesn't ``ref``.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import duckdb
import pytest
from plain_dbt import by_hand, contents, relations
from processes import NAME, STAFFING_PROJECT, Selfheald, change, digests, marker, rows, status, wait_until_marked

SEEDS = {"lists.people", "lists.sites", "staff.PlanRates"}
MODELS = {
    "history.site_history",
    "mart.Site Overview",
    "mart.dim_grade_v2",
    "mart.fct_hires",
    "mart.fct_staffing",
    "mart.rpt_site_notes",
    "reports.site_changes",
    "staff.calendar_months",
}
REQUIRED = SEEDS | MODELS
VIEWS = {"mart.dim_grade_v1", "stage.stg_people", "stage.stg_sites"}
#: What hooks leave behind wherever dbt runs.
MADE_BY_HOOKS = {
    "audit.fct_staffing_rows",
    "main.staff_work",
    "outside.runs",
    "outside.site_notes",
    "outside.wage_index",
}
INDEXES = "select is_unique, replace(expressions, '\"', '') from duckdb_indexes() order by all"
#: This DuckDB writes the format that is the default, and no other.
OLDEST = duckdb.__version__ < "1.2"


@pytest.fixture(scope="module")
def staffing(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Selfheald:
    """Commands and daemons with this project; it requires what has a tag in capitals."""
    settings = {
        "SELFHEALD_DBT__PROJECT_DIR": str(STAFFING_PROJECT),
        "SELFHEALD_DBT__VARS": "{}",
        "SELFHEALD_REQUIRED__SELECT": '["resource_type:seed", "tag:FOUNDATION"]',
    }
    return Selfheald(tmp_path_factory.mktemp("staffing"), environment | settings)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database that dbt's own commands made. Not to be changed."""
    database = tmp_path_factory.mktemp("plain") / NAME
    return by_hand(STAFFING_PROJECT, database, ["seed"], ["snapshot"], ["run"])


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory, staffing: Selfheald) -> Path:
    """A database that selfheald made, where there was none. Not to be changed."""
    folder = tmp_path_factory.mktemp("fresh")
    staffing.ok("ensure", folder)
    return folder / NAME


def test_the_plain_commands_make_more_than_is_required(plain: Path) -> None:
    assert relations(plain) == REQUIRED | VIEWS | MADE_BY_HOOKS | {"desk.person_lookup"}


def test_a_fresh_workspace_gets_what_plain_dbt_makes_and_nothing_else(fresh: Path, plain: Path) -> None:
    assert relations(fresh) == REQUIRED
    assert contents(fresh, REQUIRED) == contents(plain, REQUIRED)
    assert marker(fresh)["tables"] == {"seed": len(SEEDS), "foundation": len(MODELS)}


@pytest.mark.timeout(300)  # eleven initializations
def test_each_single_table_comes_back_and_nothing_else_changes(
    staffing: Selfheald, fresh: Path, root: Path, tmp_path: Path
) -> None:
    """Rows that somebody has edited by hand stay too, in seeds and models."""
    edits = {
        "staff.PlanRates": 'update staff."PlanRates" set rate_value = 0.5',
        "mart.dim_grade_v2": "insert into mart.dim_grade_v2 values ('Z', 0)",
    }
    databases, before = {}, {}
    for table in sorted(REQUIRED):
        folder = root / table.replace(" ", "_")
        folder.mkdir()
        databases[table] = shutil.copyfile(fresh, folder / NAME)
        schema, _, name = table.partition(".")
        change(
            databases[table],
            *(edit for edited, edit in edits.items() if edited != table),
            "create table notes as select 42 as answer",
            f'drop table {schema}."{name}"',
        )
        before[table] = digests(databases[table])
    with staffing.daemon(root):
        for database in databases.values():
            wait_until_marked(database)
    wanted = digests(fresh)
    for table, database in databases.items():
        assert status(database)["tables_created"] == [table]
        after = digests(database)
        assert after.pop(table)[0::2] == wanted[table][0::2]
        assert after == before[table]
        assert contents(database, [table]) == contents(fresh, [table])
        assert relations(database) == REQUIRED | {"main.notes"}


def test_incremental_models_and_snapshots_that_exist_are_left_as_they_are(
    staffing: Selfheald, fresh: Path, tmp_path: Path
) -> None:
    """Also where dbt would change them; and what is made anew is made from the tables as people have edited them."""
    database = shutil.copyfile(fresh, tmp_path / NAME)
    change(
        database,
        "insert into lists.people values ('P07', '001', 'C', date '2030-01-01', 1000)",
        "update lists.sites set site_name = 'New Tower', seats = 99, changed_at = timestamp '2029-01-01' "
        "where site_code = '003'",
        "create schema outside",
        "create table outside.wage_index (grade varchar, factor decimal(6, 3))",
        "insert into outside.wage_index values ('A', 2), ('C', 3)",
        "create table outside.site_notes as select '002' as site_code, 'closed on Mondays' as note",
        "drop table mart.fct_staffing",
        "drop table mart.rpt_site_notes",
        "drop table reports.site_changes",
    )
    before = digests(database)
    staffing.ok("ensure", tmp_path)

    after = digests(database)
    made = {"mart.fct_staffing", "mart.rpt_site_notes", "reports.site_changes"}
    assert set(status(database)["tables_created"]) == made
    assert {table: digest for table, digest in after.items() if table not in made} == before
    pay = "select person_id, planned_pay from mart.fct_staffing where plan_year = 2031 order by 1"
    assert [(person, float(pay)) for person, pay in rows(database, pay)] == [
        ("P01", 96000.0), ("P03", 90500.0), ("P04", 294000.0), ("P06", 0.0), ("P07", 3000.0),
    ]  # fmt: skip
    assert rows(database, "select note, notes from mart.rpt_site_notes where note is not null") == [
        ("closed on Mondays", 3)
    ]
    assert contents(database, ["reports.site_changes"]) == contents(fresh, ["reports.site_changes"])


def test_a_database_that_plain_dbt_made_keeps_what_hooks_left_there(
    staffing: Selfheald, plain: Path, tmp_path: Path
) -> None:
    """Its views and the hooks' tables are as they were, though the hooks run again, on staging."""
    database = shutil.copyfile(plain, tmp_path / NAME)
    change(
        database,
        "create table mart.fct_staffing__dbt_tmp as select 'left by a run that was killed' as why",
        "drop table mart.fct_staffing",
        "drop table history.site_history",
    )
    before, there = digests(database), relations(database)
    staffing.ok("ensure", tmp_path)

    made = {"history.site_history", "mart.fct_staffing"}
    assert set(status(database)["tables_created"]) == made
    after = digests(database)
    assert {table: digest for table, digest in after.items() if table not in made} == before
    assert relations(database) == there | made
    assert contents(database, made) == contents(plain, made)
    assert rows(database, "select count(*) from stage.stg_people") == [(6,)]


def test_a_table_with_indexes_is_made_where_the_format_can_hold_them(
    staffing: Selfheald, plain: Path, tmp_path: Path
) -> None:
    """With indexes of DuckDB 2.0 a file is unreadable for those that the default format is meant for."""
    wanted = staffing.but(REQUIRED__SELECT=["resource_type:seed", "tag:INDEXED"])
    if not OLDEST:
        told = wanted.document("ensure", tmp_path, code=1)["error"]
        assert told["code"] == "verification_failed"
        assert "desk.person_lookup has a key: index " in told["message"]
        assert "Set dbt.storage_version to 'latest', or drop the key." in told["hint"]
        assert not (tmp_path / NAME).exists()
        wanted = wanted.but(DBT__STORAGE_VERSION="latest")
    wanted.ok("ensure", tmp_path)
    database = tmp_path / NAME
    assert relations(database) == SEEDS | {"desk.person_lookup"}
    # dbt-duckdb makes those of the model's config only since 1.9; one is made by a hook.
    assert len(rows(database, INDEXES)) == (1 if OLDEST else 3)
    assert rows(database, INDEXES) == rows(plain, INDEXES)

    before = digests(database)
    change(database, "drop table lists.sites")
    wanted.ok("ensure", tmp_path)
    assert digests(database) == before
    assert rows(database, INDEXES) == rows(plain, INDEXES)


def test_tags_count_as_they_are_written(staffing: Selfheald, tmp_path: Path) -> None:
    """Of the default selection only the seeds are found."""
    selection = ["resource_type:seed", "tag:foundation"]
    assert set(staffing.but(REQUIRED__SELECT=selection).document("ensure", tmp_path, "--dry-run")["missing"]) == SEEDS
