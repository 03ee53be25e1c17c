"""Existing tables that staging was built from: what they were when they were copied, and whether they still are that.

What they were is noted before dbt runs, since hooks and ``dbt.pre_sql`` may write to the copies. The DuckDB that noted
it must also compare: another one may hash otherwise.
"""

from __future__ import annotations

import contextlib
from typing import Any, Dict, List, Mapping, Sequence

import duckdb

from publish_errors import ChangedError
from table_copy import Table, count, describe, quoted, relations


def note(path: str, inputs: Sequence[Mapping[str, str]]) -> List[Dict[str, Any]]:
    """The ``inputs`` (schema and name), each with what its copy in the staging database at ``path`` is."""
    if not inputs:
        return []
    with contextlib.closing(duckdb.connect(path, read_only=True)) as connection:
        found = connection.execute("SELECT current_database()").fetchone()
        assert found is not None
        return [_noted(connection, describe(connection, found[0], each["schema"], each["name"])) for each in inputs]


def require_same(
    connection: duckdb.DuckDBPyConnection, live: str, staging: str, noted: Mapping[str, Any], *, by_rows: bool
) -> None:
    """Raise :class:`ChangedError` unless a table in the catalog ``live`` is what was noted of its copy.

    What was not noted is looked up in ``staging`` as it is now: so are the rows of a table with generated columns,
    which would have to be computed here by the stranger's expressions.
    """
    schema, name = noted["schema"], noted["name"]
    if relations(connection, live).get((schema.lower(), name.lower())) != "table":
        raise ChangedError(f"the table {schema}.{name} is gone")
    table = describe(connection, live, schema, name)
    stored = table.stored_columns
    if "digest" not in noted or len(stored) < len(table.columns):
        copy = describe(connection, staging, schema, name)
        columns, rows = _columns(copy), count(connection, copy.within(staging))
    else:
        copy, columns, rows = None, noted["columns"], noted["rows"]
    same = _columns(table) == columns and count(connection, table.within(live)) == rows
    if same and by_rows:
        digest = noted["digest"] if copy is None else _digest(connection, copy, stored)
        same = _digest(connection, table, stored) == digest
    if not same:
        raise ChangedError(f"the table {table.label} has changed meanwhile")


def _noted(connection: duckdb.DuckDBPyConnection, table: Table) -> Dict[str, Any]:
    return {
        "schema": table.schema,
        "name": table.name,
        "columns": _columns(table),
        "rows": count(connection, table.within(table.catalog)),
        "digest": _digest(connection, table, [name for name, _ in table.columns]),
    }


def _columns(table: Table) -> List[List[str]]:
    return [list(column) for column in table.columns]


def _digest(connection: duckdb.DuckDBPyConnection, table: Table, columns: List[str]) -> List[str]:
    """Two sums over all rows that do not depend on their order."""
    row = f"hash({', '.join(map(quoted, columns))})"
    sums = f"SELECT sum({row}::HUGEINT), bit_xor({row}) FROM {table.within(table.catalog)}"
    return list(map(str, connection.execute(sums).fetchone() or ()))
