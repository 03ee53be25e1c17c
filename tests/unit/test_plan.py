"""The plan: what is required, and which nodes make what a database lacks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfheald.errors import InitializationError
from selfheald.initialization_state import RequiredTable, TableTier
from selfheald.plan import Key, Node, Plan, Work, find_work, make_plan, plan_from_json

SELECT = ["resource_type:seed", "tag:foundation"]


def raw_node(name: str, **changes: Any) -> dict[str, Any]:
    """A node as the child tells of it."""
    return {
        "name": name,
        "schema": "main",
        "alias": name,
        "resource_type": "model",
        "materialized": "table",
        "fqn": ["project", "foundation", name],
        "path": f"/project/models/{name}.sql",
        "depends_on": [],
        "columns": [],
        "contract": False,
        "tags": [],
        "raw_code": "select 1",
        "hooks": [],
        "macros": [],
        "delimiter": None,
        **changes,
    }


def seed(name: str, **changes: Any) -> dict[str, Any]:
    return raw_node(name, resource_type="seed", materialized="seed", raw_code=None, delimiter=",", **changes)


def answer(nodes: Mapping[str, dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """The child's answer to the job ``plan``: seeds, and what is tagged ``foundation``, are selected."""
    required = [uid for uid, raw in nodes.items() if raw["resource_type"] == "seed" or "foundation" in raw["tags"]]
    return {
        "event": "result",
        "project": "workforce",
        "nodes": dict(nodes),
        "sources": {},
        "macros": {},
        "required": required,
        "versions": {"dbt": "1.11.0", "duckdb": "2.0.0"},
        "warnings": [],
        **changes,
    }


def planned(
    nodes: Mapping[str, dict[str, Any]], explicit: list[dict[str, str | None]] | None = None, **changes: Any
) -> Plan:
    return make_plan(
        answer(nodes, **changes),
        fingerprint="sha256:1",
        project_dir="/project",
        select=SELECT,
        explicit=explicit or (),
    )


def names(work: Work) -> tuple[list[str], list[str], list[Key]]:
    return [node.name for node in work.seeds], [node.name for node in work.models], list(work.inputs)


def missing(plan: Plan, *wanted: str) -> list[RequiredTable]:
    found = [table for table in plan.required if table.name in wanted]
    assert len(found) == len(wanted)
    return found


# A seed, a view over it, an ephemeral model over that, and two tables.
CHAIN = {
    "seed.p.levers": seed("levers"),
    "model.p.stg_levers": raw_node("stg_levers", materialized="view", depends_on=["seed.p.levers"]),
    "model.p.int_years": raw_node("int_years", materialized="ephemeral", depends_on=["model.p.stg_levers"]),
    "model.p.pay": raw_node("pay", tags=["foundation"], depends_on=["model.p.int_years"]),
    "model.p.benefits": raw_node("benefits", tags=["foundation"], depends_on=["model.p.pay"]),
}


