"""What a database holds, and what of the required tables it lacks. Values in, values out.

A :class:`Reading` is what was seen in a file at one moment; :func:`judge` compares it with what is required.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from selfheald.column_types import same_type
from selfheald.errors import InitializationError, from_dict
from selfheald.initialization_state import RequiredTable
from selfheald.locks import Holder

_ASCII_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


@dataclass(frozen=True, slots=True)
class Relation:
    """A table or view; ``columns`` are ``(name, type)`` pairs in DuckDB's spelling, empty for views.

    A view's columns are never looked up: that could bind, and so run, SQL that the database brought along.
    """

    schema: str
    name: str
    kind: Literal["table", "view"]
    columns: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """What was seen in a database file.

    ``identity`` is :func:`selfheald.client.file_identity` from before the reading, unchanged after it if ``certain``.
    ``empty`` means zero bytes. ``certain`` is False where somebody may have been writing meanwhile: neither the
    relations nor the error count then, and it is to be read again soon. ``read_at`` is in seconds since the epoch.
    """

    identity: dict[str, Any] | None
    exists: bool
    empty: bool
    relations: tuple[Relation, ...]
    certain: bool
    holder: Holder | None
    error: InitializationError | None
    duration_seconds: float
    read_at: float

    def as_dict(self) -> dict[str, Any]:
        """As JSON can carry it from a child process."""
        return {
            "identity": self.identity,
            "exists": self.exists,
            "empty": self.empty,
            "relations": [[item.schema, item.name, item.kind, item.columns] for item in self.relations],
            "certain": self.certain,
            "holder": None if self.holder is None else self.holder.as_dict(),
            "error": None if self.error is None else self.error.as_dict(),
            "duration_seconds": self.duration_seconds,
            "read_at": self.read_at,
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Reading:
        """The inverse of :meth:`as_dict`."""
        relations = tuple(
            Relation(schema, name, kind, tuple((column, type_) for column, type_ in columns))
            for schema, name, kind, columns in record["relations"]
        )
        return cls(
            identity=record["identity"],
            exists=record["exists"],
            empty=record["empty"],
            relations=relations,
            certain=record["certain"],
            holder=None if record["holder"] is None else Holder(**record["holder"]),
            error=None if record["error"] is None else from_dict(record["error"]),
            duration_seconds=record["duration_seconds"],
            read_at=record["read_at"],
        )


@dataclass(frozen=True, slots=True)
class CheckResult:
    """A reading, judged.

    ``tables`` has a record for each required table, in their order: ``name``, ``tier``, ``kind`` (``table``, ``view``
    or ``None``), ``missing_columns``. ``missing`` are those of which nothing is there; ``mismatched`` those of which
    something else is there; ``outdated`` those of them that are to be made anew. ``complete`` is True if the database
    was read and holds all of them as required; whether that is certain, the reading tells. ``error`` is the reading's
    own, or ``schema_mismatch``.
    """

    reading: Reading
    tables: tuple[dict[str, Any], ...]
    missing: tuple[RequiredTable, ...]
    mismatched: tuple[RequiredTable, ...]
    complete: bool
    error: InitializationError | None
    outdated: tuple[RequiredTable, ...] = ()

    @property
    def to_make(self) -> tuple[RequiredTable, ...]:
        """What an initialization has to make: the missing tables, and those that are to be made anew."""
        return (*self.missing, *self.outdated)


def judge(
    reading: Reading, required: Sequence[RequiredTable], path: object = None, *, rebuild_seeds: bool = False
) -> CheckResult:
    """Compare what was read with what is required. Names are compared as DuckDB does, ignoring (ASCII) case.

    Extra tables and columns are allowed. Types are compared only where a required column carries one. An error in a
    reading that is not certain is told as ``locked``: the file was changing while it was read. ``path`` is named in
    the error. With ``rebuild_seeds`` a seed's table whose columns differ is no error, but outdated, unless something
    else differs too, which only a person can mend.
    """
    found = {(fold(item.schema), fold(item.name)): item for item in reading.relations}
    tables: list[dict[str, Any]] = []
    missing: list[RequiredTable] = []
    mismatched: list[RequiredTable] = []
    faults: list[str] = []
    for table in required:
        relation = found.get((fold(table.schema), fold(table.name)))
        absent, differing = _compare_columns(relation, table)
        tables.append({
            "name": table.qualified,
            "tier": table.tier.value,
            "kind": None if relation is None else relation.kind,
            "missing_columns": absent,
        })  # fmt: skip
        if relation is None:
            missing.append(table)
        elif relation.kind == "view":
            mismatched.append(table)
            faults.append(f"{table.qualified} is a view, not a table")
        elif absent or differing:
            mismatched.append(table)
            faults += [f"{table.qualified} has no column {column}" for column in absent] + differing
    are_seeds = all(_is_seed_table(table, found) for table in mismatched)
    outdated = tuple(mismatched) if rebuild_seeds and are_seeds else ()
    error = _reading_error(reading, path) or _mismatch(() if outdated else faults, mismatched, are_seeds, path)
    return CheckResult(
        reading=reading,
        tables=tuple(tables),
        missing=tuple(missing),
        mismatched=tuple(mismatched),
        complete=error is None and reading.exists and not reading.empty and not missing and not outdated,
        error=error,
        outdated=outdated,
    )


def fold(name: str) -> str:
    """A name as DuckDB compares it: only the letters A to Z lose their case."""
    return name.translate(_ASCII_LOWER)


def _compare_columns(relation: Relation | None, table: RequiredTable) -> tuple[list[str], list[str]]:
    """The required columns that a table lacks, and a sentence for each that has another type."""
    if relation is None or relation.kind == "view":
        return [], []
    there = {fold(name): type_ for name, type_ in relation.columns}
    absent = [name for name, _ in table.columns if fold(name) not in there]
    differing = [
        f"{table.qualified}.{name} is {there[fold(name)]}, not {type_}"
        for name, type_ in table.columns
        if type_ is not None and fold(name) in there and not same_type(type_, there[fold(name)])
    ]
    return absent, differing


def _reading_error(reading: Reading, path: object) -> InitializationError | None:
    if reading.error is None or reading.certain:
        return reading.error
    return InitializationError(
        f"The database changed while it was read ({reading.error.message})",
        step="check_tables", code="locked", path=reading.error.path or path,
    )  # fmt: skip


def _is_seed_table(table: RequiredTable, found: Mapping[tuple[str, str], Relation]) -> bool:
    """True if dbt loads it from a file, and what is there under its name is a table."""
    relation = found.get((fold(table.schema), fold(table.name)))
    return table.unique_id.startswith("seed.") and relation is not None and relation.kind == "table"


def _mismatch(
    faults: Sequence[str], tables: Sequence[RequiredTable], are_seeds: bool, path: object
) -> InitializationError | None:
    if not faults:
        return None
    shown = "; ".join(faults[:3]) + ("; …" if len(faults) > 3 else "")
    hint = (
        "Make it anew from its file, and keep the old table under another name: `selfheald repair "
        f"{shlex.quote(str(path or 'DB'))} --rebuild-seeds`. Or rename or drop it, and it is made."
    )
    return InitializationError(
        f"{shown}. Nothing was changed.",
        step="check_tables", code="schema_mismatch", path=path, hint=hint if are_seeds else None,
        missing_tables=[table.qualified for table in tables],
    )  # fmt: skip
