"""The versions that simulators use today: selfheald runs in their environment, and makes what their DuckDB can read.

``SELFHEALD_TEST_PINNED`` names the Python of that environment; selfheald is installed in it.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from processes import (
    DEADLINE,
    EXAMPLES,
    MODELS,
    NAME,
    REQUIRED,
    Record,
    Running,
    Selfheald,
    digests,
    marker,
    running,
    status,
    steps_of,
    wait_for,
)

from selfheald.client import read_record

pytestmark = pytest.mark.pinned

#: What reads a database there: its tables with their numbers of rows.
_COUNT = """
import duckdb, json, sys
with duckdb.connect(sys.argv[1], read_only=True) as connection:
    names = [name for (name,) in connection.execute("select table_name from duckdb_tables()").fetchall()]
    counts = {name: connection.execute(f'select count(*) from "{name}"').fetchone()[0] for name in names}
print(json.dumps([duckdb.__version__, counts]))
"""
_EXECUTE = "import duckdb, sys; connection = duckdb.connect(sys.argv[1]); connection.execute(sys.argv[2])"


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

    def counts(self, database: Path) -> dict[str, int]:
        """The tables of a database with their numbers of rows, as DuckDB 1.0.0 reads them."""
        version, counts = json.loads(self.run("-c", _COUNT, database))
        assert version == "1.0.0"
        assert isinstance(counts, dict)
        return counts

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