class TestMakePlan:
    def test_seeds_come_first_then_names_in_order(self) -> None:
        plan = planned(CHAIN)
        assert [(table.name, table.tier) for table in plan.required] == [
            ("levers", TableTier.SEED),
            ("benefits", TableTier.FOUNDATION),
            ("pay", TableTier.FOUNDATION),
        ]
        assert plan.required[1].dbt_selector == "fqn:project.foundation.benefits"
        assert plan.required[1].unique_id == "model.p.benefits"

    def test_types_count_only_under_a_contract(self) -> None:
        columns = [["id", "integer"], ["name", "varchar"]]
        plan = planned(
            {
                "seed.p.a": seed("a", columns=columns, contract=True),
                "seed.p.b": seed("b", columns=columns),
            }
        )
        assert plan.required[0].columns == (("id", "integer"), ("name", "varchar"))
        assert plan.required[1].columns == (("id", None), ("name", None))

    @pytest.mark.parametrize("materialized", ["view", "ephemeral"])
    def test_what_makes_no_table_is_reported_and_not_required(self, materialized: str) -> None:
        nodes = {"seed.p.a": seed("a"), "model.p.v": raw_node("v", materialized=materialized, tags=["foundation"])}
        plan = planned(nodes)
        assert [table.name for table in plan.required] == ["a"]
        assert plan.warnings == (f"model.p.v is selected but is {materialized}: it is no required table",)

    def test_a_tag_that_differs_only_in_case_is_a_warning(self) -> None:
        nodes = {
            "seed.p.a": seed("a"),
            "model.p.m": raw_node("m", tags=["Foundation"]),
            "model.p.n": raw_node("n", tags=["foundation", "other"]),
        }
        plan = planned(nodes)
        assert plan.warnings == (
            "tag 'Foundation' differs from the selected 'foundation' only in case: dbt's tags are case-sensitive",
        )

    @pytest.mark.parametrize("select", [["tag:foundation+"], ["+tag:foundation,path:models"], ["@tag:foundation"]])
    def test_tags_are_found_within_dbt_selections(self, select: list[str]) -> None:
        nodes = {"seed.p.a": seed("a"), "model.p.m": raw_node("m", tags=["FOUNDATION"])}
        plan = make_plan(answer(nodes), fingerprint="f", project_dir="/p", select=select)
        assert len(plan.warnings) == 1

    def test_warnings_of_the_child_are_kept_once(self) -> None:
        plan = planned({"seed.p.a": seed("a")}, warnings=["w", "w", "x"])
        assert plan.warnings == ("w", "x")

    def test_an_empty_selection_tells_what_there_is(self) -> None:
        nodes = {"seed.p.a": seed("a"), "model.p.m": raw_node("m", tags=["Foundation", "late"])}
        with pytest.raises(InitializationError) as caught:
            planned(nodes, required=[])
        assert caught.value.code == "selection_empty"
        assert caught.value.path == "/project"
        assert "seeds: a" in caught.value.hint
        assert "tags: Foundation, late" in caught.value.hint

    def test_a_selection_of_views_alone_is_empty(self) -> None:
        nodes = {"model.p.v": raw_node("v", materialized="view", tags=["foundation"])}
        with pytest.raises(InitializationError) as caught:
            planned(nodes)
        assert caught.value.code == "selection_empty"

    def test_macros_count_as_code_with_the_macros_that_they_call(self) -> None:
        macros = {
            "macro.p.outer": {"sql": "OUTER", "macros": ["macro.p.inner", "macro.dbt.foreign"]},
            "macro.p.inner": {"sql": "INNER", "macros": ["macro.p.outer"]},
            "macro.p.unused": {"sql": "UNUSED", "macros": []},
        }
        nodes = {
            "seed.p.a": seed("a"),
            "model.p.m": raw_node("m", raw_code="OWN", hooks=["HOOK"], macros=["macro.p.outer"]),
        }
        code = planned(nodes, macros=macros).nodes["model.p.m"].code
        assert set(code.split()) == {"OWN", "HOOK", "OUTER", "INNER"}


class TestExplicitTables:
    def test_they_replace_the_selection(self) -> None:
        plan = planned(CHAIN, [{"name": "pay", "tier": None, "select": None}])
        assert [(table.name, table.tier) for table in plan.required] == [("pay", TableTier.FOUNDATION)]

    def test_the_tier_can_be_said(self) -> None:
        plan = planned(CHAIN, [{"name": "pay", "tier": "seed", "select": None}])
        assert plan.required[0].tier is TableTier.SEED

    @pytest.mark.parametrize("name", ["PAY_2", "raw.pay_2", "Pay"])
    def test_they_are_found_by_alias_schema_and_model_name(self, name: str) -> None:
        nodes = {"model.p.pay": raw_node("pay", schema="raw", alias="pay_2")}
        table = planned(nodes, [{"name": name, "tier": None}]).required[0]
        assert (table.name, table.schema, table.unique_id) == ("pay_2", "raw", "model.p.pay")

    @pytest.mark.parametrize("name", ["nothing", "stg_levers", "int_years"])
    def test_a_table_that_nothing_makes_is_an_error_that_lists_what_there_is(self, name: str) -> None:
        with pytest.raises(InitializationError) as caught:
            planned(CHAIN, [{"name": name, "tier": None}])
        assert caught.value.code == "selection_empty"
        assert name in caught.value.message
        assert caught.value.hint.endswith("There are: benefits, levers, pay.")


