"""What is made of a few nodes of a project is what dbt's own commands make of them, whatever else the project holds."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from fixtures.files import write
from fixtures.processes import pinned_python

from selfheald.config import child_environment
from selfheald.dbt_host import CHILD, run_job
from selfheald.errors import InitializationError

#: With all that a graph can hold. ``by_name`` needs a seed that it does not refer to, and sorts before it.
FILES = {
    "dbt_project.yml": "name: whole\nversion: '1.0'\nconfig-version: 2\n",
    "profiles.yml": "selfheald:\n  target: here\n  outputs:\n    here:\n      type: duckdb\n"
    "      path: \"{{ env_var('DATABASE_PATH') }}\"\n",
    "seeds/places.csv": "id,name\n1,Harbour\n2,Mill\n",
    "seeds/unwanted.csv": "id\n1\n",
    "macros/called.sql": "{% macro called(n) %}{{ n }} * 10{% endmacro %}",
    "models/stage.sql": "{{ config(materialized='ephemeral') }} select id, name from {{ ref('places') }}",
    "models/between.sql": "{{ config(materialized='view') }} select id, name from {{ ref('stage') }}",
    "models/first.sql": "{{ config(materialized='table') }} select id, upper(name) as name from {{ ref('between') }}",
    "models/last.sql": "{{ config(materialized='table', post_hook='insert into {{ this }} values (9, 9)') }}\n"
    "select id, {{ called(2) }} as n from {{ ref('first') }} union all select x, y from {{ source('raw', 'given') }}",
    "models/by_name.sql": "{{ config(materialized='table') }} select count(*) as places from main.places",
    "models/of_all.sql": "{{ config(materialized='table') }}\n"
    "select {{ graph.nodes | length if execute else 0 }} as n, {{ graph.exposures | length if execute else 0 }} as e",
    "models/grown.sql": "{{ config(materialized='incremental') }} select id from {{ ref('first') }}",
    "models/off.sql": "{{ config(enabled=false) }} select 1 as id",
    "models/unwanted_model.sql": "{{ config(materialized='table') }} select error('not to be made') as id",
    "models/unwanted_child.sql": "select * from {{ ref('last') }}",
    "snapshots/kept.sql": "{% snapshot kept %}{{ config(target_schema='main', unique_key='id', strategy='check', "
    "check_cols=['name']) }} select * from {{ ref('first') }}{% endsnapshot %}",
    "tests/singular.sql": "select * from {{ ref('first') }} where id = 1",
    "models/schema.yml": """
version: 2
sources:
  - name: raw
    schema: main
    tables: [{name: given}]
models:
  - name: first
    columns: [{name: id, data_tests: [not_null, {relationships: {to: ref('places'), field: id}}]}]
unit_tests:
  - name: in_capitals
    model: first
    given: [{input: ref('between'), rows: [{id: 1, name: a}]}]
    expect: {rows: [{id: 1, name: B}]}
exposures:
  - {name: board, type: dashboard, owner: {name: somebody}, depends_on: [ref('last'), ref('unwanted_model')]}
""",
}
#: By these a project can tell one invocation from another.
TELLING = {
    "dbt_project.yml": FILES["dbt_project.yml"] + "on-run-start: 'create table if not exists runs (n integer)'\n"
    "on-run-end: ['insert into runs values (1)']\n",
    "models/selected.sql": "{{ config(materialized='table') }}\n"
    "select '{{ selected_resources | sort | join(' ') }}' as those, '{{ flags.WHICH }}' as command",
}
#: A macro that is called by a name that nobody can read beforehand.
ODD = {
    "macros/odd.sql": "{% macro by_any_name(name, n) %}{{ context[name](n) }}{% endmacro %}",
    "models/odd.sql": "{{ config(materialized='table') }} select {{ by_any_name('called', 3) }} as n",
}

MODELS = ["between", "first", "last", "by_name", "of_all", "grown"]
GIVEN = "create table given as select 7 as x, 8 as y"
_DBT = """
import json, sys
from dbt.cli.main import dbtRunner
for command in json.loads(sys.argv[1]):
    done = dbtRunner().invoke(command)
    assert done.success, (command, done.exception, done.result)
"""
_LOOK = """
import duckdb, json, sys
with duckdb.connect(sys.argv[1]) as database:
    names = database.execute("select table_name, table_type from information_schema.tables order by all").fetchall()
    times = {"dbt_scd_id", "dbt_updated_at", "dbt_valid_from", "dbt_valid_to"}
    found = {}
    for name, kind in names:
        rows = database.execute(f'select * from "{name}"')
        kept = [number for number, column in enumerate(rows.description) if column[0] not in times]
        found[name] = [kind, sorted(str([row[number] for number in kept]) for row in rows.fetchall())]
    print(json.dumps(found))
