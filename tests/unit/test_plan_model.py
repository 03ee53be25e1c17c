"""What a plan finds to do for a database, on generated projects, against a model of what dbt does with it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Set
from dataclasses import dataclass, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from selfheald.initialization_state import RequiredTable, TableTier
from selfheald.plan import Key, Node, Plan, Work, find_work

KINDS = ("seed", "table", "incremental", "snapshot", "view", "ephemeral")
SCHEMAS = ("main", "Mart")
SOURCES = {"source.p.raw.s0": ("raw", "s0"), "source.p.raw.s1": ("raw", "s1")}
#: Tables that no node makes, and that SQL may name.
OWN = (("main", "own_a"), ("main", "own_b"))


@dataclass(frozen=True)
class World:
    """A project, and the tables that are in some database of it."""

    plan: Plan
    existing: frozenset[Key]

    @property
    def lacking(self) -> list[RequiredTable]:
        return [table for table in self.plan.required if self.plan.nodes[table.unique_id].key not in self.existing]

    def work(self) -> Work:
        return find_work(self.plan, self.lacking, self.existing)


def run_by(work: Work) -> set[str]:
    return {node.unique_id for node in (*work.seeds, *work.models)}


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Nodes with earlier ones for parents, some made in another catalog; hooks; and whatever exists already."""
    nodes: dict[str, Node] = {}
    for number in range(draw(st.integers(1, 14))):
        kind = draw(st.sampled_from(KINDS))
        parents = [] if kind == "seed" else draw(st.lists(st.sampled_from([*nodes, *SOURCES]), max_size=3, unique=True))
        names = ["own_a", "Own_B", *(node.alias for node in nodes.values())]
        named = [] if kind == "seed" else draw(st.lists(st.sampled_from(names), max_size=2))
        elsewhere = kind not in ("seed", "ephemeral") and draw(st.integers(0, 9)) == 0
        nodes[f"node{number}"] = Node(
            unique_id=f"node{number}",
            name=f"n{number}",
            schema=draw(st.sampled_from(SCHEMAS)),
            alias=f"N{number}",
            resource_type=kind if kind in ("seed", "snapshot") else "model",
            materialized=kind,
            selector=f"fqn:p.n{number}",
            path="",
            depends_on=tuple(parents),
            code=" join ".join(named),
            elsewhere="archive" if elsewhere else "",
        )
    makers = [node for node in nodes.values() if node.is_required_table]
    chosen = draw(st.lists(st.sampled_from(makers), unique_by=lambda node: node.unique_id)) if makers else []
    required = tuple(
        RequiredTable(node.alias, TableTier.FOUNDATION, schema=node.schema, unique_id=node.unique_id) for node in chosen
    )
    hooks = draw(st.lists(st.sampled_from([*nodes, *SOURCES]), max_size=1))
    plan = Plan("f", "p", "/p", required, nodes, SOURCES, {}, hook_parents=tuple(hooks))
    candidates = sorted({*(node.key for node in nodes.values()), *SOURCES.values(), *OWN})
    return World(plan, frozenset(draw(st.sets(st.sampled_from(candidates)))))


def read_by(plan: Plan, node: Node) -> Iterator[str]:
    """The ids of what dbt's SQL of a node reads: parents, and in the place of ephemeral ones what these read."""
    for parent in node.depends_on:
        if parent in plan.nodes and plan.nodes[parent].materialized == "ephemeral":
            yield from read_by(plan, plan.nodes[parent])
        else:
            yield parent


def builds(world: World, work: Work) -> dict[str, str]:
    """Let dbt do the work on staging: what it made there, by unique id. Fails where it would miss a relation."""
    plan, there, made = world.plan, set(work.inputs), dict[str, str]()
    assert there <= world.existing
    for node in (*work.seeds, *work.models):
        assert node.unique_id not in made
        assert node.key not in there, f"{node.unique_id} was copied, and would be built again"
        for parent in read_by(plan, node):
            if parent in plan.sources:
                assert plan.sources[parent] in there or plan.sources[parent] not in world.existing
            elif not plan.nodes[parent].elsewhere:
                assert plan.nodes[parent].key in there, f"{node.unique_id} reads {parent}, which is not there"
        there.add(node.key)
        made[node.unique_id] = node.materialized
    return made


