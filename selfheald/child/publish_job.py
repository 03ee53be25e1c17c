"""Hands the finished tables of a staging database over to the live one: all of them, or none.

A database that does not exist gets a new file, put at its path when it is complete. One that exists is opened, and in
one transaction gets the tables that it lacks; nothing that it holds is read but to compare, or written at all.

The live database is attached to an in-memory one, which stays the default catalog: so no macro or view of a stranger's
file comes between our SQL and what it means, and DuckDB can be told *before* it opens the file to leave it as it is at
closing. That is taken back once our own transaction is in.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Tuple

import duckdb

from file_identity import Identity, open_here, wait_for_a_tick
from inputs import require_same
from placing.file_dance import look_for_room, put_in_place
from placing.latecomers import keep_locked
from protocol import JobError
from publish_errors import BusyError, ChangedError, told_of
from staging_check import verified_tables
from table_copy import Table, copy_all, describe, label, literal, quoted, relations

Job = Mapping[str, Any]
Emit = Callable[[Dict[str, Any]], None]
#: The numbers of rows of the tables, and the names under which those that they replaced are kept.
Published = Tuple[Dict[str, int], Dict[str, str]]

STAGING, LIVE = "selfheald_staging", "selfheald_live"
#: Seconds for which the database stays locked after our checkpoint, and at most, while others have it open: DuckDB 2.0
#: reads a file's headers before it locks it, so that who read the old ones before must not get the lock afterwards.
HOLD_GRAFTED, HOLD_AT_MOST = 0.010, 2.0


def publish(job: Job, emit: Emit) -> Dict[str, Any]:
    """Verify the tables of ``job`` in staging, then publish them. The outcome is published, busy or changed."""
    _usable(job["database"])
    try:
        with contextlib.closing(_connect(os.path.dirname(job["staging"]))) as connection:
            _attach(connection, job["staging"], STAGING, "(READ_ONLY)")
            with _step("verify", emit), told_of(job["staging"]):
                tables = verified_tables(connection, STAGING, job)
            with _step("publish", emit):
                hand_over = _create if job["mode"] == "create" else _graft
                rows, kept = hand_over(connection, job, tables, emit)
    except BusyError as busy:
        return {"outcome": "busy", "message": str(busy)}
    except ChangedError as changed:
        return {"outcome": "changed", "message": str(changed)}
    return {"outcome": "published", "created": [table.label for table in tables], "rows": rows, "kept": kept}


def _create(connection: duckdb.DuckDBPyConnection, job: Job, tables: List[Table], emit: Emit) -> Published:
    """A new file with these tables and nothing else, at the path where there was none, or an empty one."""
    database = job["database"]
    look_for_room(database)
    folder = os.path.join(os.path.dirname(job["staging"]), "publish")
    os.makedirs(folder, exist_ok=True)
    new = os.path.join(folder, os.path.basename(database))
    _remove(new)
    _attach(connection, new, LIVE, _format(job.get("storage_version")))
    with told_of(new), _transaction(connection):
        rows = copy_all(connection, tables, LIVE)
    with told_of(new):
        _checkpoint(connection)
    connection.close()
    if Identity.of(new)[1:] != (None, None, None):
        raise JobError("verification_failed", f"DuckDB left a WAL beside {new}", path=new)
    if job.get("keep"):
        _copy(new, job["keep"])
    put_in_place(new, database)
    return rows, {}


def _graft(connection: duckdb.DuckDBPyConnection, job: Job, tables: List[Table], emit: Emit) -> Published:
    """The tables, added to a database that exists, in one transaction; those that they replace get another name."""
    database = job["database"]
    seen = _quiet(job)
    # That the file was not written since proves its tables the same; but a WAL's stamps are not taken for proof.
    by_rows = bool(job.get("compare_inputs")) or seen.wal is not None
    descriptor = _open_unchanged(connection, database, seen)
    with told_of(database):
        # From here on no statement can read a file, whatever a definition in either database says.
        connection.execute("SET enable_external_access = false")
        with _transaction(connection):
            kept = _make_way(connection, job["tables"])
            for wanted in job["inputs"]:
                require_same(connection, LIVE, wanted, by_rows=by_rows)
            rows = copy_all(connection, tables, LIVE)
    try:
        _checkpoint(connection)
    except duckdb.Error as error:  # committed all the same: the rows are in the WAL
        emit({"event": "warning", "message": f"the checkpoint after publishing failed: {error}"})
    keep_locked(descriptor, HOLD_GRAFTED, HOLD_AT_MOST, HOLD_GRAFTED)
    return rows, kept


def _quiet(job: Job) -> Identity:
    """The live database as it was when staging was made, at a moment from which on every write can be seen."""
    database = job["database"]
    seen = Identity.of(database)
    if not seen.is_what(job["identity"]):
        raise ChangedError(f"{database} was written or replaced meanwhile")
    if (seen.checkpoint_wal or seen.recovery_wal) and _version() < (1, 5):
        message = f"{database} was left by a newer DuckDB in the middle of a checkpoint"
        raise JobError("database_newer", message, path=database)
    wait_for_a_tick(seen, os.path.join(os.path.dirname(job["staging"]), "clock"))
    return seen


def _usable(path: str) -> None:
    """DuckDB wants a path in UTF-8, and takes what follows a question mark for options: it puts the WAL elsewhere."""
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise JobError("unsafe_path", f"DuckDB cannot use a path that is not UTF-8: {path!r}", path=path) from error
    if "?" in path:
        raise JobError("unsafe_path", f"DuckDB cannot use a path with a question mark: {path}", path=path)


def _open_unchanged(connection: duckdb.DuckDBPyConnection, database: str, seen: Identity) -> int:
    """Attach the live database, prove that what DuckDB read of it is what it holds, and return DuckDB's descriptor.

    DuckDB 2.0 reads the headers, then locks. What another process committed between the two would be overwritten by
    our checkpoint. Opening by itself writes neither to the main file nor to an ordinary WAL (1.0 and 2.0), so if
    all stamps are under the lock what they were before the opening, nobody wrote in between. They do change where
    DuckDB itself mends what a crash in a checkpoint left behind; then too we leave, and find it mended next time.
    """
    try:
        _attach(connection, database, LIVE, "")
    except JobError:
        if Identity.of(database) != seen:  # a file that is being written can look like anything
            raise ChangedError(f"{database} was written while it was opened") from None
        raise
    descriptor = None if seen.main is None else open_here(seen.main)
    if Identity.of(database) != seen or descriptor is None:
        raise ChangedError(f"{database} was written while it was opened")
    return descriptor


def _make_way(connection: duckdb.DuckDBPyConnection, tables: List[Mapping[str, Any]]) -> Dict[str, str]:
    """See that no name is taken, and give each table that is to be replaced its new one; return these."""
    there = relations(connection, LIVE)
    kept = {}
    for wanted in tables:
        schema, name, replaces = wanted["schema"], wanted["name"], wanted.get("replaces")
        kind = there.get((schema.lower(), name.lower()))
        if replaces is None and kind is not None:
            raise ChangedError(f"there is a {kind} {label(schema, name)} by now")
        if replaces is not None:
            if kind != "table":
                raise ChangedError(f"the table {label(schema, name)} is gone")
            old, aside = describe(connection, LIVE, schema, name), replaces["kept_as"]
            if (schema.lower(), aside.lower()) in there or old.columns != tuple(map(tuple, replaces["columns"])):
                raise ChangedError(f"the table {old.label} has changed meanwhile")
            _rename(connection, old, aside)
            kept[label(schema, name)] = label(old.schema, aside)
    return kept


def _rename(connection: duckdb.DuckDBPyConnection, table: Table, name: str) -> None:
    try:
        connection.execute(f"ALTER TABLE {table.within(LIVE)} RENAME TO {quoted(name)}")
    except duckdb.Error as error:  # an index, or a foreign key of another table
        message = f"the old table {table.label} cannot be kept under another name: {error}"
        hint = "Drop its indexes and the foreign keys that refer to it, or rename or drop it yourself."
        raise JobError("schema_mismatch", message, hint) from error


def _connect(folder: str) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(
        ":memory:",
        config={
            "threads": 1,
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "temp_directory": os.path.join(folder, "spill"),
        },
    )
    connection.execute("PRAGMA disable_checkpoint_on_shutdown")
    return connection


def _attach(connection: duckdb.DuckDBPyConnection, path: str, catalog: str, options: str) -> None:
    with told_of(path):
        connection.execute(f"ATTACH {literal(path)} AS {quoted(catalog)} {options}")


def _checkpoint(connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute(f"CHECKPOINT {quoted(LIVE)}")
    # 1.0 leaves an empty WAL behind until it closes the file in its ordinary way.
    connection.execute("PRAGMA enable_checkpoint_on_shutdown")


@contextlib.contextmanager
def _transaction(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    connection.execute("BEGIN TRANSACTION")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(duckdb.Error):  # DuckDB has rolled back already after some errors
            connection.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def _step(name: str, emit: Emit) -> Iterator[None]:
    emit({"event": "step", "name": name, "state": "started"})
    yield
    emit({"event": "step", "name": name, "state": "completed"})


def _format(storage_version: Optional[str]) -> str:
    """The option that asks for a storage format, where this DuckDB knows it."""
    if not storage_version or _version() < (1, 2):
        return ""
    return f"(STORAGE_VERSION {literal(storage_version)})"


def _version() -> Tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", duckdb.__version__)[:2])


def _copy(new: str, path: str) -> None:
    """One more of the finished file, where there is room for it: nobody's initialization depends on that."""
    try:
        shutil.copyfile(new, path)
    except OSError:
        _remove(path)


def _remove(path: str) -> None:
    for suffix in ("", ".wal", ".wal.checkpoint", ".wal.recovery"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path + suffix)
