"""How long the steps of an attempt took, and its dbt nodes, and when, as bars that stand one below the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from selfheald.initialization_state import seconds_of

#: Characters that fit beside the names on a terminal of 80.
WIDTH = 40


@dataclass(frozen=True, slots=True)
class Bar:
    """A step, or a node of the step above it, that took so many ``seconds``, as characters: so many blanks, then so
    many blocks. None for one that has no beginning or no end."""

    name: str
    status: str
    seconds: float | None = None
    blanks: int = 0
    blocks: int = 0
    is_node: bool = False


def bars(attempt: Mapping[str, Any], width: int = WIDTH, nodes: int = 0) -> list[Bar]:
    """The steps of an attempt (a status record, or one of the history) that began, within ``width`` characters; below
    each, in their order, those of its dbt nodes that are among the ``nodes`` slowest of all.

    Records are files that others can write: what in them is no time is passed over.
    """
    steps = _records(attempt.get("steps"))
    told = attempt.get("nodes")
    shown = _slowest(_records(told.get("slowest")) if isinstance(told, Mapping) else [], nodes)
    spans = [_span(each) for each in (*steps, *shown)]
    begins = [begin for begin, _ in spans if begin is not None]
    ends = [end for _, end in spans if end is not None]
    if not begins:
        return []
    first, whole = min(begins), max([*ends, *begins]) - min(begins)
    made: list[Bar] = []
    for step in steps:
        below = [node for node in shown if node.get("step") == step.get("name")]
        if seconds_of(step.get("started_at")) is not None:
            made += [_bar(each, first, whole, width, is_node=each is not step) for each in (step, *below)]
    return made


def other_nodes(attempt: Mapping[str, Any], nodes: int) -> int:
    """How many of an attempt's nodes :func:`bars` does not show of so many."""
    told = attempt.get("nodes")
    if not isinstance(told, Mapping):
        return 0
    others = told.get("others")
    return (others if isinstance(others, int) else 0) + max(0, len(_records(told.get("slowest"))) - nodes)


def _records(found: object) -> list[Mapping[str, Any]]:
    return [each for each in found if isinstance(each, Mapping)] if isinstance(found, list) else []


def _span(record: Mapping[str, Any]) -> tuple[float | None, float | None]:
    return seconds_of(record.get("started_at")), seconds_of(record.get("completed_at"))


def _slowest(nodes: list[Mapping[str, Any]], count: int) -> list[Mapping[str, Any]]:
    """So many of those that have a beginning, in their order; one without an end is the slowest."""

    def length(node: Mapping[str, Any]) -> float:
        begin, end = _span(node)
        return float("inf") if begin is None or end is None else end - begin

    begun = [node for node in nodes if _span(node)[0] is not None]
    kept = {id(node) for node in sorted(begun, key=length, reverse=True)[:count]}
    return [node for node in begun if id(node) in kept]


def _bar(record: Mapping[str, Any], first: float, whole: float, width: int, *, is_node: bool) -> Bar:
    name, status = str(record.get("display_name") or record.get("name")), str(record.get("status"))
    begin, end = _span(record)
    if begin is None or end is None or end < begin or not whole:
        return Bar(name, status, is_node=is_node)
    blanks = min(width - 1, int(width * (begin - first) / whole))
    blocks = max(1, min(width - blanks, round(width * (end - begin) / whole)))
    return Bar(name, status, end - begin, blanks, blocks, is_node)