class TestFindWork:
    def test_everything_is_missing(self) -> None:
        plan = planned(CHAIN)
        work = find_work(plan, plan.required, set())
        assert names(work) == (["levers"], ["stg_levers", "pay", "benefits"], [])

    def test_nothing_is_missing(self) -> None:
        assert names(find_work(planned(CHAIN), [], {("main", "levers")})) == ([], [], [])

    def test_views_and_ephemeral_models_are_followed_to_the_table_that_is_there(self) -> None:
        plan = planned(CHAIN)
        work = find_work(plan, missing(plan, "pay"), {("main", "levers"), ("main", "benefits")})
        assert names(work) == ([], ["stg_levers", "pay"], [("main", "levers")])

    def test_a_parent_that_is_there_is_copied_and_nothing_above_it(self) -> None:
        plan = planned(CHAIN)
        work = find_work(plan, missing(plan, "benefits"), {("main", "levers"), ("main", "pay")})
        assert names(work) == ([], ["benefits"], [("main", "pay")])

    def test_a_missing_parent_that_nobody_requires_is_made_too(self) -> None:
        nodes = {**CHAIN, "model.p.pay": {**CHAIN["model.p.pay"], "tags": []}}
        plan = planned(nodes)
        work = find_work(plan, missing(plan, "benefits"), {("main", "levers")})
        assert names(work) == ([], ["stg_levers", "pay", "benefits"], [("main", "levers")])

    def test_sources_are_inputs_where_they_exist(self) -> None:
        nodes = {"model.p.m": raw_node("m", tags=["foundation"], depends_on=["source.p.raw.Census", "source.p.raw.no"])}
        sources = {
            "source.p.raw.Census": {"schema": "RAW", "identifier": "Census"},
            "source.p.raw.no": {"schema": "raw", "identifier": "no"},
        }
        plan = planned(nodes, sources=sources)
        work = find_work(plan, plan.required, {("raw", "census"), ("main", "census_2")})
        assert names(work) == ([], ["m"], [("raw", "census")])

    @pytest.mark.parametrize(
        "changes",
        [
            {"raw_code": "select * from My_Notes"},
            {"raw_code": 'select * from "main"."my_notes" n'},
            {"hooks": ["insert into t select * from my_notes"]},
            {"macros": ["macro.p.notes"]},
        ],
    )
    def test_tables_that_only_the_sql_names_are_inputs(self, changes: dict[str, Any]) -> None:
        nodes = {"model.p.m": raw_node("m", tags=["foundation"], **changes)}
        plan = planned(nodes, macros={"macro.p.notes": {"sql": "from my_notes", "macros": []}})
        work = find_work(plan, plan.required, {("main", "my_notes"), ("main", "my_notes_2"), ("main", "other")})
        assert names(work)[2] == [("main", "my_notes")]

    def test_a_table_whose_name_is_no_word_is_found_in_the_sql_too(self) -> None:
        nodes = {"model.p.m": raw_node("m", tags=["foundation"], raw_code='select * from "head-count 2026"')}
        plan = planned(nodes)
        work = find_work(plan, plan.required, {("main", "head-count 2026"), ("main", "head-count 2025")})
        assert names(work)[2] == [("main", "head-count 2026")]

    def test_a_node_that_reads_itself_is_no_input(self) -> None:
        nodes = {"model.p.m": raw_node("m", tags=["foundation"], raw_code="select * from m")}
        plan = planned(nodes)
        assert names(find_work(plan, plan.required, {("main", "m")})) == ([], ["m"], [])

    def test_names_are_compared_without_case(self) -> None:
        nodes = {
            "seed.p.Levers": seed("Levers", schema="Main"),
            "model.p.m": raw_node("m", tags=["foundation"], depends_on=["seed.p.Levers"]),
        }
        plan = planned(nodes)
        assert names(find_work(plan, missing(plan, "m"), {("main", "levers")})) == ([], ["m"], [("main", "levers")])

    def test_ten_thousand_models_in_a_row(self) -> None:
        nodes = {
            f"model.p.m{i}": raw_node(f"m{i}", tags=["foundation"], depends_on=[f"model.p.m{i - 1}"] if i else [])
            for i in range(10_000)
        }
        plan = planned(nodes)
        work = find_work(plan, missing(plan, "m9999"), set())
        assert [node.name for node in work.models] == [f"m{i}" for i in range(10_000)]


