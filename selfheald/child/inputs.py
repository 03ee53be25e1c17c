"""Existing tables that staging was built from: what they were when they were copied, and whether they still are that.

What they were is noted before dbt runs, since hooks and ``dbt.pre_sql`` may write to the copies. The DuckDB that noted
it must also compare: another one may hash otherwise.
"""

from __future__ import annotations

import contextlib
from typing import Any, Dict, List, Mapping, Sequence

import duckdb

from publish_errors import ChangedError
from table_copy import Table, count, describe, quoted, relations, stored_columns


def note(path: str, inputs: Sequence[Mapping[str, Any]]) -> List[Dict[str, Any]]:
    """The ``inputs`` (schema and name), each with what its copy in the staging database at ``path`` is.

    A copy has no generated columns, but plain ones with their values. Which of them the table itself stores tells its
    ``definition``, where that is given: only these are compared later, since the others would have to be computed then
    by a stranger's expressions.
    """
    if not inputs:
        return []
    with contextlib.closing(duckdb.connect(path, read_only=True)) as connection:
        found = connection.execute("SELECT current_database()").fetchone()
        assert found is not None
        noted = []
        for each in inputs:
            copy = describe(connection, found[0], each["schema"], each["name"])
            names = [name for name, _ in copy.columns]
            definition = each.get("definition")
            noted.append(_noted(connection, copy, stored_columns(definition, names) if definition else names))
        return noted


def require_same(connection: duckdb.DuckDBPyConnection, live: str, noted: Mapping[str, Any], *, by_rows: bool) -> None:
    """Raise :class:`ChangedError` unless a table in the catalog ``live`` is what was noted of its copy."""
    schema, name = noted["schema"], noted["name"]
    if relations(connection, live).get((schema.lower(), name.lower())) != "table":
        raise ChangedError(f"the table {schema}.{name} is gone")
    table = describe(connection, live, schema, name)
    same = _columns(table) == noted["columns"] and table.stored_columns == noted["stored"]
    same = same and count(connection, table.within(live)) == noted["rows"]
    if same and by_rows:
        same = _digest(connection, table, noted["stored"]) == noted["digest"]
    if not same:
        raise ChangedError(f"the table {table.label} has changed meanwhile")


def _noted(connection: duckdb.DuckDBPyConnection, table: Table, stored: List[str]) -> Dict[str, Any]:
    return {
        "schema": table.schema,
        "name": table.name,
        "columns": _columns(table),
        "stored": stored,
        "rows": count(connection, table.within(table.catalog)),
        "digest": _digest(connection, table, stored),
    }


def _columns(table: Table) -> List[List[str]]:
    return [list(column) for column in table.columns]


def _digest(connection: duckdb.DuckDBPyConnection, table: Table, columns: List[str]) -> List[str]:
    """Two sums over all rows that do not depend on their order."""
    row = f"hash({', '.join(map(quoted, columns))})"
    sums = f"SELECT sum({row}::HUGEINT), bit_xor({row}) FROM {table.within(table.catalog)}"
    return list(map(str, connection.execute(sums).fetchone() or ()))
