"""Copies tables out of a live database, read without a lock, into a new database file.

It runs in a child of its own (``check_child``): it opens the live file, and it holds DuckDB's lock on the new one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb

from selfheald.catalog import Relation, fold
from selfheald.catalog_reader import CATALOG, CatalogReader, identifier, literal, qualified
from selfheald.client import file_identity
from selfheald.duckdb_errors import classify
from selfheald.errors import InitializationError
from selfheald.file_header import not_regular, probe
from selfheald.watched_file import WAL_SUFFIXES, Watched, watch_database

_TARGET = "target"
_MEMORY_LIMIT = "1GB"
_BLOCK_SIZE = 262144
#: The first DuckDB that lets a new file have an older format.
_KNOWS_STORAGE_VERSION = (1, 2)


def copy_tables(
    source: Path, target: Path, tables: Sequence[tuple[str, str]], storage_version: str | None, max_bytes: int
) -> dict[str, Any]:
    """Write plain copies of base tables of ``source`` into ``target``, a file that does not exist yet.

    ``tables`` are ``(schema, name)`` pairs; columns keep names and types, constraints are left behind, views are
    never read. ``storage_version`` (``v1.0.0``) is sent where this DuckDB knows of formats. ``target`` is closed and
    checkpointed afterwards, with no WAL beside it; after a failure it is gone.

    Returns ``{"identity": …, "tables": [{"schema", "name", "rows"}], "definitions": […]}``: the identity is that of
    ``source`` while it was copied, the definitions are the tables' SQL there. Raises ``locked`` if it changed
    meanwhile, ``config_invalid`` if the copies would take more than ``max_bytes``, ``schema_mismatch`` if a view stands
    under a name.
    """
    if target.is_symlink() or target.exists():
        raise InitializationError(f"{target} exists already", code="unsafe_path", path=target)
    try:
        with watch_database(source) as watched:
            identity = file_identity(source)
            copied, definitions = _copy(watched, target, tables, storage_version, max_bytes)
            if tables and (not watched.certain() or file_identity(source) != identity):
                raise _changed(source)
    except BaseException as failure:
        for suffix in ("", *WAL_SUFFIXES):
            with contextlib.suppress(OSError):
                target.with_name(target.name + suffix).unlink()
        if isinstance(failure, OSError):
            raise classify(failure, source) from failure
        raise
    return {"identity": identity, "tables": copied, "definitions": definitions}


def _copy(
    watched: Watched,
    target: Path,
    tables: Sequence[tuple[str, str]],
    storage_version: str | None,
    max_bytes: int,
) -> tuple[list[dict[str, Any]], list[str]]:
    reader = CatalogReader(_MEMORY_LIMIT)
    try:
        _create(reader, target, storage_version)
        copied: list[dict[str, Any]] = []
        definitions: list[str] = []
        if tables:
            block_size = _readable_block_size(watched)
            try:
                with reader.attached(watched):
                    _close_the_door(reader)
                    chosen = _choose(reader.relations(), tables, watched.path)
                    _refuse_too_much(reader, chosen, block_size, max_bytes, watched.path)
                    definitions = [reader.definition(table) for table in chosen]
                    copied = [_copy_table(reader, table, watched.path, storage_version) for table in chosen]
            except (duckdb.Error, RuntimeError) as failure:
                raise classify(reader.files.failure or failure, watched.path) from failure
        _finish(reader, target)
        return copied, definitions
    finally:
        reader.close()


def _create(reader: CatalogReader, target: Path, storage_version: str | None) -> None:
    """Make the new file, in the wanted format."""
    version = tuple(int(part) for part in duckdb.__version__.split(".")[:2])
    option = ""
    if storage_version is not None and version >= _KNOWS_STORAGE_VERSION:
        option = f" (STORAGE_VERSION {literal(storage_version)})"
    try:
        reader.connection.execute(f"ATTACH {literal(str(target))} AS {_TARGET}{option}")
    except duckdb.InvalidInputException as failure:
        text = str(failure).splitlines()[0].partition(", valid options")[0]
        raise InitializationError(
            f"This DuckDB cannot make a file of format {storage_version} ({text})",
            code="config_invalid", hint="Set dbt.storage_version to a format that it knows.", path=target,
        ) from failure  # fmt: skip
    except duckdb.Error as failure:
        raise classify(failure, target) from failure


def _close_the_door(reader: CatalogReader) -> None:
    """No other file is reached from here on; unlike ``disabled_filesystems`` this leaves the new file its WAL."""
    reader.connection.execute("SET enable_external_access = false")
    reader.connection.execute("SET lock_configuration = true")


def _readable_block_size(watched: Watched) -> int:
    """The block size of a file that DuckDB can be expected to read (bytes)."""
    if watched.database is None:
        raise InitializationError(f"{watched.path} went away", code="locked", path=watched.path)
    if watched.descriptor is None:
        refusal = not_regular(watched.database, watched.path)
        assert refusal is not None
        raise refusal
    header = probe(watched.descriptor, watched.path)
    if header.error is not None:
        raise header.error
    if header.size == 0:
        raise _changed(watched.path)
    return header.block_size or _BLOCK_SIZE


def _choose(relations: Sequence[Relation], tables: Sequence[tuple[str, str]], path: Path) -> list[Relation]:
    there = {(fold(item.schema), fold(item.name)): item for item in relations}
    chosen = []
    for schema, name in tables:
        relation = there.get((fold(schema), fold(name)))
        if relation is None:
            raise _changed(path, f"it has no table {schema}.{name} any more")
        if relation.kind == "view":
            raise InitializationError(f"{schema}.{name} is a view, not a table", code="schema_mismatch", path=path)
        chosen.append(relation)
    return chosen


def _refuse_too_much(
    reader: CatalogReader, tables: Sequence[Relation], block_size: int, max_bytes: int, path: Path
) -> None:
    needed = sum(reader.stored_bytes(table, block_size) for table in tables)
    if needed > max_bytes:
        raise InitializationError(
            f"The tables that the missing ones are built from take about {needed} bytes, more than {max_bytes}",
            code="config_invalid", hint=f"Raise limits.max_input_bytes above {needed}.", path=path,
        )  # fmt: skip


def _copy_table(reader: CatalogReader, table: Relation, path: Path, storage_version: str | None) -> dict[str, Any]:
    new, old = qualified(_TARGET, table.schema, table.name), qualified(CATALOG, table.schema, table.name)
    columns = ", ".join(identifier(name) for name, _ in table.columns)
    try:
        reader.connection.execute(f"CREATE SCHEMA IF NOT EXISTS {qualified(_TARGET, table.schema)}")
        row = reader.connection.execute(f"CREATE TABLE {new} AS SELECT {columns} FROM {old}").fetchone()
    except duckdb.Error as failure:
        error = classify(failure, path)
        if error.code != "database_newer":
            raise error from failure
        # The old file was understood, so it is the new one that cannot hold such a column.
        raise InitializationError(
            f"{table.name} does not fit into a file of format {storage_version} ({str(failure).splitlines()[0]})",
            code="config_invalid", hint="Set dbt.storage_version to the format of the database.", path=path,
        ) from failure  # fmt: skip
    return {"schema": table.schema, "name": table.name, "rows": row[0] if row else 0}


def _finish(reader: CatalogReader, target: Path) -> None:
    """Close the new file with everything in it and nothing beside it."""
    try:
        reader.connection.execute(f"CHECKPOINT {_TARGET}")
        reader.connection.execute(f"DETACH {_TARGET}")
    except duckdb.Error as failure:
        raise classify(failure, target) from failure
    left = [suffix for suffix in WAL_SUFFIXES if target.with_name(target.name + suffix).exists()]
    if left:
        raise InitializationError(f"DuckDB left {target.name}{left[0]} behind", code="interrupted", path=target)


def _changed(path: Path, how: str = "copied tables would not belong together") -> InitializationError:
    return InitializationError(f"{path} changed while it was read: {how}", code="locked", path=path)
