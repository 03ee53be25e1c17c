"""Whether what a query adds up may be floating-point numbers: their sum's last digits go by the order of the rows.

DuckDB reads and adds up with several threads, so that order is another one each time. The syntax tree has no types, so
they are followed by name: a name is exact if all that goes by it, in the query and in what it reads, is exact.
"""

from __future__ import annotations

from typing import Dict, Optional, Set

import sql_words as words
from sql_purity import Findings, Impure, Tree, arguments, types_in

_TRUTHS = frozenset("COMPARE_IN COMPARE_NOT_IN OPERATOR_NOT OPERATOR_IS_NULL OPERATOR_IS_NOT_NULL".split())


def judge(found: Findings, columns: Dict[str, bool], *, others_exact: bool = False) -> None:
    """Raise :class:`Impure` for a sum that may be one of floating-point numbers.

    ``columns`` are those of all that the query reads, by folded name: True if none of that name holds such numbers.
    ``others_exact``: there may be others, which are taken to hold none.
    """
    if not found.sums:
        return
    look = _Look(found, columns, others_exact)
    vague = any(each is None or look.inexact(each, set()) for each in found.unnamed)
    for each in found.sums:
        if each.argument is None or vague or look.inexact(each.argument, set()):
            raise Impure(
                f"calls {each.function}() on what may be floating-point numbers, whose last digits go by the order of "
                "the rows: cast them to DECIMAL before, or put an ORDER BY into the call"
            )


class _Look:
    def __init__(self, found: Findings, columns: Dict[str, bool], others_exact: bool) -> None:
        self.given = found.given
        self.columns = columns
        self.others_exact = others_exact

    def inexact(self, node: Optional[Tree], seen: Set[str]) -> bool:
        """True if it may be a floating-point number."""
        if node is None:
            return True
        kind = node["class"]
        if kind == "CONSTANT":
            return _is_float(node)
        if kind == "CAST":
            return not set(types_in(node)) <= words.EXACT_TYPES
        if kind in ("COMPARISON", "CONJUNCTION", "BETWEEN"):
            return False
        if kind == "CASE":
            results = [each["then_expr"] for each in node["case_checks"]] + [node.get("else_expr")]
            return any(self.inexact(each, seen) for each in results if each is not None)
        if kind == "OPERATOR":
            if node["type"] == "OPERATOR_COALESCE":
                return any(self.inexact(each, seen) for each in node["children"])
            return node["type"] not in _TRUTHS
        if kind in ("FUNCTION", "WINDOW"):
            return self._function(node, seen)
        if kind == "COLUMN_REF":
            return self._column(str(node["column_names"][-1]).lower(), seen)
        if kind == "STAR":
            return not all(self.columns.values())
        return True

    def _function(self, node: Tree, seen: Set[str]) -> bool:
        name = str(node["function_name"]).lower()
        if name in words.EXACT_RESULT:
            return False
        if name in words.TYPE_OF_ARGUMENTS or name in ("round", "floor", "ceil", "ceiling", "trunc"):
            return any(self.inexact(each, seen) for _, each in arguments(node))
        return True

    def _column(self, name: str, seen: Set[str]) -> bool:
        if name in seen:
            return False  # what it is made of beside itself decides
        known = name in self.given or name in self.columns or self.others_exact
        if not known or not self.columns.get(name, True):
            return True
        return any(self.inexact(each, seen | {name}) for each in self.given.get(name, ()))


def _is_float(constant: Tree) -> bool:
    if "literal" in constant:
        text = str(constant["literal"].get("text") or "")
        return constant["literal"].get("kind") not in ("INTEGER", "STRING", "BOOLEAN", "NULL") and (
            "e" in text.lower() or not text.replace(".", "", 1).isdigit()
        )
    kind = ((constant.get("value") or {}).get("type") or {}).get("id")
    return kind not in words.EXACT_TYPES and kind not in ("NULL", '"NULL"', "SQLNULL")
