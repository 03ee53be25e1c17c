"""What a dry run tells."""

from __future__ import annotations

import heapq

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfheald.initialization_state import RequiredTable, TableTier
from selfheald.outlook import Outlook, ephemeral_parents, running_order
from selfheald.plan import Node, Plan, Work, find_work


def node(uid: str, *parents: str, materialized: str = "table") -> Node:
    kind, _, name = uid.split(".")
    return Node(uid, name, "main", name, kind, "seed" if kind == "seed" else materialized, "", "", parents)


def plan(*nodes: Node, required: tuple[str, ...] = ()) -> Plan:
    tables = tuple(
        RequiredTable(uid.rpartition(".")[2], TableTier.FOUNDATION, "", unique_id=uid, schema="main")
        for uid in required
    )
    return Plan("f", "p", "/p", tables, {each.unique_id: each for each in nodes}, {}, {"dbt": "1.8.8", "duckdb": "1.0"})


def names(nodes: tuple[Node, ...]) -> list[str]:
    return [each.name for each in nodes]


def test_by_depth_and_then_by_name() -> None:
    a, z = node("model.p.a", "model.p.z"), node("model.p.z")
    b, y = node("model.p.b"), node("model.p.y", "model.p.z")
    assert names(running_order([a, b, y, z], plan(a, b, y, z))) == ["b", "z", "a", "y"]


def test_what_is_not_run_keeps_the_order_but_counts_for_nothing() -> None:
    first, there = node("model.p.z"), node("model.p.there", "model.p.z")
    inline, last = (
        node("model.p.inline", "model.p.there", materialized="ephemeral"),
        node("model.p.a", "model.p.inline"),
    )
    other = node("model.p.b", "model.p.other")
    around = plan(first, there, inline, last, other, node("model.p.other"))
    assert names(running_order([first, last, other], around)) == ["b", "z", "a"]
    assert names(ephemeral_parents([first, last, other], around)) == ["inline"]


@given(st.data())
def test_it_is_the_order_of_a_queue_by_depth(data: st.DataObject) -> None:
    """As dbt takes them: of all that are ready the one with the lowest depth, then the lowest name."""
    count = data.draw(st.integers(1, 12))
    uids = data.draw(st.permutations([f"model.p.m{number:02}" for number in range(count)]))
    nodes = {
        uid: node(uid, *data.draw(st.lists(st.sampled_from(uids[:place]), unique=True) if place else st.just([])))
        for place, uid in enumerate(uids)
    }
    chosen = data.draw(st.sets(st.sampled_from(uids)))

    ancestors: dict[str, set[str]] = {}
    for uid in uids:
        ancestors[uid] = {each for parent in nodes[uid].depends_on for each in (parent, *ancestors[parent])}
    before = {uid: ancestors[uid] & chosen for uid in uids if uid in chosen}

    def depth(uid: str) -> int:
        return max((depth(each) + 1 for each in before[uid]), default=0)

    queue = [(0, uid) for uid in before if not before[uid]]
    heapq.heapify(queue)
    done: list[str] = []
    while queue:
        done.append(heapq.heappop(queue)[1])
        queued = {*done, *(uid for _, uid in queue)}
        for uid in before:
            if uid not in queued and before[uid] <= set(done):
                heapq.heappush(queue, (depth(uid), uid))
    ordered = running_order([nodes[uid] for uid in chosen], plan(*nodes.values()))
    assert [each.unique_id for each in ordered] == done


@pytest.fixture
def outlook() -> Outlook:
    seed, view = node("seed.p.codes"), node("model.p.stg", "seed.p.codes", materialized="view")
    inline = node("model.p.inline", "model.p.stg", "model.p.there", materialized="ephemeral")
    made = plan(
        seed, view, inline, node("model.p.there"), node("model.p.fct", "model.p.inline"), required=("model.p.fct",)
    )
    work = find_work(made, made.required, {("main", "there"), ("main", "codes")})
    variables = {"year": 2030, "note": "größe 'x'", "db_password": "s3cret", "lake": "s3://me:s3cret@host/x"}
    return Outlook("/w/d", made, made.required, work, variables, "/venv/python", "prod")


def test_for_programs(outlook: Outlook) -> None:
    document = outlook.as_dict()
    assert list(document) == "format database missing nodes vars project template".split()
    assert document["missing"] == ["fct"]
    assert document["nodes"] == [
        {"unique_id": "model.p.stg", "tier": "foundation"},
        {"unique_id": "model.p.fct", "tier": "foundation"},
    ]
    assert document["vars"] == {
        "year": 2030,
        "note": "größe 'x'",
        "db_password": "<hidden>",
        "lake": "<hidden>",
    }


def test_for_people(outlook: Outlook) -> None:
    assert list(outlook.lines()) == [
        "Missing in /w/d: fct",
        "Copied to staging first, as they are: main.codes, main.there",
        "dbt would run, from /p, target prod, by /venv/python: dbt 1.8.8, DuckDB 1.0:",
        "    1  foundation  model.p.stg  (view, made on the way; on staging alone)",
        "    2  foundation  model.p.fct",
        "Coming along inside these, since ephemeral: model.p.inline",
        "with the variables",
        "  year: 2030",
        "  note: \"größe 'x'\"",
        '  db_password: "<hidden>"',
        '  lake: "<hidden>"',
    ]


def test_seeds_come_first() -> None:
    seeds, model = (node("seed.p.z"), node("seed.p.y")), node("model.p.a")
    found = Outlook("/d", plan(*seeds, model), (), Work(seeds, (model,), ()), {}, "python", None)
    assert names(found.nodes) == ["y", "z", "a"]
    assert "the profile's own target" in list(found.lines())[1]
