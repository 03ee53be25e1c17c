"""Proves queries the same in every run: their syntax, the files that they read, and the types of what they read."""

from __future__ import annotations

import json
import os
from typing import Any, Dict, FrozenSet, Iterable, Mapping, Sequence

import duckdb

import sql_sums
from sql_purity import FileRead, Impure, Name, Tree, examine

#: DuckDB must load nothing on its own account while it looks.
_CONFIG = {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}
_COLUMNS = """
    SELECT lower(schema_name), lower(table_name), lower(column_name), data_type FROM duckdb_columns()
    WHERE NOT internal AND database_name = current_database()
"""
_OWN_FUNCTIONS = """
    SELECT function_name FROM duckdb_functions() WHERE NOT internal AND database_name = current_database() LIMIT 1
"""
_OWN_TYPES = """
    SELECT type_name FROM duckdb_types() WHERE NOT internal AND database_name = current_database() LIMIT 1
"""
#: Since 1.1 DuckDB refuses several rows where one value is wanted.
_TAKES_FIRST = tuple(map(int, str(duckdb.__version__).split(".")[:2])) < (1, 1)
_Columns = Dict[str, str]


class Prover:
    """A closed database that a build has made, and the files that count as known.

    Where it is not ``typed``, nothing is built yet, and columns that it does not have are taken for exact ones.
    """

    def __init__(self, database: str, declared: Iterable[str], *, typed: bool = True) -> None:
        self._typed = typed
        self._connection = duckdb.connect(database, read_only=True, config=dict(_CONFIG))
        self._declared = frozenset(os.path.realpath(path) for path in declared)
        self._catalog = str(self._one("SELECT current_database()"))
        self._template = ""
        self._relations: Dict[Name, _Columns] = {}
        for schema, table, column, kind in self._connection.execute(_COLUMNS).fetchall():
            self._relations.setdefault((schema, table), {})[column] = kind

    def close(self) -> None:
        self._connection.close()

    def own_definitions(self) -> None:
        """Raise :class:`Impure` if a name in a query might be a function or type that the database itself defines."""
        for query, kind in ((_OWN_FUNCTIONS, "macro"), (_OWN_TYPES, "type")):
            row = self._connection.execute(query).fetchone()
            if row is not None:
                raise Impure(f"defines the {kind} {row[0]}, which is not looked into")

    def relation(self, name: Name) -> None:
        """Raise :class:`Impure` if a relation has a column whose meaning goes by the time zone."""
        for column, kind in self._relations.get(name, {}).items():
            _require_zoneless(column, kind)

    def query(self, sql: str, made: FrozenSet[Name], *, to_jinja: bool = False) -> None:
        """Raise :class:`Impure` unless it gives the same rows in every run that has the same relations and files.

        ``to_jinja``: in the same order too.
        """
        answer = json.loads(self._one("SELECT json_serialize_sql(?::VARCHAR)", sql))
        if answer.get("error"):
            raise Impure("is no plain SELECT, or one that is not understood")
        if len(answer["statements"]) != 1:
            raise Impure("is several statements")
        statement: Tree = answer["statements"][0]
        found = examine(statement, made, self._catalog, takes_first=_TAKES_FIRST, to_jinja=to_jinja)
        read = [self._relations.get(name, {}) for name in found.relations]
        for file in found.files:
            self._require_declared(file)
            if not _is_glob(file):
                read.append(self._columns_of(file))
        if found.sums:
            sql_sums.judge(found, _exact_columns(read), others_exact=not self._typed)

    def _require_declared(self, file: FileRead) -> None:
        for path in file.paths:
            if "://" in path or path.startswith("~"):
                raise Impure(f"reads {path}, which is no file with an absolute path")
            matches = [str(row[0]) for row in self._connection.execute("SELECT file FROM glob(?)", [path]).fetchall()]
            for each in matches or [path]:
                if os.path.realpath(each) not in self._declared:
                    raise Impure(
                        f"reads {each}, a file that does not count for the template: list it in templates.inputs"
                    )

    def _columns_of(self, file: FileRead) -> _Columns:
        """The columns that a reader gives, by DuckDB's own judgement of the files."""
        if not self._template:
            self._template = self._one("SELECT json_serialize_sql('SELECT * FROM placeholder')")
        tree: Tree = json.loads(self._template)
        tree["statements"][0]["node"]["from_table"] = {**file.table, "column_name_alias": []}
        try:
            sql = self._one("SELECT json_deserialize_sql(?::JSON)", json.dumps(tree))
            rows = self._connection.execute(f"DESCRIBE {sql}").fetchall()
        except duckdb.Error as error:
            raise Impure(f"reads {file.paths[0]} in a way that cannot be judged") from error
        columns = {str(row[0]).lower(): str(row[1]) for row in rows}
        for column, kind in columns.items():
            _require_zoneless(column, kind)
        return columns

    def _one(self, query: str, *parameters: object) -> Any:
        row = self._connection.execute(query, list(parameters)).fetchone()
        assert row is not None
        return row[0]


def _exact_columns(read: Sequence[Mapping[str, str]]) -> Dict[str, bool]:
    exact: Dict[str, bool] = {}
    nested = False
    for columns in read:
        for name, kind in columns.items():
            has_floats = "DOUBLE" in kind or "FLOAT" in kind
            exact[name] = exact.get(name, True) and not has_floats
            nested = nested or (has_floats and kind not in ("DOUBLE", "FLOAT"))
    # A field of a structure may go by any name.
    return dict.fromkeys(exact, False) if nested else exact


def _is_glob(file: FileRead) -> bool:
    return bool(file.table.get("function", {}).get("function_name") == "glob")


def _require_zoneless(column: str, kind: str) -> None:
    if "TIME ZONE" in kind:
        raise Impure(f"has {column} as {kind}, whose meaning goes by the machine's time zone")


__all__ = ["Impure", "Prover"]