KINDS = ["seed", "table", "incremental", "snapshot", "view", "ephemeral"]


@st.composite
def projects(draw: st.DrawFn) -> tuple[Plan, set[Key]]:
    """A plan over a random acyclic graph, and the tables that exist in some database."""
    size = draw(st.integers(1, 9))
    nodes: dict[str, Node] = {}
    sources: dict[str, Key] = {"source.p.raw.s0": ("raw", "s0"), "source.p.raw.s1": ("raw", "s1")}
    for number in range(size):
        kind = draw(st.sampled_from(KINDS))
        uid = f"node{number}"
        parents: list[str] = []
        named: list[str] = []
        if kind != "seed":
            parents = draw(st.lists(st.sampled_from([*nodes, *sources]), max_size=3, unique=True))
            named = draw(st.lists(st.sampled_from(["own_a", "own_b", "n0", "n1"]), max_size=2))
        nodes[uid] = Node(
            unique_id=uid,
            name=f"n{number}",
            schema="main",
            alias=f"N{number}",
            resource_type=kind if kind in ("seed", "snapshot") else "model",
            materialized=kind,
            selector=f"fqn:p.n{number}",
            path="",
            depends_on=tuple(parents),
            code=" join ".join(named),
        )
    required = tuple(
        RequiredTable(node.alias, TableTier.FOUNDATION, unique_id=uid)
        for uid, node in nodes.items()
        if node.makes_table and draw(st.booleans())
    )
    candidates = [node.key for node in nodes.values()] + [*sources.values(), ("main", "own_a"), ("main", "own_b")]
    existing = {key for key in candidates if draw(st.booleans())}
    plan = Plan("f", "p", "/p", required, nodes, sources, {})
    return plan, existing


@given(projects())
def test_work_is_exactly_the_missing_closure(project: tuple[Plan, set[Key]]) -> None:
    plan, existing = project
    lacking = [table for table in plan.required if ("main", table.name.lower()) not in existing]
    work = find_work(plan, lacking, existing)
    run = {node.unique_id: node for node in (*work.seeds, *work.models)}
    wanted = {table.unique_id for table in lacking}

    assert wanted <= run.keys()
    assert len(run) == len(work.seeds) + len(work.models)
    assert all(node.resource_type == "seed" for node in work.seeds)
    for node in run.values():
        assert node.materialized != "ephemeral"
        # What exists keeps every row: no table that is there is built again.
        assert not node.makes_table or node.key not in existing
    # Parents of what is run are run, or copied, or inlined, whose own parents are then in the same place.
    needed: dict[str, Node] = {}
    todo = [plan.nodes[uid] for uid in wanted]
    while todo:
        node = todo.pop()
        if node.unique_id in needed:
            continue
        needed[node.unique_id] = node
        for parent in node.depends_on:
            if parent in plan.sources:
                assert plan.sources[parent] not in existing or plan.sources[parent] in work.inputs
            elif not (plan.nodes[parent].makes_table and plan.nodes[parent].key in work.inputs):
                todo.append(plan.nodes[parent])
    assert {uid for uid, node in needed.items() if node.materialized != "ephemeral"} == run.keys()
    # Nothing is copied in vain.
    reads = {plan.sources[p] for node in needed.values() for p in node.depends_on if p in plan.sources}
    reads |= {plan.nodes[p].key for node in needed.values() for p in node.depends_on if p in plan.nodes}
    words = {word for node in needed.values() for word in node.code.split()}
    for key in work.inputs:
        assert key in existing
        assert key in reads or key[1] in words
        assert key not in {node.key for node in run.values()}
    # Whatever else exists and is read by name is copied, unless it is made.
    for key in existing - {node.key for node in needed.values()}:
        assert key[1] not in words or key in work.inputs
    # Parents come before children.
    order = {node.unique_id: place for place, node in enumerate(work.models)}
    for node in work.models:
        assert all(order[parent] < order[node.unique_id] for parent in node.depends_on if parent in order)


