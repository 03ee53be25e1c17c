"""The plan: which tables are required, which dbt nodes make them, and what a given database still lacks.

Everything here is values in, values out; ``planner`` obtains the plan from dbt and keeps it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from selfheald.errors import InitializationError
from selfheald.initialization_state import RequiredTable, TableTier

#: Changed whenever a kept plan of an older form could not be read any more.
PLAN_FORMAT = 2
#: What dbt inlines or leaves out of the database; such a node is no table.
_NO_TABLE = frozenset({"ephemeral", "view"})
_WORD = re.compile(r"\w+")
#: Comments that are surely such: Jinja's, and whole lines of SQL.
_COMMENT = re.compile(r"\{#.*?#\}|^[ \t]*--[^\n]*$", re.DOTALL | re.MULTILINE)

#: A relation's ``(schema, name)``, both in lower case: DuckDB compares identifiers case-insensitively.
Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Node:
    """A seed, model or snapshot of the dbt project.

    ``code`` is all SQL that it may read tables with: its own, its hooks', and its macros'; ``selector`` makes dbt
    select exactly this node; ``path`` is its source file; ``elsewhere`` is the catalog that it is made in, if that is
    another than the database's own.
    """

    unique_id: str
    name: str
    schema: str
    alias: str
    resource_type: str
    materialized: str
    selector: str
    path: str
    depends_on: tuple[str, ...] = ()
    columns: tuple[tuple[str, str | None], ...] = ()
    contract: bool = False
    tags: tuple[str, ...] = ()
    code: str = ""
    delimiter: str = ","
    elsewhere: str = ""

    @property
    def key(self) -> Key:
        return (self.schema.lower(), self.alias.lower())

    @property
    def makes_table(self) -> bool:
        return self.resource_type == "seed" or self.materialized not in _NO_TABLE

    @property
    def is_required_table(self) -> bool:
        """True if it can be one: a table, and in the database itself."""
        return self.makes_table and not self.elsewhere


@dataclass(frozen=True, slots=True)
class Plan:
    """What a project requires. ``sources`` maps the unique ids of dbt sources to relations.

    ``fingerprint`` covers all that counts for one database, ``parse_key`` what dbt's parse of the project depends on:
    what is kept has that name, since databases may share it. ``hooks`` is the code that dbt runs before and after all
    nodes, ``hook_parents`` what that refers to, ``variables`` the text of the project's own defaults.
    """

    fingerprint: str
    project: str
    project_dir: str
    required: tuple[RequiredTable, ...]
    nodes: Mapping[str, Node]
    sources: Mapping[str, Key]
    versions: Mapping[str, str]
    warnings: tuple[str, ...] = ()
    parse_key: str = ""
    hooks: str = ""
    hook_parents: tuple[str, ...] = ()
    variables: str = ""

    def to_json(self) -> dict[str, Any]:
        """A JSON form that :func:`plan_from_json` reads back."""
        return {"plan_format": PLAN_FORMAT, **asdict(self)}


@dataclass(frozen=True, slots=True)
class Work:
    """What dbt has to do for one database: seeds and models to run, existing tables to copy to staging first."""

    seeds: tuple[Node, ...]
    models: tuple[Node, ...]
    inputs: tuple[Key, ...]


def make_plan(
    answer: Mapping[str, Any],
    *,
    fingerprint: str,
    project_dir: str,
    select: Sequence[str],
    explicit: Sequence[Mapping[str, str | None]] = (),
) -> Plan:
    """The plan from what dbt told of the project (the child's answer to the job ``plan``).

    ``explicit`` are the tables of ``required.tables`` (``name``, ``tier``, ``select``), which replace the selection.
    Raises ``selection_empty`` if nothing is required.
    """
    macros: Mapping[str, Mapping[str, Any]] = answer.get("macros") or {}
    catalog = answer.get("database_name")
    nodes = {uid: _node(uid, raw, macros, catalog) for uid, raw in answer["nodes"].items()}
    hooks: Sequence[Mapping[str, Any]] = answer.get("run_hooks") or ()
    warnings = [str(text) for text in answer.get("warnings") or ()]
    if explicit:
        found = answer.get("tables") or [None] * len(explicit)
        chosen = [
            _explicit(table, nodes, None if table.get("select") is None else matched, project_dir)
            for table, matched in zip(explicit, found, strict=True)
        ]
    else:
        chosen = [(nodes[uid], None) for uid in answer["required"] if uid in nodes]
        warnings += _tag_warnings(select, nodes.values())
    required = []
    for node, tier in chosen:
        if node.is_required_table:
            required.append(_required_table(node, tier))
        elif node.elsewhere:
            warnings.append(f"{node.unique_id} is selected but is made in {node.elsewhere}: it is no required table")
        else:
            kind = node.materialized
            warnings.append(f"{node.unique_id} is selected but is {kind}: it is no required table")
    if not required:
        raise InitializationError(
            f"the selection {' '.join(select)} gives no table",
            code="selection_empty",
            path=project_dir,
            hint="Correct required.select. There are "
            f"seeds: {_listed(n.name for n in nodes.values() if n.resource_type == 'seed')}; "
            f"tags: {_listed({tag for n in nodes.values() for tag in n.tags})}.",
        )
    tiers = list(TableTier)
    required.sort(key=lambda table: (tiers.index(table.tier), table.schema, table.name))
    return Plan(
        fingerprint=fingerprint,
        project=str(answer["project"]),
        project_dir=project_dir,
        required=tuple(required),
        nodes=nodes,
        sources={uid: _key(raw["schema"], raw["identifier"]) for uid, raw in answer["sources"].items()},
        versions=dict(answer.get("versions") or {}),
        warnings=tuple(dict.fromkeys(warnings)),
        parse_key=fingerprint,
        hooks="\n".join(text for hook in hooks for text in [hook["sql"], *_macro_code(hook["macros"], macros)]),
        hook_parents=tuple(dict.fromkeys(uid for hook in hooks for uid in hook["depends_on"])),
        variables=str(answer.get("vars") or ""),
    )


def plan_from_json(record: Mapping[str, Any]) -> Plan:
    """A kept plan. Raises ``KeyError``, ``TypeError`` or ``ValueError`` if it is not of this form."""
    if record["plan_format"] != PLAN_FORMAT:
        raise ValueError("a plan of another form")
    return Plan(
        fingerprint=record["fingerprint"],
        project=record["project"],
        project_dir=record["project_dir"],
        required=tuple(
            RequiredTable(
                **{**raw, "tier": TableTier(raw["tier"]), "columns": tuple((n, t) for n, t in raw["columns"])}
            )
            for raw in record["required"]
        ),
        nodes={
            uid: Node(
                **{
                    **raw,
                    "depends_on": tuple(raw["depends_on"]),
                    "columns": tuple((n, t) for n, t in raw["columns"]),
                    "tags": tuple(raw["tags"]),
                }
            )
            for uid, raw in record["nodes"].items()
        },
        sources={uid: (schema, name) for uid, (schema, name) in record["sources"].items()},
        versions=record["versions"],
        warnings=tuple(record["warnings"]),
        parse_key=record["parse_key"],
        hooks=record["hooks"],
        hook_parents=tuple(record["hook_parents"]),
        variables=record["variables"],
    )


def find_work(
    plan: Plan,
    missing: Iterable[RequiredTable],
    existing_tables: Collection[Key],
    *,
    variables: Mapping[str, Any] | None = None,
    other_sql: str = "",
) -> Work:
    """Exactly the missing closure.

    A parent that exists as a table is an input: copied, never run again. A parent that doesn't, or that is a view
    or ephemeral, is run on staging, and its own parents are looked at in turn. Tables that the SQL names without a
    ``ref`` are inputs too, where they exist: in the nodes' SQL, in the hooks of the run, in ``other_sql``, and in the
    values of ``variables`` where the SQL asks for some. What is made in another catalog is left alone.
    """
    wanted = [table.unique_id for table in missing]
    missing_keys = {plan.nodes[uid].key for uid in wanted}
    there = set(existing_tables) - missing_keys
    run: dict[str, Node] = {}
    inputs: set[Key] = set()
    todo = list(wanted)
    given = f"{plan.variables} {json.dumps(dict(variables or {}), default=str, ensure_ascii=False)}".lower()

    def named_in(code: str) -> set[Key]:
        text = _COMMENT.sub(" ", code).lower()
        words = set(_WORD.findall(text))
        if "var" in words:
            words |= set(_WORD.findall(given))
            text += given
        return {key for key in there if key[1] in words or (not _WORD.fullmatch(key[1]) and key[1] in text)}

    while todo:
        uid = todo.pop()
        if uid in run:
            continue
        node = run[uid] = plan.nodes[uid]
        for parent_id in node.depends_on:
            if parent_id in plan.sources:
                inputs |= {plan.sources[parent_id]} & there
            elif parent_id in plan.nodes:
                parent = plan.nodes[parent_id]
                if parent.makes_table and parent.key in there and not parent.elsewhere:
                    inputs.add(parent.key)
                elif not parent.elsewhere:
                    todo.append(parent_id)
        inputs |= named_in(node.code)
    if run:
        inputs |= named_in(plan.hooks) | named_in(other_sql)
        inputs |= {plan.nodes[uid].key for uid in plan.hook_parents if uid in plan.nodes} & there
        inputs |= {plan.sources[uid] for uid in plan.hook_parents if uid in plan.sources} & there
    inputs -= {node.key for node in run.values()}
    seeds = sorted((n for n in run.values() if n.resource_type == "seed"), key=lambda n: n.unique_id)
    models = sorted(
        (n for n in run.values() if n.resource_type != "seed" and n.materialized != "ephemeral"),
        key=lambda n: n.unique_id,
    )
    return Work(tuple(seeds), _by_dependency(models, plan), tuple(sorted(inputs)))


def _by_dependency(models: Sequence[Node], plan: Plan) -> tuple[Node, ...]:
    """Parents before children; dbt orders by itself, this is the order that people are shown."""
    wanted = {node.unique_id: node for node in models}
    ordered: dict[str, Node] = {}
    seen: set[str] = set()

    for start in models:
        stack = [(start.unique_id, False)]
        while stack:
            uid, parents_done = stack.pop()
            if parents_done:
                if uid in wanted:
                    ordered.setdefault(uid, wanted[uid])
            elif uid not in seen and uid in plan.nodes:
                seen.add(uid)
                stack.append((uid, True))
                stack.extend((parent, False) for parent in reversed(plan.nodes[uid].depends_on))
    return tuple(ordered.values())


def _node(uid: str, raw: Mapping[str, Any], macros: Mapping[str, Mapping[str, Any]], catalog: str | None) -> Node:
    database = str(raw.get("database") or catalog or "")
    inside = not catalog or database.lower() == catalog.lower() or raw["materialized"] == "ephemeral"
    return Node(
        unique_id=uid,
        name=raw["name"],
        schema=raw["schema"],
        alias=raw["alias"],
        resource_type=raw["resource_type"],
        materialized=raw["materialized"],
        selector="fqn:" + ".".join(raw["fqn"]),
        path=raw["path"],
        depends_on=tuple(raw["depends_on"]),
        columns=tuple((name, kind) for name, kind in raw["columns"]),
        contract=bool(raw["contract"]),
        tags=tuple(raw["tags"]),
        code="\n".join([raw["raw_code"] or "", *raw["hooks"], *_macro_code(raw["macros"], macros)]),
        delimiter=raw["delimiter"] or ",",
        elsewhere="" if inside else database,
    )


def _macro_code(names: Iterable[str], macros: Mapping[str, Mapping[str, Any]]) -> list[str]:
    found: dict[str, str] = {}
    todo = list(names)
    while todo:
        name = todo.pop()
        if name in macros and name not in found:
            found[name] = str(macros[name]["sql"])
            todo.extend(macros[name]["macros"])
    return list(found.values())


def _required_table(node: Node, tier: TableTier | None) -> RequiredTable:
    by_kind = TableTier.SEED if node.resource_type == "seed" else TableTier.FOUNDATION
    columns = tuple((name, kind if node.contract else None) for name, kind in node.columns)
    return RequiredTable(
        name=node.alias,
        tier=tier or by_kind,
        dbt_selector=node.selector,
        schema=node.schema,
        columns=columns,
        unique_id=node.unique_id,
    )


def _explicit(
    table: Mapping[str, str | None], nodes: Mapping[str, Node], matched: Collection[str] | None, project_dir: str
) -> tuple[Node, TableTier | None]:
    """The node that makes an entry of ``required.tables``: what its selection ``matched``, else what has its name."""
    name = str(table["name"])
    makers = [node for node in nodes.values() if node.is_required_table]
    if matched is not None:
        found = [nodes[uid] for uid in matched if uid in nodes and nodes[uid].is_required_table]
        how = f"the selection {table['select']} of {name} in required.tables"
    else:
        wanted = name.lower()
        relations = [node for node in makers if wanted in (node.alias.lower(), ".".join(node.key))]
        found = relations or [node for node in makers if wanted == node.name.lower()]
        how = f"required.tables names {name}, which"
    if len(found) == 1:
        tier = table.get("tier")
        return found[0], None if tier is None else TableTier(tier)
    if found:
        listed = ", ".join(sorted(f"{node.unique_id} ({node.schema}.{node.alias})" for node in found))
        raise InitializationError(
            f"{how} means {len(found)} tables: {listed}" if matched is None else f"{how} gives {listed}",
            code="config_invalid",
            path=project_dir,
            hint=f"Let the select of {name} in required.tables match exactly one of them.",
        )
    there = _listed(node.alias for node in makers)
    raise InitializationError(
        f"{how} no seed or model of the dbt project makes" if matched is None else f"{how} gives no table",
        code="selection_empty",
        path=project_dir,
        hint=f"Correct required.tables. There are: {there}.",
    )


def _tag_warnings(select: Sequence[str], nodes: Collection[Node]) -> list[str]:
    selected = {tag for item in select for tag in re.findall(r"tag:([^\s,+@*?\[\]]+)", item)}
    present = {tag for node in nodes for tag in node.tags}
    return [
        f"tag {other!r} differs from the selected {tag!r} only in case: dbt's tags are case-sensitive"
        for tag in sorted(selected)
        for other in sorted(present)
        if other != tag and other.lower() == tag.lower()
    ]


def _key(schema: str, name: str) -> Key:
    return (schema.lower(), name.lower())


def _listed(names: Iterable[str]) -> str:
    listed = sorted(set(names))
    return ", ".join(listed[:20]) + (", …" if len(listed) > 20 else "") if listed else "none"
