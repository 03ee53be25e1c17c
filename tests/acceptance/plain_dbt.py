"""What people do without selfheald: dbt's own commands, by hand, on a database of their own; and what they get."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import duckdb

#: Several commands in one process, which spares them the import of dbt; they must all succeed.
_DBT = """
import json, sys
from dbt.cli.main import dbtRunner
for command in json.loads(sys.argv[1]):
    done = dbtRunner().invoke(command)
    assert done.success, (command, done.exception, done.result)
"""
#: Seconds for all of them.
DEADLINE = 100.0

Content = tuple[list[tuple[str, str]], list[tuple[Any, ...]]]


def by_hand(
    project: Path,
    database: Path,
    *commands: list[str],
    python: str = sys.executable,
    variables: Mapping[str, object] | None = None,
) -> Path:
    """Run dbt commands on a database, which is made if it is not there; nothing is left in the project's folder."""
    database.parent.mkdir(parents=True, exist_ok=True)
    options = ["--project-dir", project, "--profiles-dir", project, "--vars", json.dumps(variables or {})]
    options += ["--target-path", database.parent / "target", "--log-path", database.parent / "logs"]
    lines = [["--quiet", *command, *map(str, options)] for command in commands]
    done = subprocess.run(
        [python, "-c", _DBT, json.dumps(lines)],
        env=os.environ | {"DATABASE_PATH": str(database), "DBT_SEND_ANONYMOUS_USAGE_STATS": "false"},
        cwd=database.parent,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return database


def contents(database: Path, tables: Collection[str]) -> dict[str, Content]:
    """Columns with their types and all rows of tables (``schema.name``), the rows in an order of their own."""
    with duckdb.connect(str(database), read_only=True) as connection:
        return {table: _content(connection, table) for table in tables}


def relations(database: Path) -> set[str]:
    """All tables and views, as ``schema.name``."""
    query = "select schema_name || '.' || table_name from duckdb_tables() union all "
    query += "select schema_name || '.' || view_name from duckdb_views() where not internal"
    with duckdb.connect(str(database), read_only=True) as connection:
        return {name for (name,) in connection.execute(query).fetchall()}


def _content(connection: duckdb.DuckDBPyConnection, table: str) -> Content:
    schema, _, name = table.partition(".")
    address = f'"{schema}"."{name}"'
    columns = connection.execute(f"describe select * from {address}").fetchall()
    rows = connection.execute(f"select * from {address} order by all").fetchall()
    return [(str(row[0]), str(row[1])) for row in columns], rows
