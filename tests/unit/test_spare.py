"""What a shortage would turn into the end of the process is looked at before."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

#: Takes all descriptors but a few, and reads a database twice: it must be told, and the process must live.
READ = r"""
import os, resource, sys
from pathlib import Path
from selfheald.catalog_reader import read_database
from selfheald.spare import DESCRIPTORS, require_descriptors

path, left, warm = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "warm"
require_descriptors()
if warm:
    read_database(path)
held = [os.open(os.devnull, os.O_RDONLY) for _ in range(DESCRIPTORS + 10)]
resource.setrlimit(resource.RLIMIT_NOFILE, (held[-1] + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
for descriptor in held[len(held) - left :]:
    os.close(descriptor)
for _ in range(2):
    reading = read_database(path)
    print(reading.error.code if reading.error else len(reading.relations))
"""


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "simulation.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE t (a INTEGER)")
    return path


def read_with(database: Path, left: int, connection: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", READ, str(database), str(left), connection],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("left", [0, 1, 2, 3, 4, 10])
def test_too_few_for_a_new_connection(database: Path, left: int) -> None:
    assert read_with(database, left, "cold") == ["interrupted", "interrupted"]


def test_enough_for_a_new_connection(database: Path) -> None:
    assert read_with(database, 20, "cold") == ["1", "1"]


@pytest.mark.parametrize(("left", "seen"), [(1, "interrupted"), (4, "1")])
def test_a_connection_that_stands_needs_but_the_files(database: Path, left: int, seen: str) -> None:
    assert read_with(database, left, "warm") == [seen, seen]
