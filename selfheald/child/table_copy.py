"""Makes a table of one attached DuckDB catalog anew in another: definition, comments, rows, indexes.

The text of the definition is DuckDB's own (``duckdb_tables().sql``), from its first parenthesis on; what stands before
is written here, with the other catalog's name. What that text cannot carry over in some version is found by comparing
the two tables afterwards.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, List, Sequence, Tuple

import duckdb

from protocol import JobError

_HINT = "Let dbt make a plainer table: without references to other objects of its database."
_KEYS = ("PRIMARY KEY", "UNIQUE", "FOREIGN KEY")


@dataclass(frozen=True)
class Table:
    """A base table as its catalog describes it; ``label`` is the name under which it was asked for."""

    label: str
    catalog: str
    schema: str
    name: str
    definition: str
    comment: Any
    columns: Tuple[Tuple[str, str], ...]
    keys: Tuple[str, ...]
    indexes: Tuple[Tuple[str, bool, str], ...]

    def within(self, catalog: str) -> str:
        """The table of this name in ``catalog``, as SQL."""
        return f"{quoted(catalog)}.{quoted(self.schema)}.{quoted(self.name)}"

    @property
    def stored_columns(self) -> List[str]:
        """Names of the columns that hold values; those of generated columns are computed when read."""
        return stored_columns(self.definition, [name for name, _ in self.columns])


def quoted(name: str) -> str:
    """An identifier as SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A string as SQL."""
    return "'" + text.replace("'", "''") + "'"


def label(schema: str, name: str) -> str:
    """The name that people know a table by."""
    return name if schema == "main" else f"{schema}.{name}"


def relations(connection: duckdb.DuckDBPyConnection, catalog: str) -> dict[tuple[str, str], str]:
    """``table`` or ``view`` for each (schema, name) of a catalog, both in lower case. Views are not looked into."""
    rows = connection.execute(
        "SELECT schema_name, table_name, 'table' FROM duckdb_tables() WHERE database_name = $1 "
        "UNION ALL SELECT schema_name, view_name, 'view' FROM duckdb_views() WHERE database_name = $1",
        [catalog],
    ).fetchall()
    return {(schema.lower(), name.lower()): kind for schema, name, kind in rows}


def describe(connection: duckdb.DuckDBPyConnection, catalog: str, schema: str, name: str) -> Table:
    """The base table of that name, which must exist."""
    found = connection.execute(
        "SELECT schema_name, table_name, sql, comment FROM duckdb_tables() "
        "WHERE database_name = ? AND lower(schema_name) = lower(?) AND lower(table_name) = lower(?)",
        [catalog, schema, name],
    ).fetchone()
    assert found is not None
    where = [catalog, found[0], found[1]]
    keys = connection.execute(
        "SELECT DISTINCT constraint_type FROM duckdb_constraints() "
        "WHERE database_name = ? AND schema_name = ? AND table_name = ?",
        where,
    ).fetchall()
    indexes = connection.execute(
        "SELECT index_name, is_unique, sql FROM duckdb_indexes() "
        "WHERE database_name = ? AND schema_name = ? AND table_name = ? ORDER BY index_name",
        where,
    ).fetchall()
    return Table(
        label=label(schema, name),
        catalog=catalog,
        schema=found[0],
        name=found[1],
        definition=found[2][_body(found[2]) :].rstrip().rstrip(";"),
        comment=found[3],
        columns=columns_of(connection, ".".join(map(quoted, where))),
        keys=tuple(sorted(kind for (kind,) in keys if kind in _KEYS)),
        indexes=tuple((str(index), bool(unique), str(sql)) for index, unique, sql in indexes),
    )


def copy_all(connection: duckdb.DuckDBPyConnection, tables: Sequence[Table], catalog: str) -> dict[str, int]:
    """Make ``tables`` in ``catalog``, within the transaction that is open; return their numbers of rows."""
    home = connection.execute("SELECT current_database()").fetchone()
    assert home is not None
    rows = {}
    for table, definition in _parents_first(tables):
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted(catalog)}.{quoted(table.schema)}")
        if "FOREIGN KEY" in table.keys:  # 1.0 looks for the table that is referred to in the default catalog
            connection.execute(f"USE {quoted(catalog)}")
        connection.execute(f"CREATE TABLE {table.within(catalog)}{definition}")
        _comment(connection, table, catalog)
        columns = ", ".join(map(quoted, table.stored_columns))
        source, target = table.within(table.catalog), table.within(catalog)
        connection.execute(f"INSERT INTO {target} ({columns}) SELECT {columns} FROM {source}")
        connection.execute(f"USE {quoted(home[0])}")
        for index, unique, sql in table.indexes:
            kind = "UNIQUE INDEX" if unique else "INDEX"
            connection.execute(f"CREATE {kind} {quoted(index)} ON {target}{sql[_body(sql) :]}")
        rows[table.label] = _same(connection, table, catalog)
    return rows


def stored_columns(sql: str, names: Sequence[str]) -> List[str]:
    """Those of a table's columns that hold values, by the SQL that defines it."""
    columns = map(_bare, _split(sql[_body(sql) :]))
    return [name for name in names if "GENERATED ALWAYS" not in next(columns)]


