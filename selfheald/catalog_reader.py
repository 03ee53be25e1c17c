"""Reads a database's catalog without taking its lock and without writing. The only reader of live databases.

WARNING: it opens the database file. POSIX locks belong to the process: in a process that has the same file open in
DuckDB, closing our descriptor would drop DuckDB's lock, and a second writer could get in. The daemon may call this,
since it never opens a database in DuckDB; anywhere else it runs in a child (``check_child``).
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from operator import itemgetter
from pathlib import Path
from typing import Any

import duckdb

from selfheald.catalog import Reading, Relation
from selfheald.client import file_identity
from selfheald.duckdb_errors import classify
from selfheald.errors import DatabaseCorruptionError, InitializationError
from selfheald.file_header import BLOCKS_START, Header, not_regular, probe, unopenable
from selfheald.read_only_files import ReadOnlyFiles
from selfheald.spare import require_descriptors
from selfheald.watched_file import Watched, watch_database
from selfheald.workspace import is_reachable

#: The name under which a database is attached while it is read.
CATALOG = "checked"

_MEMORY_LIMIT = "512MB"
_LOOKS = 3
_kept = threading.local()

#: A relation: the number of its schema, the schema's name, its own.
_Key = tuple[int, str, str]


def read_database(path: Path) -> Reading:
    """What the database at ``path`` holds now. Never raises for anything that a file can be.

    An error counts (``certain``) only if the files held still and a second look, at once, met the same one.
    """
    started, began = time.time(), time.monotonic()
    before: Reading | None = None
    for _ in range(_LOOKS):
        reading, held_still = _look(path, started)
        if reading.error is None and held_still:
            # Certain or not: another look at once could tell no more.
            break
        if reading.certain and before is not None and before.certain and _code(before) == _code(reading):
            break
        before = reading
    else:
        reading = replace(reading, certain=False)
    return replace(reading, duration_seconds=time.monotonic() - began)


def _code(reading: Reading) -> str | None:
    return None if reading.error is None else reading.error.code


def _look(path: Path, started: float) -> tuple[Reading, bool]:
    """One reading, and whether the files held still meanwhile."""
    reading = Reading(
        identity=file_identity(path), exists=True, empty=False, relations=(), certain=False, holder=None, error=None,
        duration_seconds=0.0, read_at=started,
    )  # fmt: skip
    try:
        with watch_database(path) as watched:
            reading = replace(reading, identity=file_identity(path), read_at=watched.opened_at)
            if watched.descriptor is None:
                reading = _without_file(reading, watched)
            elif watched.size == 0:
                reading = replace(reading, empty=True, error=_stray_wal(watched, "is empty"))
            else:
                relations, error = _relations(watched, watched.descriptor)
                reading = replace(reading, relations=relations, error=error)
            certain, held_still = watched.certain(), watched.held_still()
            return replace(reading, certain=certain, holder=watched.holder), held_still
    except (OSError, ValueError) as failure:
        if isinstance(failure, FileNotFoundError):
            # Without its folder a database does not exist; with it, it went away between two looks.
            no_folder = not is_reachable(path.parent)
            return replace(reading, identity=None, exists=False, certain=no_folder), no_folder
        if isinstance(failure, BlockingIOError):
            # Another process holds a lease on it, as a publishing does for a moment.
            return replace(reading, error=unopenable(failure, path)), False
        return replace(reading, error=unopenable(failure, path), certain=True), True


def _without_file(reading: Reading, watched: Watched) -> Reading:
    """The reading of a path at which no regular file is."""
    if watched.database is None:
        return replace(reading, exists=False, error=_stray_wal(watched, "is gone"))
    return replace(reading, error=not_regular(watched.database, watched.path))


def _stray_wal(watched: Watched, what: str) -> InitializationError | None:
    """The error for a database that is absent or empty while a WAL is there; ``None`` without one."""
    if not any(watched.seen[1:]):
        return None
    return DatabaseCorruptionError(
        f"{watched.path} {what}, but its WAL is still there: {watched.path}.wal",
        db_path=watched.path,
        hint="Restore the database that the WAL belongs to from a back-up, or move the WAL away.",
    )


def _relations(watched: Watched, descriptor: int) -> tuple[tuple[Relation, ...], InitializationError | None]:
    header = probe(descriptor, watched.path)
    if header.error is not None:
        return (), header.error
    reader = _take_reader()
    try:
        with reader.attached(watched):
            relations = reader.relations()
            if header.is_short:
                reader.check_blocks(relations, header, watched.path)
    except InitializationError as error:
        return (), error
    except (duckdb.Error, OSError, RuntimeError, ValueError) as failure:
        # After an internal error DuckDB refuses all further work: this connection is not kept.
        cause = reader.files.failure or failure
        reader.close()
        return (), classify(cause, watched.path, header)
    _kept.reader = reader
    return relations, None


def _take_reader() -> CatalogReader:
    """This thread's connection, a new one where there is none; whoever took it gives it back if it still works."""
    reader: CatalogReader | None = getattr(_kept, "reader", None)
    _kept.reader = None
    if reader is None:
        reader = CatalogReader()
        # Planning what is asked for in a check takes longer than running it: a quarter of it is spared.
        reader.connection.execute("PRAGMA disable_optimizer")
        reader.lock()
    return reader