"""


@pytest.fixture(scope="module", params=["own", pytest.param("pinned", marks=pytest.mark.pinned)])
def python(request: pytest.FixtureRequest) -> str:
    """The interpreter whose dbt and DuckDB do the jobs."""
    return sys.executable if request.param == "own" else pinned_python()


def run(python: str, *arguments: str, **environment: str) -> str:
    quiet = {**os.environ, "DBT_SEND_ANONYMOUS_USAGE_STATS": "false", **environment}
    done = subprocess.run([python, *arguments], capture_output=True, text=True, timeout=90, check=False, env=quiet)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class Project:
    """A project, and what is made of some of its nodes: by a job, and by hand."""

    def __init__(self, python: str, folder: Path, files: dict[str, str], models: list[str]) -> None:
        self.python = python
        self.folder = folder
        self.place = write(folder / "project", files)
        self.models = models
        self.events: list[dict[str, Any]] = []

    def by_job(self) -> Any:
        folder = self.folder / "job"
        for name in ("work", "log"):
            (folder / name).mkdir(parents=True)
        job: dict[str, Any] = {
            "job": "build",
            "project_dir": str(self.place),
            "vars": {},
            "seeds": ["seed.whole.places"],
            "models": [*(f"model.whole.{name}" for name in self.models), "snapshot.whole.kept"],
            "work_dir": str(folder / "work"),
            "log_dir": str(folder / "log"),
            "log_file": str(folder / "log" / "job.log"),
            "database": str(folder / "simulation.duckdb"),
            "storage_version": None,
            "pre_sql": GIVEN,
        }
        environment = child_environment({})
        anyio.run(
            lambda: run_job(job, python=self.python, environment=environment, timeout=90, on_event=self.events.append)
        )
        return self._look(folder / "simulation.duckdb")

    def by_hand(self) -> Any:
        folder = self.folder / "hand"
        folder.mkdir()
        database = folder / "simulation.duckdb"
        run(
            self.python,
            "-c",
            "import duckdb, sys; duckdb.connect(sys.argv[1]).execute(sys.argv[2])",
            str(database),
            GIVEN,
        )
        options = ["--project-dir", self.place, "--profiles-dir", self.place, "--target-path", folder / "target"]
        common = ["--profile", "selfheald", "--log-path", folder / "logs", *options]
        kinds = ["--resource-type", "model", "--resource-type", "snapshot"]
        commands = [["seed", "--select", "places"], ["build", *kinds, "--select", *self.models, "kept"]]
        lines = [["--quiet", *command, *map(str, common)] for command in commands]
        run(self.python, "-c", _DBT, json.dumps(lines), DATABASE_PATH=str(database))
        return self._look(database)

    def invocations(self) -> int:
        """How many commands the job has run, that of parsing among them."""
        return len(re.findall(r"Running with dbt=", (self.folder / "job" / "log" / "dbt.log").read_text()))

    def _look(self, database: Path) -> Any:
        return json.loads(run(self.python, "-c", _LOOK, str(database)))


def test_a_job_makes_what_dbt_makes_by_hand(python: str, tmp_path: Path) -> None:
    project = Project(python, tmp_path, FILES, MODELS)
    made = project.by_job()
    assert made == project.by_hand()
    assert made["by_name"] == ["BASE TABLE", ["[2]"]]
    assert made["first"][1] == ["[1, 'HARBOUR']", "[2, 'MILL']"]
    assert set(made) == {*MODELS, "places", "given", "kept"}
    assert project.invocations() == 2
    story = [(event["name"], event["state"]) for event in project.events if event["event"] == "step"]
    assert story == [(name, state) for name in ("load_seeds", "build_foundation") for state in ("started", "completed")]


def test_what_can_tell_invocations_apart_sees_as_many_as_by_hand(python: str, tmp_path: Path) -> None:
    project = Project(python, tmp_path, {**FILES, **TELLING, **ODD}, [*MODELS, "selected", "odd"])
    made = project.by_job()
    assert made == project.by_hand()
    assert made["runs"] == ["BASE TABLE", ["[1]", "[1]"]]
    assert made["odd"][1] == ["[30]"]
    assert "seed" not in made["selected"][1][0]
    assert project.invocations() == 3


def test_after_a_seed_that_fails_no_model_begins(python: str, tmp_path: Path) -> None:
    bad = {"dbt_project.yml": FILES["dbt_project.yml"] + "seeds:\n  whole:\n    +column_types: {id: date}\n"}
    project = Project(python, tmp_path, {**FILES, **bad}, MODELS)
    with pytest.raises(InitializationError) as caught:
        project.by_job()
    assert caught.value.code == "seed_invalid"
    assert "places.csv" in str(caught.value.path)
    steps = [(event["name"], event["state"]) for event in project.events if event["event"] == "step"]
    assert steps == [("load_seeds", "started")]
    told = [event["arguments"] for event in project.events if event["event"] == "command"]
    assert [arguments[0] for arguments in told] == ["seed", "seed"]


def test_each_shortcut_fits_this_dbt(python: str) -> None:
    """One that did not would be passed over without a word, and only the time would tell."""
    code = """
import sys
sys.path.insert(0, sys.argv[1])
import dbt_session, shortcuts
for take in shortcuts.SHORTCUTS:
    take()
assert shortcuts.link_only([["a"], ["b"]])
"""
    run(python, "-c", code, str(CHILD))