TEXT = st.text(max_size=8)
COLUMNS = st.lists(st.tuples(TEXT, st.none() | TEXT), max_size=3).map(tuple)
NODES = st.builds(
    Node,
    **dict.fromkeys(
        (
            "unique_id",
            "name",
            "schema",
            "alias",
            "resource_type",
            "materialized",
            "selector",
            "path",
            "code",
        ),
        TEXT,
    ),
    depends_on=st.lists(TEXT, max_size=3).map(tuple),
    columns=COLUMNS,
    contract=st.booleans(),
    tags=st.lists(TEXT, max_size=3).map(tuple),
    delimiter=TEXT,
)
TABLES = st.builds(
    RequiredTable,
    name=TEXT,
    tier=st.sampled_from(TableTier),
    dbt_selector=TEXT,
    schema=TEXT,
    columns=COLUMNS,
    unique_id=TEXT,
)
PLANS = st.builds(
    Plan,
    fingerprint=TEXT,
    project=TEXT,
    project_dir=TEXT,
    required=st.lists(TABLES, max_size=3).map(tuple),
    nodes=st.dictionaries(TEXT, NODES, max_size=3),
    sources=st.dictionaries(TEXT, st.tuples(TEXT, TEXT), max_size=2),
    versions=st.dictionaries(TEXT, TEXT, max_size=2),
    warnings=st.lists(TEXT, max_size=2).map(tuple),
)


@given(PLANS)
def test_a_plan_comes_back_from_its_json(plan: Plan) -> None:
    again = plan_from_json(json.loads(json.dumps(plan.to_json())))
    assert again == plan
    assert all(isinstance(table.tier, TableTier) for table in again.required)


def test_a_made_plan_comes_back_from_its_json() -> None:
    plan = planned(CHAIN, sources={"source.p.a": {"schema": "RAW", "identifier": "A"}})
    again = plan_from_json(json.loads(json.dumps(plan.to_json())))
    assert again == plan
    assert find_work(again, again.required, set()) == find_work(plan, plan.required, set())


@pytest.mark.parametrize(
    "damage",
    [
        {"plan_format": 0},
        {"required": [{"name": "x", "tier": "no such tier", "columns": []}]},
        {"nodes": {"a": {"name": "x"}}},
        {"sources": {"a": ["one"]}},
        {"warnings": None},
    ],
)
def test_a_damaged_plan_is_refused(damage: dict[str, Any]) -> None:
    record = {**planned(CHAIN).to_json(), **damage}
    with pytest.raises((KeyError, TypeError, ValueError)):
        plan_from_json(record)


def test_a_plan_without_a_key_is_refused() -> None:
    for key in planned(CHAIN).to_json():
        record = planned(CHAIN).to_json()
        del record[key]
        with pytest.raises(KeyError):
            plan_from_json(record)


def test_a_view_that_a_user_has_as_a_table_is_not_read_as_an_input() -> None:
    plan = planned(CHAIN)
    nodes = {uid: replace(node, code="from stg_levers") for uid, node in plan.nodes.items()}
    work = find_work(replace(plan, nodes=nodes), missing(plan, "pay"), {("main", "levers"), ("main", "stg_levers")})
    assert names(work) == ([], ["stg_levers", "pay"], [("main", "levers")])


