"""``history``: past attempts as they were, for people and for programs, whatever lies in the file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from processes import Selfheald, command
from projects import copy_project, own_database
from terminals import plain, terminal

from selfheald.workspace import Database

#: What a record of somebody else's could do to a terminal.
HOSTILE = {
    "outcome": "\x1b[2J",
    "steps": [{"name": "\x07", "started_at": "2026-01-01T00:00:00Z"}],
    "nodes": {
        "slowest": [{"name": "\x1b]0;gone\x07[bold]", "step": "\x07", "started_at": "2026-01-01T00:00:00Z"}],
        "others": "\x07",
    },
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


def test_the_nodes_of_an_attempt(selfheald: Selfheald, tried_twice: Database) -> None:
    """Below their steps, paler; the one that failed too, and of many the slowest."""
    failed, made = selfheald.ok("history", tried_twice).stdout.split("\n2", 1)
    drawn = [line[4:29].rstrip() for line in made.splitlines() if "▒" in line]
    assert drawn[0] == "regions"
    assert sorted(drawn[1:]) == ["dim_regions", "fct_headcount", "stg_regions"]
    [above] = [made.splitlines()[number - 1] for number, line in enumerate(made.splitlines()) if "  regions " in line]
    assert above.startswith("  Loading seed data")
    assert "    dim_regions" in {line[:29].rstrip() for line in failed.splitlines()}

    one = selfheald.ok("history", tried_twice, "-n", "1", "--nodes", "1").stdout
    assert len([line for line in one.splitlines() if "▒" in line]) == 1
    assert "  and 3 faster nodes (--nodes 4, --json)" in one
    assert "▒" not in selfheald.ok("history", tried_twice, "--nodes", "0").stdout

    told, last = (each["nodes"] for each in selfheald.document("history", tried_twice)["attempts"])
    assert [node["name"] for node in last["slowest"]] == drawn
    assert last["others"] == 0
    for node in last["slowest"]:
        assert set(node) == {"name", "step", "status", "started_at", "completed_at", "duration_seconds"}
        assert node["status"] == "success"
        assert node["duration_seconds"] > 0
        assert node["step"] == ("load_seeds" if node["name"] == "regions" else "build_foundation")
    assert {node["name"]: node["status"] for node in told["slowest"]}["dim_regions"] == "error"


def test_on_a_narrow_terminal(selfheald: Selfheald, tried_twice: Database) -> None:
    with terminal(command("history", tried_twice), selfheald.settings() | {"TERM": "xterm"}, (40, 24)) as screen:
        assert screen.wait() == 0
    drawn = [line for line in plain(screen.text).splitlines() if "█" in line or "▒" in line]
    assert len(drawn) > 5
    assert all(len(line) <= 40 for line in drawn), drawn


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


def test_what_came_from_a_template_says_so(selfheald: Selfheald, tmp_path: Path) -> None:
    database = Database(tmp_path / "simulation.duckdb")
    database.private.mkdir()
    entry = {"outcome": "initialized", "trigger": "event", "tables_created": ["a"], "origin": "template"}
    database.history.write_text(json.dumps(entry) + "\n")
    assert "initialized, 1 table made, from a template (event)" in selfheald.ok("history", database).stdout


def test_a_file_that_others_wrote(selfheald: Selfheald, tmp_path: Path) -> None:
    database = Database(tmp_path / "simulation.duckdb")
    database.private.mkdir()
    database.history.write_text(f"{json.dumps(HOSTILE)}\nno json\n[]\n{{}}\n")
    told = selfheald.ok("history", database).stdout
    assert "\x1b" not in told
    assert "\x07" not in told
    assert told.count("at an unknown time") == 2
