"""dbt in the forks of one host: what a fork makes is what a fresh child makes, whatever other forks have made before.

The project shows in every way that dbt has which variables and which environment it was read with.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from fixtures.files import write
from fixtures.processes import pinned_python

from selfheald.config import child_environment, load_config
from selfheald.dbt_host import Starter, run_job, start_child
from selfheald.warm_host import WarmHost

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is forked")

FILES = {
    "dbt_project.yml": "name: warm\nversion: '1.0'\nconfig-version: 2\nmodels:\n  warm:\n    +tags: [needed]\n",
    "seeds/places.csv": "name\nHarbour\n",
    "models/totals.sql": "{{ config(alias=var('label') ~ '_totals', materialized=var('kind')) }}\n"
    "select '{{ env_var('PLACE') }}' as place, name, {{ var('factor', 1) }} as factor from {{ ref('places') }}",
    "models/extra.sql": "{{ config(enabled=var('label') == 'north', materialized='table') }}\n"
    "select '{{ invocation_id }}' as invocation, '{{ var('label') }}' as label",
}
#: Variables and environment of two databases, and what is made of them.
NORTH: tuple[dict[str, Any], dict[str, str]] = ({"label": "north", "kind": "table"}, {"PLACE": "up"})
SOUTH: tuple[dict[str, Any], dict[str, str]] = ({"label": "south", "kind": "view", "factor": 7}, {"PLACE": "down"})
MADE = {
    "north": {"places": "BASE TABLE", "north_totals": "BASE TABLE", "extra": "BASE TABLE"},
    "south": {"places": "BASE TABLE", "south_totals": "VIEW"},
}
_LOOK = """
import duckdb, json, sys
with duckdb.connect(sys.argv[1]) as database:
    tables = dict(database.execute("select table_name, table_type from information_schema.tables").fetchall())
    print(json.dumps([tables, *(database.execute(sql).fetchall() for sql in sys.argv[2:])]))
"""


@pytest.fixture(scope="module", params=["own", pytest.param("pinned", marks=pytest.mark.pinned)])
def python(request: pytest.FixtureRequest) -> str:
    """The interpreter whose dbt and DuckDB do the jobs."""
    return sys.executable if request.param == "own" else pinned_python()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Jobs:
    """Jobs of one project, all beginning with the same kept parse."""

    def __init__(self, folder: Path, python: str) -> None:
        self.folder = folder
        self.project = write(folder / "project", FILES)
        self._python = python
        self._numbers: Iterator[int] = itertools.count()

    async def run(self, start: Starter, given: tuple[dict[str, Any], dict[str, str]], kind: str) -> Any:
        """A plan, or the tables that a build has made and the rows that show how."""
        folder = self.folder / f"job-{next(self._numbers)}"
        for name in ("work", "log"):
            (folder / name).mkdir(parents=True)
        names = ["totals", *(["extra"] if given[0]["label"] == "north" else [])]
        job = {
            "job": kind,
            "project_dir": str(self.project),
            "vars": given[0],
            "select": ["resource_type:seed", "tag:needed"],
            "seeds": ["seed.warm.places"],
            "models": [f"model.warm.{name}" for name in names],
            "work_dir": str(folder / "work"),
            "log_dir": str(folder / "log"),
            "log_file": str(folder / "log" / "job.log"),
            "database": str(folder / "simulation.duckdb"),
            "partial_parse": str(self.folder / "kept"),
            "storage_version": "v1.0.0",
        }
        told = await run_job(job, python=self._python, environment=child_environment(given[1]), timeout=90, start=start)
        if kind == "plan":
            return told
        totals = f"select place, name, factor from {given[0]['label']}_totals"
        return self._look(folder / "simulation.duckdb", totals, *([f"from {names[1]}"] if names[1:] else []))

    def _look(self, database: Path, *sql: str) -> Any:
        done = subprocess.run(
            [self._python, "-c", _LOOK, str(database), *sql],
            capture_output=True,
            check=True,
            timeout=60,
            env={**os.environ, **NORTH[1]},
        )
        return json.loads(done.stdout)


@pytest.mark.anyio
async def test_forks_of_one_host_have_nothing_of_one_another(python: str, tmp_path: Path) -> None:
    jobs = Jobs(tmp_path, python)
    config = load_config(
        overrides={"state_dir": str(tmp_path / "state"), "dbt": {"env": {"PLACE": "{workspace}"}}}, environ={}
    )
    forks: list[int] = []
    async with WarmHost(config) as warm:

        async def start(order: Any) -> Any:
            child = await warm.start(order)
            forks.append(int(Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[1]))
            return child

        fresh = {given[0]["label"]: await jobs.run(start_child, given, "plan") for given in (NORTH, SOUTH)}
        assert fresh["north"] != fresh["south"]
        for given in (NORTH, SOUTH, NORTH):
            assert await jobs.run(start, given, "plan") == fresh[given[0]["label"]]

        invocations = set()
        for given in (NORTH, SOUTH, NORTH):
            label, place = given[0]["label"], given[1]["PLACE"]
            tables, rows, *extra = await jobs.run(start, given, "build")
            assert tables == MADE[label]
            assert rows == [[place, "Harbour", given[0].get("factor", 1)]]
            invocations |= {row[0] for each in extra for row in each}
            assert [row[1] for each in extra for row in each] == ([label] if label == "north" else [])
        assert len(invocations) == 2

        write(jobs.project, {"seeds/places.csv": "name\nMill\n"})
        extra_sql = FILES["models/extra.sql"].replace("'{{ var('label') }}'", "'edited'")
        write(jobs.project, {"models/extra.sql": extra_sql})
        _, rows, extra = await jobs.run(start, NORTH, "build")
        assert (rows[0][1], extra[0][1]) == ("Mill", "edited")

        together = []
        async with anyio.create_task_group() as group:

            async def job(given: tuple[dict[str, Any], dict[str, str]]) -> None:
                together.append((await jobs.run(start, given, "build"))[0])

            group.start_soon(job, NORTH)
            group.start_soon(job, SOUTH)
        assert sorted(together, key=len) == [MADE["south"], MADE["north"]]
        assert warm._host is not None
        assert set(forks) == {warm._host.pid}
        assert len(forks) == 9
    # What it does beforehand, to spare time, is to be had in this version.
    assert (tmp_path / "state" / "plans" / "logs" / "host.log").read_text() == ""
