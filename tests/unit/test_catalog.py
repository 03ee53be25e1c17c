"""Judging what was read: which required tables are missing or differ."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfheald.catalog import CheckResult, Reading, Relation, judge
from selfheald.column_types import canonical_type, same_type
from selfheald.errors import DatabaseCorruptionError, InitializationError
from selfheald.initialization_state import RequiredTable, TableTier
from selfheald.locks import Holder

NAMES = st.sampled_from(["a", "B", "comp_levers", "Ä", 'qu"ote', "with space", "x'y"])
TYPES = st.sampled_from(["INTEGER", "VARCHAR", "DECIMAL(10,2)", "DOUBLE[]", "STRUCT(x INTEGER)"])
COLUMNS = st.lists(st.tuples(NAMES, TYPES), max_size=4, unique_by=lambda column: column[0].lower()).map(tuple)


def reading(*relations: Relation, certain: bool = True, error: InitializationError | None = None) -> Reading:
    return Reading(
        identity=None,
        exists=True,
        empty=False,
        relations=relations,
        certain=certain,
        holder=None,
        error=error,
        duration_seconds=0.0,
        read_at=0.0,
    )


def needed(name: str, *columns: tuple[str, str | None], schema: str = "main") -> RequiredTable:
    return RequiredTable(name, TableTier.SEED, schema=schema, columns=columns)


REQUIRED = st.lists(
    st.builds(needed, NAMES, schema=st.sampled_from(["main", "S"])), max_size=5, unique_by=lambda table: table.qualified
)
RELATIONS = st.lists(
    st.builds(Relation, st.sampled_from(["main", "s"]), NAMES, st.sampled_from(["table", "view"]), COLUMNS),
    max_size=6,
    unique_by=lambda item: (item.schema, item.name.lower()),
).map(tuple)


@given(RELATIONS, REQUIRED)
def test_every_required_table_is_judged_once(relations: tuple[Relation, ...], required: list[RequiredTable]) -> None:
    result = judge(reading(*relations), required)
    there = {(item.schema.lower(), item.name.lower()): item.kind for item in relations}
    kinds = [there.get((table.schema.lower(), table.name.lower())) for table in required]
    assert [table["kind"] for table in result.tables] == kinds
    assert [table["name"] for table in result.tables] == [table.qualified for table in required]
    assert list(result.missing) == [table for table, kind in zip(required, kinds, strict=True) if kind is None]
    assert list(result.mismatched) == [table for table, kind in zip(required, kinds, strict=True) if kind == "view"]
    assert result.complete == (set(kinds) <= {"table"})
    assert (result.error is not None) == ("view" in kinds)


@given(RELATIONS, REQUIRED, RELATIONS)
def test_more_relations_never_make_it_less_complete(
    relations: tuple[Relation, ...], required: list[RequiredTable], more: tuple[Relation, ...]
) -> None:
    there = {(item.schema, item.name.lower()) for item in relations}
    extra = [item for item in more if (item.schema, item.name.lower()) not in there and item.kind == "table"]
    before, after = judge(reading(*relations), required), judge(reading(*relations, *extra), required)
    assert set(after.missing) <= set(before.missing)
    assert after.complete or not before.complete


@given(COLUMNS, COLUMNS)
def test_columns_may_be_more_but_not_fewer(
    there: tuple[tuple[str, str], ...], wanted: tuple[tuple[str, str], ...]
) -> None:
    table = Relation("main", "t", "table", there)
    untyped = judge(reading(table), [needed("T", *((name, None) for name, _ in wanted))])
    present = {name.lower(): type_ for name, type_ in there}
    absent = [name for name, _ in wanted if name.lower() not in present]
    assert untyped.tables[0]["missing_columns"] == absent
    assert untyped.complete == (not absent)
    typed = judge(reading(table), [needed("T", *wanted)])
    differing = [name for name, type_ in wanted if present.get(name.lower(), type_) != type_]
    assert typed.complete == (not absent and not differing)
    assert typed.missing == ()
    if not typed.complete:
        assert typed.error is not None
        assert typed.error.code == "schema_mismatch"
        assert typed.error.missing_tables == ["T"]


SEED = RequiredTable("s", TableTier.SEED, columns=(("a", None),), unique_id="seed.p.s")
MODEL = RequiredTable("m", TableTier.FOUNDATION, columns=(("a", None),), unique_id="model.p.m")
#: What may be there under the name of a required table: as it should be, with other columns, no table, nothing.
STATES = st.sampled_from(["right", "other", "view", "none"])


@given(STATES, STATES)
def test_only_seeds_are_made_anew_and_only_if_nothing_else_is_wrong(seed: str, model: str) -> None:
    states = {"s": seed, "m": model}
    there = [
        Relation("main", name, "view" if state == "view" else "table", (("a" if state == "right" else "b", "INTEGER"),))
        for name, state in states.items()
        if state != "none"
    ]
    told = judge(reading(*there), [SEED, MODEL], "/w/d b")
    rebuilt = judge(reading(*there), [SEED, MODEL], "/w/d b", rebuild_seeds=True)
    assert told.outdated == ()
    assert told.to_make == told.missing == rebuilt.missing
    assert told.complete == rebuilt.complete == (seed == model == "right")
    may = seed == "other" and model in ("right", "none")
    assert rebuilt.outdated == ((SEED,) if may else ())
    assert rebuilt.to_make == (*rebuilt.missing, *rebuilt.outdated)
    wrong = {"other", "view"} & set(states.values())
    assert (told.error is not None) == bool(wrong)
    assert (rebuilt.error is not None) == (bool(wrong) and not may)
    if told.error is not None:
        assert ("selfheald repair '/w/d b' --rebuild-seeds" in told.error.hint) == may


@given(RELATIONS, st.booleans())
def test_a_reading_survives_json(relations: tuple[Relation, ...], certain: bool) -> None:
    seen = Reading(
        identity={"device": 1, "inode": 2, "size": 3, "mtime_ns": 4, "ctime_ns": 5, "wal": None},
        exists=True,
        empty=False,
        relations=relations,
        certain=certain,
        holder=Holder(7, "python x", "write"),
        error=None,
        duration_seconds=0.5,
        read_at=6.0,
    )
    assert Reading.from_dict(json.loads(json.dumps(seen.as_dict()))) == seen


def test_an_error_in_json_keeps_its_class() -> None:
    seen = reading(error=DatabaseCorruptionError("torn", db_path="/d"))
    again = Reading.from_dict(json.loads(json.dumps(seen.as_dict())))
    assert isinstance(again.error, DatabaseCorruptionError)
    assert again.error.db_path == "/d"


class TestJudge:
    """The cases that have a name."""

    def test_names_are_folded_as_duckdb_does(self) -> None:
        assert judge(reading(Relation("MAIN", "T", "table")), [needed("t")]).complete
        assert not judge(reading(Relation("main", "Ä", "table")), [needed("ä")]).complete

    def test_another_schema_is_another_table(self) -> None:
        result = judge(reading(Relation("other", "t", "table")), [needed("t"), needed("t", schema="other")])
        assert [table.qualified for table in result.missing] == ["t"]
        assert [table["name"] for table in result.tables] == ["t", "other.t"]

    @pytest.mark.parametrize(("exists", "empty"), [(False, False), (True, True)])
    def test_nothing_there_is_no_error(self, exists: bool, empty: bool) -> None:
        seen = Reading(None, exists, empty, (), True, None, None, 0.0, 0.0)
        result = judge(seen, [needed("t")])
        assert (result.complete, result.error, len(result.missing)) == (False, None, 1)
        assert not judge(seen, []).complete

    def test_what_could_not_be_read_is_not_complete(self) -> None:
        torn = DatabaseCorruptionError("torn", db_path="/d")
        result = judge(reading(error=torn), [])
        assert result.error is torn
        assert not result.complete

    def test_an_error_that_is_not_certain_is_told_as_locked(self) -> None:
        error = judge(reading(certain=False, error=DatabaseCorruptionError("torn", db_path="/d")), []).error
        assert error is not None
        assert (error.code, error.path, error.retryable) == ("locked", "/d", True)
        assert "torn" in error.message

    def test_the_message_names_what_differs(self) -> None:
        relations = [Relation("main", "t", "table", (("a", "INTEGER"),)), Relation("main", "v", "view")]
        result: CheckResult = judge(reading(*relations), [needed("t", ("a", "text"), ("b", None)), needed("v")], "/d")
        assert result.error is not None
        assert result.error.message == (
            "t has no column b; t.a is INTEGER, not text; v is a view, not a table. Nothing was changed."
        )
        assert result.error.path == "/d"


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("int", "INTEGER"), ("Int4", "INTEGER"), ("signed", "INTEGER"), ("integer", "INTEGER"), ("bigint", "BIGINT"),
        ("long", "BIGINT"), ("text", "VARCHAR"), ("string", "VARCHAR"), ("varchar(20)", "VARCHAR"),
        ("numeric", "DECIMAL(18,3)"), ("decimal(10, 2)", "DECIMAL(10,2)"), ("dec(5)", "DECIMAL(5,0)"),
        ("float8", "DOUBLE"), ("double precision", "DOUBLE"), ("real", "FLOAT"), ("bool", "BOOLEAN"),
        ("timestamptz", "TIMESTAMP WITH TIME ZONE"), ("timestamp with time zone", "TIMESTAMP WITH TIME ZONE"),
        ("datetime", "TIMESTAMP"), ("int[]", "INTEGER[]"), ("varchar[3][]", "VARCHAR[3][]"),
        ('struct(A int, "b c" text[])', "STRUCT(a INTEGER, b c VARCHAR[])"),
        ("map(text, numeric(4,1))", "MAP(VARCHAR, DECIMAL(4,1))"), ("enum('a', 'B''c')", "ENUM('a', 'B''c')"),
        ("union(n int, s text)", "UNION(n INTEGER, s VARCHAR)"),
        ("mood", None), ("", None), ("int(", None), ("struct(a mood)", None), ("int;", None), ("int int", None),
    ],
)  # fmt: skip
def test_types_have_one_spelling(written: str, canonical: str | None) -> None:
    assert canonical_type(written) == canonical
    if canonical is not None:
        assert canonical_type(canonical.replace("b c", '"b c"')) == canonical


def test_types_that_are_not_understood_are_not_judged() -> None:
    assert same_type("mood", "ENUM('a')")
    assert not same_type("bigint", "INTEGER")


@given(st.text())
def test_no_text_breaks_the_type_parser(text: str) -> None:
    assert canonical_type(text) is None or isinstance(canonical_type(text), str)