def columns_of(connection: duckdb.DuckDBPyConnection, address: str) -> Tuple[Tuple[str, str], ...]:
    """Name and type of each column."""
    # 1.0 loses the quotes inside a quoted name in a plain DESCRIBE.
    rows = connection.execute(f"DESCRIBE SELECT * FROM {address}").fetchall()
    return tuple((str(row[0]), str(row[1])) for row in rows)


def count(connection: duckdb.DuckDBPyConnection, address: str) -> int:
    """Number of rows."""
    found = connection.execute(f"SELECT count(*) FROM {address}").fetchone()
    assert found is not None
    return int(found[0])


def _comment(connection: duckdb.DuckDBPyConnection, table: Table, catalog: str) -> None:
    if table.comment is not None:
        connection.execute(f"COMMENT ON TABLE {table.within(catalog)} IS {literal(str(table.comment))}")
    comments = connection.execute(
        "SELECT column_name, comment FROM duckdb_columns() WHERE comment IS NOT NULL "
        "AND database_name = ? AND schema_name = ? AND table_name = ?",
        [table.catalog, table.schema, table.name],
    ).fetchall()
    for name, comment in comments:
        column = f"{table.within(catalog)}.{quoted(name)}"
        connection.execute(f"COMMENT ON COLUMN {column} IS {literal(str(comment))}")


def _same(connection: duckdb.DuckDBPyConnection, table: Table, catalog: str) -> int:
    """The number of rows of both; an error if the copy differs."""
    copied = columns_of(connection, table.within(catalog))
    if copied != table.columns:
        differing = [column for column in table.columns if column not in copied] or table.columns
        raise JobError(
            "verification_failed",
            f"DuckDB {duckdb.__version__} cannot copy the definition of {table.label}: column {differing[0][0]!r} "
            f"of type {differing[0][1]}",
            _HINT,
        )
    wanted, got = count(connection, table.within(table.catalog)), count(connection, table.within(catalog))
    if wanted != got:
        raise JobError("verification_failed", f"{table.label}: {got} of {wanted} rows were copied")
    return got


def _parents_first(tables: Sequence[Table]) -> List[Tuple[Table, str]]:
    """The tables with their definitions, each after those that its foreign keys refer to, those names quoted.

    1.0 writes the referenced table without the quotes that it needs.
    """
    waiting = list(tables)
    ordered: List[Tuple[Table, str]] = []
    while waiting:
        ready = [table for table in waiting if not (_parents(table, tables) & _names(waiting) - _names([table]))]
        ordered += [(table, _with_references(table, tables)) for table in ready or waiting]
        waiting = [table for table in waiting if table not in ready] if ready else []
    return ordered


def _names(tables: Sequence[Table]) -> set[tuple[str, str]]:
    return {(table.schema, table.name) for table in tables}


def _parents(table: Table, tables: Sequence[Table]) -> set[tuple[str, str]]:
    if "FOREIGN KEY" not in table.keys:
        return set()
    return _names([other for other in tables if any(form in table.definition for form in _references(other))])


def _with_references(table: Table, tables: Sequence[Table]) -> str:
    if "FOREIGN KEY" not in table.keys:
        return table.definition
    definition = table.definition
    for other in tables:
        schema = "" if table.schema == other.schema == "main" else quoted(other.schema) + "."
        for form in _references(other):
            definition = definition.replace(form, f" references {schema}{quoted(other.name)}(")
    if " REFERENCES " in _bare(definition):
        raise JobError(
            "verification_failed", f"{table.label} has a foreign key to a table that was there before", _HINT
        )
    return definition


def _references(table: Table) -> List[str]:
    schema, name = quoted(table.schema), quoted(table.name)
    forms = [f"{schema}.{name}", f"{schema}.{table.name}", f"{table.schema}.{name}", f"{table.schema}.{table.name}"]
    if table.schema == "main":
        forms += [name, table.name]
    return [f" REFERENCES {form}(" for form in forms]


def _bare(sql: str) -> str:
    """The text with whatever is quoted taken out."""
    return re.sub(r'"(?:[^"]|"")*"|\'(?:[^\']|\'\')*\'', "", sql)


def _body(sql: str) -> int:
    """Where the first parenthesis stands that is not inside quotes."""
    match = re.match(r'(?:[^("]|"(?:[^"]|"")*")*', sql)
    return match.end() if match else 0


def _split(definition: str) -> List[str]:
    """The parts of ``(a INTEGER, b DECIMAL(18,3), …)``: columns first, then the table's own constraints."""
    parts, depth = [""], 0
    for token in re.findall(r'"(?:[^"]|"")*"|\'(?:[^\']|\'\')*\'|.', definition, re.DOTALL):
        depth += (token in ("(", "[")) - (token in (")", "]"))
        if depth == 0:
            break
        if token == "," and depth == 1:
            parts.append("")
        else:
            parts[-1] += token
    return parts
