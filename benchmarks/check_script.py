"""Runs as a script in either environment: checks of a database and what they are compared with, in turns.

Its argument is a JSON object: ``database`` (a path), ``rounds``, and how many ``times`` in each round; it prints
another: the seconds by ``check``, ``connect`` and ``marker``, a value for each round.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb

from benchmarks.measuring import in_turns, repeated
from selfheald.catalog_reader import read_database
from selfheald.inspection import is_fresh
from selfheald.workspace import Database

_TABLES = "SELECT table_schema, table_name, table_type FROM information_schema.tables"
_COLUMNS = "SELECT table_schema, table_name, column_name, data_type FROM information_schema.columns"


def connect(path: Path) -> None:
    """What people do: a read-only connection, asked for tables and columns, which is what a check finds out too."""
    with duckdb.connect(str(path), read_only=True) as connection:
        connection.execute(_TABLES).fetchall()
        connection.execute(_COLUMNS).fetchall()


def check(path: Path) -> None:
    """What the daemon does in a worker thread."""
    reading = read_database(path)
    if reading.error is not None or not reading.relations:
        raise RuntimeError(f"not read: {reading}")


def measure(path: Path, rounds: int, times: int, worker: ThreadPoolExecutor) -> dict[str, list[float]]:
    """The seconds of each way, one value a round."""

    def in_worker(action: Callable[[Path], object]) -> Callable[[], object]:
        return lambda: worker.submit(action, path).result()

    turns = {
        "check": repeated(in_worker(check), times),
        "connect": repeated(in_worker(connect), times),
        "marker": repeated(lambda: is_fresh(Database(path), "none"), 10 * times),
    }
    return {name: list(series.values) for name, series in in_turns(turns, rounds, warm_up=1).items()}


def main() -> None:
    """Measure what the argument says."""
    order = json.loads(sys.argv[1])
    with ThreadPoolExecutor(1) as worker:
        print(json.dumps(measure(Path(order["database"]), order["rounds"], order["times"], worker)))


if __name__ == "__main__":
    main()