def needed(world: World) -> set[str]:
    """What must be run, said as simply as can be: the least set that holds what is lacking, and with each of its nodes
    all that this reads and that is neither a table in the database nor in another one."""
    plan = world.plan
    wanted = {table.unique_id for table in world.lacking}
    while True:
        further = {
            parent
            for uid in wanted
            for parent in read_by(plan, plan.nodes[uid])
            if parent in plan.nodes
            and not plan.nodes[parent].elsewhere
            and not (plan.nodes[parent].makes_table and plan.nodes[parent].key in world.existing)
        }
        if further <= wanted:
            return wanted
        wanted |= further


@given(worlds())
@settings(max_examples=400)
def test_dbt_can_do_the_work_and_makes_what_is_lacking(world: World) -> None:
    made = builds(world, world.work())
    assert {table.unique_id for table in world.lacking} <= made.keys()


@given(worlds())
@settings(max_examples=400)
def test_all_that_is_needed_is_run_and_nothing_else(world: World) -> None:
    work = world.work()
    assert run_by(work) == needed(world)
    assert [node.unique_id for node in work.seeds] == sorted(n for n in needed(world) if kind(world, n) == "seed")


@given(worlds())
def test_what_exists_is_never_run_again(world: World) -> None:
    """Whatever it is: a seed that somebody has edited, an incremental model, a snapshot with its history."""
    for uid in run_by(world.work()):
        node = world.plan.nodes[uid]
        assert node.materialized == "view" or node.key not in world.existing
        assert not node.elsewhere


@given(worlds())
def test_nothing_is_copied_in_vain(world: World) -> None:
    work = world.work()
    reads = {parent for uid in run_by(work) for parent in read_by(world.plan, world.plan.nodes[uid])}
    reads |= set(world.plan.hook_parents)
    keys = {world.plan.sources.get(uid) or world.plan.nodes[uid].key for uid in reads}
    # Dbt folds the SQL of ephemeral models into others: what that names is read too.
    codes = " ".join(node.code for node in world.plan.nodes.values()).lower()
    assert set(work.inputs) <= keys | {key for key in world.existing if key[1] in codes.split()}
    assert not work.inputs or run_by(work)


@given(worlds(), st.data())
def test_a_table_that_goes_only_adds_work(world: World, data: st.DataObject) -> None:
    for gone in data.draw(st.sets(st.sampled_from(sorted(world.existing)))) if world.existing else ():
        less = replace(world, existing=world.existing - {gone})
        assert run_by(world.work()) <= run_by(less.work())
        makers = {uid for uid, node in world.plan.nodes.items() if node.key == gone and node.is_required_table}
        if not makers:
            assert run_by(world.work()) == run_by(less.work())
        world = less


@given(worlds(), st.data())
def test_more_that_is_required_only_adds_work(world: World, data: st.DataObject) -> None:
    some = data.draw(st.lists(st.sampled_from(world.plan.required), unique=True)) if world.plan.required else []
    less = replace(world, plan=replace(world.plan, required=tuple(some)))
    assert run_by(less.work()) <= run_by(world.work())


@given(worlds())
def test_once_it_is_done_nothing_is_left_to_do(world: World) -> None:
    """Of what was made only the tables that were lacking are handed over: the next look finds all of them."""
    handed_over = {world.plan.nodes[table.unique_id].key for table in world.lacking}
    after = replace(world, existing=world.existing | handed_over)
    assert after.lacking == []
    assert after.work() == Work((), (), ())


@given(worlds())
def test_the_order_of_what_is_told_does_not_matter(world: World) -> None:
    nodes = dict(reversed(list(world.plan.nodes.items())))
    other = replace(world.plan, nodes=nodes, required=world.plan.required[::-1])
    again = find_work(other, replace(world, plan=other).lacking, sorted(world.existing))
    assert run_by(again) == run_by(world.work())
    assert again.inputs == world.work().inputs
    assert comes_after_its_parents(again.models)


def comes_after_its_parents(models: Collection[Node]) -> bool:
    seen: Set[str] = frozenset()
    wanted = {node.unique_id for node in models}
    for node in models:
        if not (set(node.depends_on) & wanted) <= seen:
            return False
        seen |= {node.unique_id}
    return True


def kind(world: World, uid: str) -> str:
    return world.plan.nodes[uid].resource_type
