"""``ensure --dry-run`` and ``ensure --keep-staging``: what would be done, and what was done when it failed."""

from __future__ import annotations

import hashlib
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fixtures.processes import pinned_python
from fixtures.waiting import DEADLINE
from processes import NAME, Selfheald, change, holding, rows, status
from projects import copy_project, error_block, own_database, staging_left, tables

#: A folder with what breaks things in SQL, shells, YAML and Jinja; dbt's variables hold it too.
ODD = """it's "odd" größe 100% {x} {{ y }} $HOME `id` & [z]: -"""
SECRET = "s3cret 'token'"
_STARTED = re.compile(r"\d+ of \d+ START (?:\w+ )+\w+\.(\w+) ")

#: It shows its variables and environment in its rows, as they came to it.
_MODEL = """
{%- set quoted = "''" -%}
select
    '{{ var("note") | replace("'", quoted) }}' as note,
    '{{ var("asked") | replace("'", quoted) }}' as asked,
    '{{ env_var("PLACE") | replace("'", quoted) }}' as place,
    '{{ env_var("TOKEN") | replace("'", quoted) }}' as token,
    WRONG
from {{ ref('fct_headcount') }}
limit 1
"""
_ASK = "import json, os, sys; print(json.dumps({'asked': [os.getcwd(), *sys.argv[1:]]}))"


def tree(*folders: Path) -> dict[str, tuple[int, str]]:
    """Everything below the folders: mode and content."""
    return {
        str(path): (
            path.lstat().st_mode,
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else str(path.lstat().st_mtime_ns),
        )
        for folder in folders
        for path in sorted([folder, *folder.rglob("*")])
    }


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_project(tmp_path_factory.mktemp("ensure") / "project")


def test_a_dry_run_tells_all_and_changes_nothing(project: Path, tmp_path: Path, selfheald: Selfheald) -> None:
    """Absent, existing and held; then ``ensure`` does just that, in that order."""
    settings: dict[str, Any] = {
        "DBT__PROJECT_DIR": str(project),
        "DBT__VARS": {"first_year": 2040, "api_key": SECRET},
        "REQUIRED__SELECT": ["tag:given", "tag:foundation", "stg_regions"],
    }
    bare, database = tmp_path / "bare", own_database(tmp_path / "w")
    bare.mkdir()
    before = tree(tmp_path / "w", bare, project)

    absent = selfheald.ok("ensure", bare, "--dry-run", **settings)
    assert "Reading the dbt project…" in absent.stderr
    assert f"There is no database yet: {bare}/simulation.duckdb would be made." in absent.stderr
    assert "warning: model.own_project.stg_regions is selected but is view: it is no required table" in absent.stderr
    assert absent.stdout.splitlines()[0].startswith(f"Missing in {bare}/simulation.duckdb: regions, ")
    assert "ephemeral: model.own_project.int_region_years" in absent.stdout
    assert "  first_year: 2040" in absent.stdout
    assert SECRET not in absent.stdout + absent.stderr

    planned = selfheald.document("ensure", database, "--dry-run", **settings)
    assert planned == {
        "format": 1,
        "database": str(database),
        "missing": ["regions", "dim_regions", "fct_headcount"],
        "nodes": [
            {"unique_id": "seed.own_project.regions", "tier": "seed"},
            {"unique_id": "model.own_project.stg_regions", "tier": "foundation"},
            {"unique_id": "model.own_project.fct_headcount", "tier": "foundation"},
            {"unique_id": "model.own_project.dim_regions", "tier": "foundation"},
        ],
        "vars": {"first_year": 2040, "api_key": "<hidden>"},
        "project": str(project),
        "template": planned["template"],
    }
    with holding(database, "read") as holder:
        held = selfheald.run("ensure", database, "--dry-run", "--json", **settings)
    assert (held.returncode, held.stdout.count("unique_id")) == (0, 4)
    assert f"PID {holder.pid} " in held.stderr
    assert "has it open for reading: it would be waited for." in held.stderr
    assert tree(tmp_path / "w", bare, project) == before

    selfheald.ok("ensure", database, **settings)
    log = "".join(path.read_text() for path in (tmp_path / "w/.selfheald/logs").glob("*/dbt.log"))
    ran = [node["unique_id"].rpartition(".")[2] for node in planned["nodes"]]
    assert _STARTED.findall(log) == ran

    change(database, "drop table dim_regions")
    before = tree(tmp_path / "w", project)
    partly = selfheald.ok("ensure", database, "--dry-run", **settings).stdout
    assert "Copied to staging first, as they are: main.fct_headcount, main.regions" in partly
    assert "model.own_project.stg_regions  (view, made on the way; on staging alone)" in partly
    assert "ephemeral" not in partly

    change(database, "create view dim_regions as select 1 as one")
    before = tree(tmp_path / "w", project)
    refused = selfheald.run("ensure", database, "--dry-run", **settings)
    assert refused.returncode == 1
    assert error_block(refused.stderr)[0][0].startswith("error[schema_mismatch]: dim_regions is a view")
    assert tree(tmp_path / "w", project) == before


