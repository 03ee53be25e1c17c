"""``history``: past attempts as they were, for people and for programs, whatever lies in the file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from processes import Selfheald
from projects import copy_project, own_database

from selfheald.workspace import Database

#: What a record of somebody else's could do to a terminal.
HOSTILE = {
    "outcome": "\x1b[2J",
    "steps": [{"name": "\x07", "started_at": "2026-01-01T00:00:00Z"}],
    "error": {"code": 1},
}


@pytest.fixture(scope="module")
def tried_twice(shared_selfheald: Selfheald, tmp_path_factory: pytest.TempPathFactory) -> Database:
    """A database whose project failed, was mended, and then made its tables."""
    folder = tmp_path_factory.mktemp("history")
    project, database = copy_project(folder / "project"), own_database(folder / "workspace")
    model = project / "models" / "mart" / "dim_regions.sql"
    right = model.read_text()
    model.write_text("select no_such_column from {{ ref('regions') }}")
    assert shared_selfheald.run("ensure", database, DBT__PROJECT_DIR=str(project)).returncode == 1
    model.write_text(right)
    shared_selfheald.ok("ensure", database, DBT__PROJECT_DIR=str(project))
    return Database(database)


def test_for_people(selfheald: Selfheald, tried_twice: Database) -> None:
    failed, made = selfheald.ok("history", tried_twice).stdout.split("\n2", 1)
    assert " failed in " in failed
    assert "  dbt_failed: " in failed
    assert "no_such_column" in failed
    assert f"  log: {tried_twice.private / 'logs'}" in failed
    assert " initialized in " in made
    assert ", 3 tables made (ensure)" in made
    drawn = [line for line in made.splitlines() if "█" in line]
    assert [line[2:29].rstrip() for line in drawn] == [
        "Checking tables",
        "Loading seed data",
        "Building foundation models",
        "Verifying",
        "Publishing",
    ]
    assert [line.index("█") for line in drawn] == sorted(line.index("█") for line in drawn)


def test_the_latest_alone(selfheald: Selfheald, tried_twice: Database) -> None:
    told = selfheald.ok("history", tried_twice, "-n", "1").stdout
    assert told.startswith("1 earlier ones are not shown: -n 2\n")
    assert "failed" not in told


def test_for_programs(selfheald: Selfheald, tried_twice: Database) -> None:
    document = selfheald.document("history", tried_twice, "--json")
    assert document["format"] == 1
    assert document["database"] == str(tried_twice)
    assert [attempt["outcome"] for attempt in document["attempts"]] == ["failed", "initialized"]
    assert [attempt["trigger"] for attempt in document["attempts"]] == ["ensure", "ensure"]
    assert document["error"] is None
    (last,) = selfheald.document("history", tried_twice, "-n", "1", "--json")["attempts"]
    assert last == document["attempts"][-1]


def test_none_yet(selfheald: Selfheald, tmp_path: Path) -> None:
    database = tmp_path / "simulation.duckdb"
    assert selfheald.ok("history", tmp_path).stdout == f"No attempts yet: {database}\n"
    assert selfheald.document("history", tmp_path, "--json")["attempts"] == []


def test_no_folder(selfheald: Selfheald, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere" / "simulation.duckdb"
    done = selfheald.run("history", nowhere, "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["code"] == "config_invalid"


def test_a_file_that_others_wrote(selfheald: Selfheald, tmp_path: Path) -> None:
    database = Database(tmp_path / "simulation.duckdb")
    database.private.mkdir()
    database.history.write_text(f"{json.dumps(HOSTILE)}\nno json\n[]\n{{}}\n")
    told = selfheald.ok("history", database).stdout
    assert "\x1b" not in told
    assert "\x07" not in told
    assert told.count("at an unknown time") == 2
