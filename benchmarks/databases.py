"""Databases and workspaces that several subjects measure with."""

from __future__ import annotations

from pathlib import Path

import duckdb

from benchmarks.bench import Bench

NAME = "simulation.duckdb"


def ready_workspace(bench: Bench) -> Path:
    """A database that is ready, in a workspace of its own; it is made by ``selfheald ensure``, once in a run."""
    made = bench.folder / "ready" / NAME
    if not made.exists():
        made.parent.mkdir()
        bench.selfheald("ensure", made)
    return made


def sized_database(path: Path, *, tables: int, megabytes: float) -> Path:
    """A database with so many tables that take so many MB in all; its content does not compress, and never differs.

    Written with the oldest storage format, so that both ends of the version range can read it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = round(megabytes * 1e6 / 8 / tables)
    with duckdb.connect() as connection:
        # 1.0.0 and 1.1 know no other format, and not this option.
        option = "" if duckdb.__version__.startswith(("1.0.", "1.1.")) else " (STORAGE_VERSION 'v1.0.0')"
        connection.execute(f"ATTACH '{path}' AS sized{option}")
        for number in range(tables):
            connection.execute(
                f"CREATE TABLE sized.table_{number:04} AS "
                f"SELECT hash(range + {number * rows}) AS value FROM range({rows})"
            )
        connection.execute("CHECKPOINT sized")
    return path
