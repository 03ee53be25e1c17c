"""What a build proves of itself: constructions that are the same in every run, and many more that need not be.

The side that counts is the first: what is said to be the same is made again elsewhere, under another clock, time
zone, locale and order of Python's sets, and compared row for row.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from child_process import CHILD, run
from fixtures import reuse_cases as cases
from fixtures.processes import pinned_python

DRIVER = Path(__file__).with_name("reuse_driver.py")
ROOT = Path(__file__).parents[2]
ENDS = ["own", pytest.param("pinned", marks=pytest.mark.pinned)]


def drive(python: str, what: str, order: Any, **environment: str) -> Any:
    done = subprocess.run(
        [sys.executable if python == "own" else pinned_python(), str(DRIVER), str(CHILD), what],
        input=json.dumps(order),
        env={"PATH": os.environ["PATH"], "DBT_SEND_ANONYMOUS_USAGE_STATS": "false", **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    log = Path(order.get("log_file", "/nowhere")) if isinstance(order, dict) else Path("/nowhere")
    assert done.returncode == 0, log.read_text() if log.exists() else done.stderr
    return json.loads(done.stdout)


def written(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def job(folder: Path, project: Path, **more: Any) -> dict[str, Any]:
    """A build of all of a project."""
    for name in ("work", "log"):
        (folder / name).mkdir(parents=True)
    return {
        "project_dir": str(project),
        "database": str(folder / "simulation.duckdb"),
        "work_dir": str(folder / "work"),
        "log_dir": str(folder / "log"),
        "log_file": str(folder / "log" / "child.log"),
        **more,
    }


@pytest.mark.parametrize("python", ENDS)
def test_queries(tmp_path: Path, python: str) -> None:
    expected: dict[str, str | None] = {**dict.fromkeys(cases.proven()), **cases.unproven()}
    expected |= cases.UNPROVEN_BEFORE if python == "pinned" else {}
    expected = {query.replace("{files}", str(tmp_path)): reason for query, reason in expected.items()}
    order = {
        "database": str(tmp_path / "simulation.duckdb"),
        "relations": cases.RELATIONS,
        "files": cases.FILES.replace("{files}", str(tmp_path)),
        "made": cases.MADE,
        "declared": [str(tmp_path / f"known{name}") for name in (".parquet", ".csv", "_too.csv", "_zoned.parquet")],
        "queries": list(expected),
    }
    found = drive(python, "queries", order)
    assert wrong(found, expected) == {}
    order["queries"] = [query for query, reason in expected.items() if reason is None]
    once = drive(python, "rows", order, TZ="UTC")
    assert once == drive(python, "rows", order, TZ="Asia/Tokyo", LC_ALL="tr_TR.UTF-8", HOME="/nowhere")
    assert any(rows for rows in once.values())


@pytest.mark.parametrize("python", ENDS)
def test_models(tmp_path: Path, python: str) -> None:
    project = written(tmp_path / "project", cases.models_project())
    found = drive(
        python, "models", job(tmp_path / "job", project, pre_sql='create schema a; create schema if not exists "b c";')
    )
    assert wrong(found, {name: why for name, (_, why) in cases.MODELS.items() if name in found}) == {}
    assert len(found) > 50
    assert found["rates"] is None


@pytest.mark.parametrize("python", ENDS)
def test_what_no_query_shows(tmp_path: Path, python: str) -> None:
    project = written(tmp_path / "project", cases.FICKLE)
    found = drive(python, "reasons", job(tmp_path / "job", project, **cases.FICKLE_JOB))
    assert [each for each in cases.FICKLE_REASONS if not any(each in reason for reason in found)] == []


def test_the_bundled_project(tmp_path: Path) -> None:
    """With a census that is declared; and as it is told beforehand, with one that is not."""
    census = tmp_path / "census.csv"
    columns = "employee_id,employee_birth_date,employee_hire_date,employee_gross_compensation,level_id"
    census.write_text(f"{columns}\n1,1980-01-01,2020-01-01,60000,1\n")
    names = [path.stem for path in (ROOT / "dbt" / "models" / "foundation").glob("*.sql")]
    more = {
        "project_dir": str(ROOT / "dbt"),
        "vars": {"census_parquet_path": str(census)},
        "seeds": [f"seed.selfheald_foundation.{path.stem}" for path in (ROOT / "dbt" / "seeds").glob("*.csv")],
        "models": [f"model.selfheald_foundation.{name}" for name in names],
    }
    built = run(tmp_path / "built", "build", judge_reuse=True, declared=[str(census)], **more)[-1]
    assert built["reuse"] == {"usable": True, "why": None}
    told = run(tmp_path / "told", "judge", declared=[], **more)[-1]["reuse"]
    assert not told["usable"]
    assert f"model int_baseline_workforce reads {census}, a file that does not count" in told["why"]
    assert run(tmp_path / "again", "judge", declared=[str(census)], **more)[-1]["reuse"]["usable"]


def wrong(found: dict[str, str | None], expected: dict[str, str | None]) -> dict[str, Any]:
    """The cases whose verdict is another than expected, or for another reason."""
    return {
        case: f"{found[case]!r}, not {reason!r}"
        for case, reason in expected.items()
        if (found[case] is None) != (reason is None) or (reason or "") not in (found[case] or "")
    }
