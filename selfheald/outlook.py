"""What an initialization would do: which nodes dbt would run in which order, on what, and with which variables.

Values in, values and text out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from typing import Any

from selfheald.config_text import without_secrets
from selfheald.initialization_state import RequiredTable
from selfheald.plan import Node, Plan, Work


@dataclass(frozen=True, slots=True)
class Outlook:
    """What would be done for one database. ``target`` is the profile's own where it is ``None``.

    ``template`` says whether it would be made from one (``usable``), and what there is to say of that (``why``).
    """

    database: str
    plan: Plan
    missing: Sequence[RequiredTable]
    work: Work
    variables: Mapping[str, Any]
    python: str
    target: str | None
    template: Mapping[str, Any] = field(default_factory=lambda: {"usable": False, "why": None})

    @property
    def nodes(self) -> tuple[Node, ...]:
        """What dbt would run: the seeds, then the others, as it does with one thread."""
        return (*running_order(self.work.seeds, self.plan), *running_order(self.work.models, self.plan))

    def _tier(self, node: Node) -> str:
        required = next((table.tier.value for table in self.missing if table.unique_id == node.unique_id), None)
        return required or ("seed" if node.resource_type == "seed" else "foundation")

    def as_dict(self) -> dict[str, Any]:
        """The document of ``ensure --dry-run --json``."""
        return {
            "format": 1,
            "database": self.database,
            "missing": [table.qualified for table in self.missing],
            "nodes": [{"unique_id": node.unique_id, "tier": self._tier(node)} for node in self.nodes],
            "vars": without_secrets(self.variables),
            "project": self.plan.project_dir,
            "template": dict(self.template),
        }

    def lines(self) -> Iterator[str]:
        """The same for a person, and what else he may want to know before he lets it happen."""
        yield f"Missing in {self.database}: {', '.join(table.qualified for table in self.missing)}"
        if self.work.inputs:
            yield f"Copied to staging first, as they are: {', '.join(map('.'.join, self.work.inputs))}"
        if self.template["why"] is not None:
            what = "It would be made from a template" if self.template["usable"] else "No template would be used"
            yield f"{what}: {self.template['why']}"
        versions = self.plan.versions
        known = f": dbt {versions.get('dbt')}, DuckDB {versions.get('duckdb')}" if versions else ""
        target = "the profile's own target" if self.target is None else f"target {self.target}"
        would = "Without it dbt would run" if self.template["usable"] else "dbt would run"
        yield f"{would}, from {self.plan.project_dir}, {target}, by {self.python}{known}:"
        wanted = {table.unique_id for table in self.missing}
        for number, node in enumerate(self.nodes, 1):
            note = "" if node.unique_id in wanted else f"  ({node.materialized}, made on the way; on staging alone)"
            yield f"  {number:>3}  {self._tier(node):<10}  {node.unique_id}{note}"
        folded = ephemeral_parents(self.work.models, self.plan)
        if folded:
            yield f"Coming along inside these, since ephemeral: {', '.join(node.unique_id for node in folded)}"
        shown = without_secrets(self.variables)
        if shown:
            yield "with the variables"
            yield from (f"  {name}: {json.dumps(value, ensure_ascii=False)}" for name, value in shown.items())


def running_order(nodes: Iterable[Node], plan: Plan) -> tuple[Node, ...]:
    """The order in which dbt runs these nodes with one thread.

    By how many of them stand before one, in the longest line of ancestors; then by name. What is not run, since it
    is there already or ephemeral, still keeps its descendants behind its ancestors.
    """
    chosen = {node.unique_id: node for node in nodes}
    graph: dict[str, tuple[str, ...]] = {}
    todo = list(chosen)
    while todo:
        uid = todo.pop()
        if uid not in graph:
            graph[uid] = tuple(parent for parent in plan.nodes[uid].depends_on if parent in plan.nodes)
            todo.extend(graph[uid])
    depth: dict[str, int] = {}
    for uid in TopologicalSorter(graph).static_order():
        depth[uid] = max((depth[parent] + (parent in chosen) for parent in graph[uid]), default=0)
    return tuple(chosen[uid] for uid in sorted(chosen, key=lambda uid: (depth[uid], uid)))


def ephemeral_parents(nodes: Iterable[Node], plan: Plan) -> tuple[Node, ...]:
    """The ephemeral models that dbt folds into these."""
    found: dict[str, Node] = {}
    todo = [parent for node in nodes for parent in node.depends_on]
    while todo:
        node = plan.nodes.get(todo.pop())
        if node is not None and node.materialized == "ephemeral" and node.unique_id not in found:
            found[node.unique_id] = node
            todo.extend(node.depends_on)
    return tuple(found[uid] for uid in sorted(found))