class TestWhatElseIsRead:
    """Existing tables that no ``ref`` of a missing node's own tells of."""

    THERE = frozenset({("main", "notes"), ("main", "levers"), ("raw", "s")})

    def inputs(
        self, code: str = "select 1", *, given: Mapping[str, Any] | None = None, sql: str = "", **changes: Any
    ) -> list[Key]:
        nodes = {"seed.p.levers": seed("levers"), "model.p.m": raw_node("m", tags=["foundation"], raw_code=code)}
        plan = planned(nodes, **changes)
        return list(find_work(plan, missing(plan, "m"), self.THERE, variables=given, other_sql=sql).inputs)

    @pytest.mark.parametrize(
        "code", ["select 1 {# of notes #}", "-- select * from notes\nselect 1", "select 1\n  -- from notes"]
    )
    def test_comments_are_not_read(self, code: str) -> None:
        assert self.inputs(code) == []

    def test_what_only_looks_like_a_comment_is_read(self) -> None:
        assert self.inputs("select '--' as x from notes") == [("main", "notes")]

    def test_run_hooks_and_what_they_refer_to(self) -> None:
        hook = {
            "sql": "insert into log {{ more() }}",
            "depends_on": ["seed.p.levers", "source.p.s"],
            "macros": ["macro.p.more"],
        }
        found = self.inputs(
            run_hooks=[hook],
            macros={"macro.p.more": {"sql": "select * from notes", "macros": []}},
            sources={"source.p.s": {"schema": "raw", "identifier": "S"}},
        )
        assert found == sorted(self.THERE)

    def test_run_hooks_count_only_where_something_is_run(self) -> None:
        plan = planned(CHAIN, run_hooks=[{"sql": "select * from notes", "depends_on": [], "macros": []}])
        assert find_work(plan, [], self.THERE) == Work((), (), ())

    def test_sql_that_runs_before_dbt(self) -> None:
        assert self.inputs(sql="create view v as from notes") == [("main", "notes")]

    def test_names_in_variables_where_the_sql_asks_for_some(self) -> None:
        asking = "select * from {{ var('table') }}"
        assert self.inputs(asking, given={"table": "main.NOTES"}) == [("main", "notes")]
        assert self.inputs(asking, vars="{'table': 'notes'}") == [("main", "notes")]
        assert self.inputs(given={"table": "notes"}) == []


class TestAnotherCatalog:
    """A profile may attach further databases, and models may be made in them."""

    NODES: Mapping[str, dict[str, Any]] = {
        "model.p.far": raw_node("far", database="Archive", tags=["foundation"]),
        "model.p.m": raw_node("m", database="Simulation", tags=["foundation"], depends_on=["model.p.far"]),
    }

    def test_what_is_made_there_is_neither_required_nor_run_nor_copied(self) -> None:
        plan = planned(self.NODES, database_name="simulation")
        assert [table.name for table in plan.required] == ["m"]
        assert plan.warnings == ("model.p.far is selected but is made in Archive: it is no required table",)
        assert names(find_work(plan, plan.required, {("main", "far_2")})) == ([], ["m"], [])
        assert names(find_work(plan, plan.required, set())) == ([], ["m"], [])


class TestExplicitSelections:
    """Entries of ``required.tables`` whose select dbt has resolved."""

    def test_the_one_table_that_was_matched_is_it(self) -> None:
        tables = [["model.p.stg_levers", "model.p.pay"]]
        plan = planned(CHAIN, [{"name": "x", "tier": "seed", "select": "tag:x"}], tables=tables)
        assert [(table.name, table.tier) for table in plan.required] == [("pay", TableTier.SEED)]

    def test_several_are_an_error_that_lists_them(self) -> None:
        tables = [["model.p.benefits", "model.p.pay"]]
        with pytest.raises(
            InitializationError, match=r"gives model.p.benefits \(main.benefits\), model.p.pay"
        ) as caught:
            planned(CHAIN, [{"name": "x", "tier": "seed", "select": "tag:x"}], tables=tables)
        assert caught.value.code == "config_invalid"

    def test_a_name_that_two_tables_have_is_an_error(self) -> None:
        nodes = {
            "model.p.a": raw_node("a", alias="t", schema="one"),
            "model.p.b": raw_node("b", alias="T", schema="two"),
        }
        with pytest.raises(InitializationError, match="means 2 tables: ") as caught:
            planned(nodes, [{"name": "t", "tier": None}])
        assert caught.value.code == "config_invalid"
        assert planned(nodes, [{"name": "two.t", "tier": None}]).required[0].unique_id == "model.p.b"

    def test_a_relation_s_name_comes_before_a_model_s(self) -> None:
        nodes = {"model.p.a": raw_node("a", alias="b"), "model.p.b": raw_node("b", alias="c")}
        assert planned(nodes, [{"name": "b", "tier": None}]).required[0].unique_id == "model.p.a"
