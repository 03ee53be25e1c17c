"""A daemon follows the edits of dbt projects: what is required then, and of which databases."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from fixtures.waiting import wait_for
from processes import Daemon, Selfheald, at_work, change, digests, marker, wait_until_marked
from projects import NOTES, OWN_TABLES, copy_project, own_database, tables

from selfheald.client import valid_marker

QUICK: dict[str, object] = {"WATCH__RESCAN": 1}
YEARS = "select distinct plan_year from {{ ref('fct_headcount') }}"


def ready_with(daemon: Daemon, database: Path, foundation: int) -> None:
    """Wait until the marker is valid and counts so many foundation tables."""

    def is_so() -> bool:
        found = valid_marker(database)
        return found is not None and found["tables"] == {"seed": 1, "foundation": foundation}

    wait_for(is_so, what=daemon.told)


def test_a_table_more_and_a_table_less(selfheald: Selfheald, root: Path, tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project")
    database = own_database(root / "w")
    with selfheald.daemon(root, DBT__PROJECT_DIR=str(project), **QUICK) as daemon:
        ready_with(daemon, database, 2)
        before = digests(database)
        years = project / "models" / "mart" / "dim_years.sql"
        years.write_text(YEARS)
        ready_with(daemon, database, 3)
        assert tables(database) == OWN_TABLES | NOTES | {"dim_years"}
        years.unlink()
        ready_with(daemon, database, 2)
    after = digests(database)
    assert after.pop("dim_years")[0] > 0  # nobody requires it any more, and it stays
    assert after == before


def test_an_edit_while_the_first_tables_are_made(selfheald: Selfheald, root: Path, tmp_path: Path) -> None:
    """What is ready then is so by the old plan: the new one is followed as soon as the old work has ended."""
    project = copy_project(tmp_path / "project")
    database = own_database(root / "w")
    with selfheald.daemon(root, DBT__PROJECT_DIR=str(project), **QUICK) as daemon:
        child = at_work(daemon.pid, database)
        os.kill(child, signal.SIGSTOP)
        (project / "models" / "mart" / "dim_years.sql").write_text(YEARS)
        wait_for(lambda: daemon.log_lines("project_seen"), what=daemon.told)
        assert not daemon.log_lines("initialization_complete")
        os.kill(child, signal.SIGCONT)
        ready_with(daemon, database, 3)
    assert tables(database) == OWN_TABLES | NOTES | {"dim_years"}


def test_databases_with_variables_of_their_own(selfheald: Selfheald, root: Path, tmp_path: Path) -> None:
    """Their tables have other names each, so each has a plan of its own; one edit concerns them all."""
    project = copy_project(tmp_path / "project")
    model = project / "models" / "mart" / "dim_regions.sql"
    model.write_text("{{ config(alias='dim_' ~ var('place').split('/')[-1]) }}\n" + model.read_text())
    databases = {name: own_database(root / name) for name in ("north", "south")}
    settings = {"DBT__PROJECT_DIR": str(project), "DBT__VARS": {"place": "{workspace}"}, **QUICK}
    with selfheald.daemon(root, **settings) as daemon:
        for name, database in databases.items():
            ready_with(daemon, database, 2)
            assert tables(database) == (OWN_TABLES - {"dim_regions"}) | NOTES | {f"dim_{name}"}
        before = {name: (marker(database)["fingerprint"], digests(database)) for name, database in databases.items()}
        model.write_text(model.read_text() + "-- edited\n")
        for name, database in databases.items():
            wait_for(
                lambda: (valid_marker(database) or {}).get("fingerprint") not in (None, before[name][0]),  # noqa: B023
                what=daemon.told,
            )
            assert digests(database) == before[name][1]
        change(databases["south"], "drop table dim_south")
        wait_for(lambda: valid_marker(databases["south"]), what=daemon.told)
    assert digests(databases["south"]) == before["south"][1]
    assert len({fingerprint for fingerprint, _ in before.values()}) == 2


def test_projects_in_workspaces_that_are_trusted(selfheald: Selfheald, root: Path) -> None:
    """An edit of the one concerns its own database alone."""
    databases = [own_database(root / name) for name in ("north", "south")]
    for database in databases:
        copy_project(database.parent / "project")
    settings: dict[str, object] = {"DBT__PROJECT_DIR": "{workspace}/project", "DBT__TRUST_WORKSPACE_PROJECTS": "true"}
    with selfheald.daemon(root, **settings, **QUICK) as daemon:
        for database in databases:
            wait_until_marked(database)
        north, south = databases
        untouched = marker(south)["fingerprint"]
        (north.parent / "project" / "models" / "mart" / "dim_years.sql").write_text(YEARS)
        ready_with(daemon, north, 3)
        assert marker(south)["fingerprint"] == untouched
    assert tables(north) == OWN_TABLES | NOTES | {"dim_years"}
    assert tables(south) == OWN_TABLES | NOTES
