"""The versions that simulators use today: selfheald runs in their environment, and makes what their DuckDB can read.

``SELFHEALD_TEST_PINNED`` names the Python of that environment; selfheald is installed in it.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pytest
from fixtures.generated_project import write_project
from fixtures.waiting import DEADLINE, wait_for
from plain_dbt import by_hand, contents
from processes import (
    EXAMPLES,
    MODELS,
    NAME,
    REQUIRED,
    STAFFING_PROJECT,
    Record,
    Running,
    Selfheald,
    digests,
    marker,
    running,
    status,
    steps_of,
)

from selfheald.client import read_record

pytestmark = pytest.mark.pinned

#: What reads a database there: its tables with their rows, each value as text.
_READ = """
import duckdb, json, sys
with duckdb.connect(sys.argv[1], read_only=True) as connection:
    names = connection.execute("select schema_name, table_name from duckdb_tables()").fetchall()
    rows = {
        f"{schema}.{name}": [
            list(map(str, row))
            for row in connection.execute(f'select * from "{schema}"."{name}" order by all').fetchall()
        ]
        for schema, name in names
    }
print(json.dumps([duckdb.__version__, rows]))
"""
_EXECUTE = "import duckdb, sys; connection = duckdb.connect(sys.argv[1]); connection.execute(sys.argv[2])"

#: Of each table (``schema.name``) all rows, each value as text.
Texts = dict[str, list[list[str]]]


class Pinned:
    """The other environment: its Python, its selfheald, its DuckDB."""

    def __init__(self, python: str, folder: Path, environment: dict[str, str]) -> None:
        self.python = python
        self.folder = folder
        self.environment = environment

    def run(self, *arguments: object) -> str:
        """What a Python command line prints; it must succeed."""
        done = subprocess.run(
            [self.python, *map(str, arguments)],
            env=self.environment, cwd=self.folder, capture_output=True, text=True, timeout=DEADLINE, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def selfheald(self, *arguments: object) -> Record:
        """The document that a command prints; it must succeed."""
        document: Record = json.loads(self.run("-m", "selfheald", *arguments, "--json"))
        return document

    def read(self, database: Path) -> Texts:
        """The tables of a database with their rows, as DuckDB 1.0.0 reads them."""
        version, found = json.loads(self.run("-c", _READ, database))
        assert version == "1.0.0"
        assert isinstance(found, dict)
        return found

    def counts(self, database: Path) -> dict[str, int]:
        """The tables in the schema ``main`` with their numbers of rows, as DuckDB 1.0.0 reads them."""
        return {name.removeprefix("main."): len(rows) for name, rows in self.read(database).items()}

    @contextmanager
    def daemon(self, root: Path) -> Iterator[Running]:
        """Its daemon, ready; stopped by SIGTERM in the end."""
        arguments = [self.python, "-m", "selfheald", "run", str(root)]
        with running(arguments, self.folder, self.environment) as daemon:
            record = root / ".selfheald" / "daemon.json"
            wait_for(lambda: (read_record(record) or {}).get("state") == "ready", what=lambda: daemon.stderr)
            yield daemon
            daemon.process.terminate()
            assert daemon.wait() == 0


@pytest.fixture(scope="session", autouse=True)
def python() -> str:
    """The interpreter with the pinned versions; before anything else is made."""
    python = os.environ.get("SELFHEALD_TEST_PINNED")
    if not python:
        pytest.skip("SELFHEALD_TEST_PINNED names no Python with the pinned versions")
    return python


@pytest.fixture
def pinned(python: str, tmp_path: Path, environment: dict[str, str]) -> Pinned:
    folder = tmp_path / "pinned"
    folder.mkdir()
    return Pinned(python, folder, environment)


def test_the_whole_way(pinned: Pinned, root: Path) -> None:
    """Daemon, empty workspace, waiter, tables; a dropped table is made anew; the simulator of the examples runs."""
    workspace = root / "workspace"
    workspace.mkdir()
    database = workspace / NAME
    with pinned.daemon(root):
        assert pinned.selfheald("wait", workspace)["outcome"] == "ready"
        assert marker(database)["origin"] == "dbt"
        first = pinned.counts(database)
        assert set(first) == set(REQUIRED)
        assert all(first.values()), first

        inode = database.stat().st_ino
        pinned.run("-c", _EXECUTE, database, f"drop table {MODELS[0]}")
        waited = pinned.selfheald("wait", workspace)
        assert waited["outcome"] == "ready"
        assert status(database)["tables_created"] == [MODELS[0]]
        assert set(steps_of(status(database)).values()) == {"completed"}
        assert database.stat().st_ino == inode
        assert pinned.counts(database) == first
        assert pinned.selfheald("check", workspace)["marker"] == "valid"

        pinned.run(EXAMPLES / "simulator.py", database, "--years", "2")
        assert pinned.counts(database)["fct_yearly_events"] > 0
        assert pinned.selfheald("wait", workspace)["outcome"] == "ready"
        assert {name: pinned.counts(database)[name] for name in REQUIRED} == first


def test_the_newest_daemon_lets_the_simulators_own_dbt_build(
    pinned: Pinned, root: Path, selfheald: Selfheald, finished: Path
) -> None:
    """``dbt.python``: the daemon is newer than what writes the database; the rows are the same."""
    workspace = root / "workspace"
    workspace.mkdir()
    with selfheald.daemon(root, DBT__PYTHON=pinned.python):
        selfheald.ok("wait", workspace)
        counts = pinned.counts(workspace / NAME)
        assert set(counts) == set(REQUIRED)
        pinned.run("-c", _EXECUTE, workspace / NAME, f"drop table {MODELS[0]}")
        selfheald.ok("wait", workspace)
        assert pinned.counts(workspace / NAME) == counts
    assert digests(workspace / NAME) == digests(finished)


def test_what_the_newest_makes_is_readable(pinned: Pinned, finished: Path) -> None:
    """By default the storage format is one that DuckDB 1.0.0 reads."""
    counts = pinned.counts(finished)
    assert set(counts) == set(REQUIRED)
    assert counts == {name: digest[0] for name, digest in digests(finished).items()}


@pytest.fixture
def staffing() -> dict[str, object]:
    """Settings for the project with schemas, aliases, hooks, a snapshot and a package."""
    return {
        "DBT__PROJECT_DIR": str(STAFFING_PROJECT),
        "DBT__VARS": {},
        "REQUIRED__SELECT": ["resource_type:seed", "tag:FOUNDATION"],
    }


@pytest.fixture
def generated(tmp_path: Path) -> dict[str, object]:
    """Settings for a generated project with a census."""
    project, census = tmp_path / "project", tmp_path / "census.parquet"
    write_project(project, models=60)
    with duckdb.connect() as connection:
        people = "select range as employee_id, 1 + range % 3 as level_id, 40000 + range as pay from range(200)"
        connection.execute(f"copy ({people}) to '{census}' (format parquet)")
    return {
        "DBT__PROJECT_DIR": str(project),
        "DBT__VARS": {"census_path": str(census), "plan_year": 2032},
        "REQUIRED__SELECT": ["tag:needed"],
    }


@pytest.mark.parametrize("project", ["staffing", "generated"])
@pytest.mark.timeout(300)
def test_both_ends_make_the_same_of_a_users_project(
    pinned: Pinned, selfheald: Selfheald, project: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Whether the newest daemon builds by itself or lets the simulator's environment build, DuckDB 1.0.0 reads it."""
    settings = request.getfixturevalue(project)
    newest, oldest = selfheald.but(**settings), selfheald.but(**settings, DBT__PYTHON=pinned.python)
    made: dict[str, Texts] = {}
    for name, command in {"newest": newest, "oldest": oldest}.items():
        workspace = tmp_path / name
        workspace.mkdir()
        command.ok("ensure", workspace, timeout=100)
        made[name] = pinned.read(workspace / NAME)
        assert made[name] == _texts(workspace / NAME, made[name])
    assert made["newest"] == made["oldest"]
    assert len(made["oldest"]) == (11 if project == "staffing" else 7)
    assert all(made["oldest"].values()), made["oldest"]

    # Each adds to what the other has made.
    table = sorted(made["oldest"])[-1]
    for name, command in {"newest": oldest, "oldest": newest}.items():
        pinned.run("-c", _EXECUTE, tmp_path / name / NAME, f"drop table {table}")
        command.ok("ensure", tmp_path / name, timeout=100)
        assert pinned.read(tmp_path / name / NAME) == made["oldest"]


def test_the_pinned_environment_makes_what_plain_dbt_makes_there(
    pinned: Pinned, selfheald: Selfheald, staffing: dict[str, object], tmp_path: Path
) -> None:
    database = tmp_path / "plain" / NAME
    by_hand(STAFFING_PROJECT, database, ["seed"], ["snapshot"], ["run"], python=pinned.python)
    plain = pinned.read(database)
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    selfheald.ok("ensure", workspace, **staffing, DBT__PYTHON=pinned.python, timeout=100)
    made = pinned.read(workspace / NAME)
    assert made == {table: plain[table] for table in made}
    assert len(made) == 11


def _texts(database: Path, tables: Collection[str]) -> Texts:
    """What this environment's DuckDB reads, as text."""
    return {table: [list(map(str, row)) for row in rows] for table, (_, rows) in contents(database, tables).items()}
