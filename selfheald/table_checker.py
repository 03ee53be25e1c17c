"""Which of the tables that a simulation needs are there: the public door to reading a database.

Light to import: DuckDB is loaded where a database is read, and that is in a child process unless asked otherwise.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from selfheald.catalog import CheckResult, Reading, Relation, judge
from selfheald.check_child import copy_in_child, read_in_child
from selfheald.errors import InitializationError
from selfheald.initialization_state import RequiredTable, TableTier
from selfheald.workspace import Database

__all__ = [
    "CheckResult",
    "Reading",
    "Relation",
    "TableExistenceChecker",
    "copy_in_child",
    "judge",
    "read_database",
    "read_in_child",
    "resolve_required_with",
]

Resolver = Callable[[Path], Sequence[RequiredTable]]
_resolver: Resolver | None = None


def read_database(path: Path) -> Reading:
    """What the database at ``path`` holds now, read in this process: see :mod:`selfheald.catalog_reader`.

    WARNING: only for a process that never has ``path`` open in DuckDB; anywhere else :func:`read_in_child`.
    """
    from selfheald import catalog_reader

    return catalog_reader.read_database(path)


def resolve_required_with(resolver: Resolver) -> None:
    """Say where the required tables of a database come from when a checker is not given any.

    The plan is made higher up than this module may import; whoever makes it registers itself here.
    """
    global _resolver
    _resolver = resolver


class TableExistenceChecker:
    """Tells which required tables a database holds, without locking or changing it.

    ``required`` defaults to those that the configured dbt project requires. Each call reads the file anew, in a child
    process (about 0.3 s), so it is safe in a process that has the database open in DuckDB. ``in_process=True`` reads
    it here, in some milliseconds: only for a process that never has it open, and that a file may crash.
    """

    def __init__(
        self,
        db: str | os.PathLike[str],
        required: Sequence[RequiredTable] | None = None,
        in_process: bool = False,
        *,
        timeout: float = 30.0,
    ) -> None:
        self.path = Database.at(db).path
        self._required = None if required is None else tuple(required)
        self._in_process = in_process
        self._timeout = timeout

    @property
    def required(self) -> tuple[RequiredTable, ...]:
        """The required tables, found once."""
        if self._required is None:
            if _resolver is None:
                raise InitializationError(
                    "It is not known which tables are required", step="check_tables", code="config_invalid",
                    hint="Pass `required`, or import TableExistenceChecker from selfheald.", path=self.path,
                )  # fmt: skip
            self._required = tuple(_resolver(self.path))
        return self._required

    def read(self) -> Reading:
        """What the file holds now."""
        return read_database(self.path) if self._in_process else read_in_child(self.path, self._timeout)

    def check(self) -> CheckResult:
        """What the file holds now, compared with what is required. Never raises for what a file can be."""
        return judge(self.read(), self.required, self.path)

    def get_existing_tables(self) -> set[str]:
        """The names of all tables (not views), with the schema where it is not ``main``.

        Raises the error that keeps the file from being read. A file that does not exist, or is empty, holds none.
        """
        reading = self.read()
        error = judge(reading, (), self.path).error
        if error is not None:
            raise error
        return {
            item.name if item.schema == "main" else f"{item.schema}.{item.name}"
            for item in reading.relations
            if item.kind == "table"
        }

    def get_missing_tables(self) -> list[RequiredTable]:
        """The required tables of which nothing is there. Raises the error that keeps the file from being read."""
        result = self.check()
        if result.error is not None and result.error.code != "schema_mismatch":
            raise result.error
        return list(result.missing)

    def get_missing_by_tier(self) -> dict[TableTier, list[RequiredTable]]:
        """The missing tables of each tier, both tiers always present."""
        missing = self.get_missing_tables()
        return {tier: [table for table in missing if table.tier is tier] for tier in TableTier}

    def is_initialized(self) -> bool:
        """True if every required table is there as required. Raises the error that keeps the file from being read."""
        result = self.check()
        if result.error is not None and result.error.code != "schema_mismatch":
            raise result.error
        return result.complete
