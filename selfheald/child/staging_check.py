"""Whether staging holds what was asked for: the tables, their columns, the rows of the seeds."""

from __future__ import annotations

import csv
import re
import sys
from typing import Any, List, Mapping, Optional, Sequence, Tuple

import duckdb

from protocol import JobError
from table_copy import Table, count, describe, label, relations

_KEYS_HINT = (
    "A DuckDB this new writes keys and indexes in a way that older ones cannot read, and with them the whole file. "
    "Set dbt.storage_version to 'latest', or drop the key."
)
#: Names, numbers, brackets, quoted names and texts: no semicolon, no comment, no operator.
_TYPE = re.compile(r"""(?:\w+|[(),\[\]\s]|"(?:[^"]|"")*"|'(?:[^']|'')*')+""")


def verified_tables(connection: duckdb.DuckDBPyConnection, catalog: str, job: Mapping[str, Any]) -> List[Table]:
    """The tables of the job as staging has them; :class:`JobError` if one is not what is required."""
    there = relations(connection, catalog)
    tables = []
    for wanted in job["tables"]:
        schema, name = wanted["schema"], wanted["name"]
        kind = there.get((schema.lower(), name.lower()))
        if kind != "table":
            made = "made a view of it" if kind else "did not make it"
            raise JobError("verification_failed", f"{label(schema, name)} is to be a table, but dbt {made}")
        table = describe(connection, catalog, schema, name)
        _check_columns(connection, table, wanted["columns"], bool(wanted["contract"]))
        if wanted["seed"]:
            _check_seed(connection, table, wanted["seed"]["path"], wanted["seed"]["delimiter"])
        if is_older(job.get("storage_version")):
            _check_keys(table)
        tables.append(table)
    return tables


def is_older(storage_version: Optional[str]) -> bool:
    """True if files in this storage format are meant for a DuckDB older than this one."""
    return _numbers(storage_version or "") < _numbers(duckdb.__version__)


def _numbers(version: str) -> Tuple[int, int]:
    match = re.match(r"v?(\d+)\.(\d+)", version)
    return (int(match[1]), int(match[2])) if match else (sys.maxsize, 0)


def _check_columns(
    connection: duckdb.DuckDBPyConnection, table: Table, wanted: Sequence[Sequence[Any]], contract: bool
) -> None:
    there = {name.lower(): kind for name, kind in table.columns}
    missing = [name for name, _ in wanted if name.lower() not in there]
    if missing:
        raise JobError("verification_failed", f"{table.label} lacks the columns {', '.join(missing)}")
    for name, kind in wanted if contract else ():
        found = there[name.lower()]
        if kind and not _same_type(connection, kind, found):
            raise JobError("verification_failed", f"{table.label}.{name} is {found}, the contract says {kind}")


def _same_type(connection: duckdb.DuckDBPyConnection, wanted: str, found: str) -> bool:
    if " ".join(wanted.split()).lower() == found.lower():
        return True
    if not _is_type(wanted):
        return False
    try:
        row = connection.execute(f"SELECT typeof(CAST(NULL AS {wanted}))").fetchone()
    except duckdb.Error:
        return False
    return row is not None and row[0] == found


def _is_type(text: str) -> bool:
    """True for what can be nothing but a type where SQL expects one."""
    depth = 0
    for character in re.sub(r""""[^"]*"|'[^']*'""", "", text):
        depth += (character == "(") - (character == ")")
        if depth < 0:
            return False
    return depth == 0 and _TYPE.fullmatch(text) is not None


def _check_keys(table: Table) -> None:
    what = list(table.keys) + [f"index {name}" for name, _, _ in table.indexes]
    if what:
        raise JobError("verification_failed", f"{table.label} has a key: {', '.join(what)}", _KEYS_HINT)


def _check_seed(connection: duckdb.DuckDBPyConnection, table: Table, path: str, delimiter: str) -> None:
    header, least, most = _read_seed(path, delimiter)
    there, wanted = {name.strip().lower() for name, _ in table.columns}, {name.strip().lower() for name in header}
    if there != wanted:
        differing = ", ".join(sorted(there ^ wanted))
        message = f"the columns of {table.label} are not those of its file; these are in one only: {differing}"
        raise JobError("verification_failed", message, path=path)
    rows = count(connection, table.within(table.catalog))
    if not least <= rows <= most:
        message = f"{table.label} has {rows} rows, its file has {most}"
        raise JobError("verification_failed", message, path=path)


def _read_seed(path: str, delimiter: str) -> Tuple[List[str], int, int]:
    """The header of a CSV file, and how many rows it has at least and at most.

    A blank line is no row; but where there is one column only, DuckDB reads it as one that holds NULL.
    """
    csv.field_size_limit(sys.maxsize)
    header: List[str] = []
    filled = blank = 0
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            for row in csv.reader(file, delimiter=delimiter):
                if not header:
                    header = row
                elif row:
                    filled += 1
                else:
                    blank += 1
    except FileNotFoundError as error:
        raise JobError("missing_seed_file", f"{path} is gone", path=path) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise JobError("seed_invalid", f"{path} cannot be read: {error}", path=path) from error
    return header, filled, filled + (blank if len(header) == 1 else 0)