@pytest.mark.parametrize("name", ["these", "pinned"])
def test_kept_staging_fails_in_the_same_way_until_the_model_is_mended(
    name: str, tmp_path: Path, selfheald: Selfheald
) -> None:
    python = sys.executable if name == "these" else pinned_python()
    project, database = copy_project(tmp_path / "project"), tmp_path / ODD / NAME
    database.parent.mkdir()
    model = project / "models/mart/dim_regions.sql"
    model.write_text(_MODEL)
    settings: dict[str, Any] = {
        "DBT__PROJECT_DIR": str(project),
        "DBT__PYTHON": python,
        "DBT__VARS": {"note": "{workspace} | {database}", "password": SECRET},
        "DBT__VARS_COMMAND": [sys.executable, "-c", _ASK, "{workspace}", "{database}"],
        "DBT__ENV": {"TOKEN": SECRET, "PLACE": "{workspace}"},
        "REQUIRED__SELECT": ["tag:given", "tag:foundation"],
    }
    # A shell of the same environment, but for what selfheald itself adds.
    inherited = {key: value for key, value in selfheald.environment.items() if not key.startswith("SELFHEALD_")}

    done = selfheald.run("ensure", database, "--keep-staging", **settings)
    assert done.returncode == 1
    (first, *more), command = error_block(done.stderr)
    assert first.startswith("error[dbt_failed]: Runtime Error in model dim_regions (models/mart/dim_regions.sql)")
    words = [line for line in more if 'Referenced column "WRONG" not found in FROM clause!' in line]
    assert words, more
    [kept] = (database.parent / ".selfheald").glob("kept-*")
    assert more[-1] == f"Staging is kept in {kept}, until the next success or for 7 days. What dbt did there:"
    assert more[-2].startswith("Mend the model")
    assert SECRET not in done.stderr
    assert staging_left(database) == []
    assert str(kept) not in status(database)["error"]["hint"]

    def again() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", "-c", command], env=inherited, cwd=tmp_path, capture_output=True, text=True, timeout=DEADLINE,
            check=False,
        )  # fmt: skip

    failed = again()
    assert failed.returncode == 1, failed.stderr
    assert words[0].strip() in failed.stdout
    assert "1 of 1 ERROR creating sql table model main.dim_regions" in failed.stdout
    assert (kept / "private.sh").stat().st_mode & 0o077 == 0
    model.write_text(_MODEL.replace("WRONG", "headcount"))
    mended = again()
    assert mended.returncode == 0, mended.stdout
    assert "1 of 1 OK created sql table model main.dim_regions" in mended.stdout
    assert not database.exists()

    assert selfheald.document("ensure", database, **settings)["outcome"] == "initialized"
    assert not kept.exists()
    place, file = str(database.parent), str(database)
    [(note, asked, environment, token)] = rows(database, "select note, asked, place, token from dim_regions")
    assert note == f"{place} | {file}"
    assert asked == str([place, place, file])
    assert (environment, token) == (place, SECRET)


def test_json_tells_of_what_is_kept_in_the_hint(tmp_path: Path, selfheald: Selfheald) -> None:
    project, database = copy_project(tmp_path / "project"), own_database(tmp_path / "w")
    (project / "seeds/regions.csv").write_text("region_code,region_name,headcount\n1,a,2,3\n")

    document = selfheald.document("ensure", database, "--keep-staging", code=1, DBT__PROJECT_DIR=str(project))
    assert document["error"]["code"] == "seed_invalid"
    hint, told, command = document["error"]["hint"].splitlines()
    assert hint == f"Mend line 2 of {project}/seeds/regions.csv, then try again."
    [kept] = (database.parent / ".selfheald").glob("kept-*")
    assert str(kept) in told
    words = shlex.split(command)
    assert words[:2] == [f"DATABASE_PATH={kept}/simulation.duckdb", "DBT_SEND_ANONYMOUS_USAGE_STATS=false"]
    assert words[-2:] == ["--select", "fqn:own_project.regions,file:regions.csv,resource_type:seed"]
    assert tables(database) == {"notes"}


_CRASH = """
import duckdb, os, signal, sys
connection = duckdb.connect(sys.argv[1])
connection.execute("insert into notes values (43)")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_table_with_a_computed_column_whose_copy_a_hook_changes(tmp_path: Path, selfheald: Selfheald) -> None:
    """Beside a WAL rows are compared before anything is published: those of the table, not those of its copy."""
    project = copy_project(tmp_path / "project")
    with (project / "dbt_project.yml").open("a") as file:
        file.write('on-run-start: "update regions set headcount = headcount + 1, doubled = 0"\n')
    database = own_database(tmp_path / "workspace")
    change(
        database,
        "create table regions (region_code varchar, region_name varchar, headcount integer, "
        "doubled integer generated always as (headcount * 2))",
        "insert into regions (region_code, region_name, headcount) values ('07', 'Far', 10)",
    )
    subprocess.run([sys.executable, "-c", _CRASH, str(database)], check=False, timeout=DEADLINE)
    assert database.with_name(f"{NAME}.wal").stat().st_size > 0

    settings: dict[str, Any] = {"DBT__PROJECT_DIR": str(project), "DBT__VARS": {}}
    assert selfheald.document("ensure", database, **settings)["outcome"] == "initialized"
    assert set(status(database)["tables_created"]) == {"dim_regions", "fct_headcount"}
    assert rows(database, "select * from regions") == [("07", "Far", 10, 20)]
    assert rows(database, "select distinct headcount from fct_headcount") == [(11,)]
    assert rows(database, "select answer from notes order by 1") == [(42,), (43,)]