class CatalogReader:
    """An in-memory connection that can reach one database file, read-only, and nothing else.

    DuckDB's own file system is off, and so are extensions; the configuration is locked. So even if SQL that a
    database brought along were run, there would be nothing for it to read. Views are never bound.
    """

    def __init__(self, memory_limit: str = _MEMORY_LIMIT) -> None:
        require_descriptors()
        self.files = ReadOnlyFiles()
        self.connection = duckdb.connect(
            ":memory:",
            config={
                "threads": "1",
                "memory_limit": memory_limit,
                "autoinstall_known_extensions": "false",
                "autoload_known_extensions": "false",
            },
        )
        self.connection.register_filesystem(self.files)
        self.connection.execute("SET temp_directory = ''")
        self.connection.execute("SET enable_progress_bar = false")  # it would go to standard output, amid our own
        with contextlib.suppress(duckdb.CatalogException):
            # 2.0.0 reads ahead in other threads where it takes a file for remote, as it does with ours: rows came out
            # wrong, or "corrupt", in one copy of four. Older versions do not know the setting.
            self.connection.execute("SET storage_block_prefetch = 'NEVER'")
        with contextlib.suppress(duckdb.CatalogException):
            # Since 2.0 each connection starts eight threads for that, whatever `threads` says.
            self.connection.execute("SET async_threads = 1")
        # Since 1.5 views are bound when their columns are asked for, and say whether they have been;
        # since 2.0 schemas can hold schemas.
        self._knows_bound = "is_bound" in self._columns_of("duckdb_views()")
        self._knows_parents = "parent_schema_oid" in self._columns_of("duckdb_schemas()")

    def lock(self) -> None:
        """From here on no file is reached but the one that is shown. For good: nothing can change it back."""
        self.connection.execute("SET disabled_filesystems = 'LocalFileSystem'")
        self.connection.execute("SET lock_configuration = true")

    def close(self) -> None:
        """Close the connection, whatever state it is in."""
        with contextlib.suppress(duckdb.Error, RuntimeError):
            self.connection.close()

    @contextlib.contextmanager
    def attached(self, watched: Watched) -> Iterator[None]:
        """The database of ``watched``, attached as :data:`CATALOG`."""
        assert watched.descriptor is not None
        address = self.files.show(watched.path.name, watched.descriptor, watched.folder)
        try:
            self.connection.execute(f"ATTACH '{address}' AS {CATALOG} (READ_ONLY)")
            yield
            self.connection.execute(f"DETACH {CATALOG}")
        finally:
            self.files.hide()

    def relations(self) -> tuple[Relation, ...]:
        """All tables and views of the attached database, by schema and name. Nested schemas are left out."""
        nested = self._nested_schemas()
        tables = self._rows(f"SELECT schema_oid, schema_name, table_name FROM duckdb_tables() WHERE {_OURS}")
        views = self._views()
        if all(is_bound for *_, is_bound in views):
            columns = self._columns()
        else:
            # duckdb_columns() would bind these views, that is, begin to run their SQL.
            columns = {key: self._table_columns(*key[1:]) for key in tables if key[0] not in nested}
        found = [
            Relation(key[1], key[2], "table", tuple(columns.get(key, ()))) for key in tables if key[0] not in nested
        ]
        names = {key[:3] for key in views} if self._knows_bound else columns.keys() - set(tables)
        found += [Relation(key[1], key[2], "view") for key in names if key[0] not in nested]
        return tuple(sorted(found, key=lambda item: (item.schema, item.name)))

    def definition(self, table: Relation) -> str:
        """The SQL that defines a base table, as DuckDB tells it."""
        where = f"schema_name = {literal(table.schema)} AND table_name = {literal(table.name)}"
        return str(self._rows(f"SELECT sql FROM duckdb_tables() WHERE {_OURS} AND {where}")[0][0])

    def _nested_schemas(self) -> set[int]:
        if not self._knows_parents:
            return set()
        inner = f"{_ATTACHED} AND parent_schema_oid IS NOT NULL"
        return {oid for (oid,) in self._rows(f"SELECT oid FROM duckdb_schemas() WHERE {inner}")}

    def _views(self) -> list[Any]:
        """Views and whether they are bound; nothing before 1.5, where the columns tell of views too, and bind none."""
        if not self._knows_bound:
            return []
        return self._rows(f"SELECT schema_oid, schema_name, view_name, is_bound FROM duckdb_views() WHERE {_OURS}")

    def _columns(self) -> dict[_Key, list[tuple[str, str]]]:
        columns: dict[_Key, list[tuple[str, str]]] = {}
        listed = "column_index, schema_oid, schema_name, table_name, column_name, data_type"
        rows = self._rows(f"SELECT {listed} FROM duckdb_columns() WHERE {_OURS}")
        # Sorted here: DuckDB takes longer to plan that than this takes.
        for _, schema_oid, schema, table, name, type_ in sorted(rows, key=itemgetter(0)):
            columns.setdefault((schema_oid, schema, table), []).append((name, type_))
        return columns

    def _table_columns(self, schema: str, table: str) -> list[tuple[str, str]]:
        named = literal(qualified(CATALOG, schema, table))
        return self._rows(f"SELECT name, type FROM pragma_table_info({named})")

    def check_blocks(self, relations: Sequence[Relation], header: Header, path: Path) -> None:
        """Raise ``database_corrupt`` if a table's rows lie in blocks beyond the end of the file."""
        assert header.block_size is not None
        blocks = (header.size - BLOCKS_START) // header.block_size
        for relation in relations:
            if relation.kind == "table" and self._last_block(relation) >= blocks:
                raise DatabaseCorruptionError(
                    f"{path} was cut off: it has {header.size} bytes, and rows of {relation.name} lie beyond them",
                    db_path=path,
                )

    def _last_block(self, relation: Relation) -> int:
        """The highest number of a block that holds rows of a table, -1 if none does."""
        return max((block for segment in self._segments(relation) for block in _blocks(segment)), default=-1)

    def stored_bytes(self, relation: Relation, block_size: int) -> int:
        """About what a table's rows take: its blocks, and 16 bytes for each value that is in the WAL only."""
        segments = self._segments(relation)
        blocks = {block for segment in segments for block in _blocks(segment) if block >= 0}
        loose = sum(segment["count"] for segment in segments if not segment["persistent"])
        return len(blocks) * block_size + int(loose) * 16

    def _segments(self, relation: Relation) -> list[dict[str, Any]]:
        """Where the values of a table are stored, as ``pragma_storage_info`` tells."""
        named = literal(qualified(CATALOG, relation.schema, relation.name))
        try:
            storage = self.connection.execute(f"SELECT * FROM pragma_storage_info({named})")
        except duckdb.CatalogException:
            # 1.0.0 cannot find a table by a name that has a quote in it; then nothing is known of its blocks.
            return []
        names = [column[0] for column in storage.description or ()]
        return [dict(zip(names, row, strict=True)) for row in storage.fetchall()]

    def _columns_of(self, function: str) -> list[str]:
        return [column[0] for column in self.connection.execute(f"FROM {function} LIMIT 0").description or ()]

    def _rows(self, query: str) -> list[Any]:
        return self.connection.execute(query).fetchall()


_ATTACHED = f"database_name = '{CATALOG}'"
_OURS = f"{_ATTACHED} AND NOT internal"
_BLOCK_NUMBERS = re.compile(r"\d+")


def _blocks(segment: Mapping[str, Any]) -> list[int]:
    """The numbers of the blocks that a segment lies in; -1 stands for one that needs none."""
    if not segment["persistent"] or segment["block_id"] is None:
        return []
    long_strings = (segment.get("segment_info") or "").partition("Overflow String Block Ids: ")[2].partition("[")[0]
    more = segment.get("additional_block_ids") or ()
    return [segment["block_id"], *more, *map(int, _BLOCK_NUMBERS.findall(long_strings))]


def identifier(name: str) -> str:
    """A name as SQL takes it whatever it contains."""
    return '"' + name.replace('"', '""') + '"'


def qualified(*names: str) -> str:
    """Catalog, schema and table as one SQL name."""
    return ".".join(map(identifier, names))


def literal(text: str) -> str:
    """A text as a SQL string."""
    return "'" + text.replace("'", "''") + "'"
