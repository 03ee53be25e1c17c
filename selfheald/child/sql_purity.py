"""Whether a query gives the same rows whenever and wherever it runs, told from DuckDB's own syntax tree of it.

What is not understood is not accepted. The trees of all versions of DuckDB in the range are alike but for a few names.
"""

from __future__ import annotations

from typing import Any, Collection, Dict, FrozenSet, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

import sql_words as words

Tree = Dict[str, Any]
#: A relation by its folded schema and name.
Name = Tuple[str, str]

_EXPRESSIONS = frozenset(
    "BETWEEN CASE CAST COLLATE COLUMN_REF COMPARISON CONJUNCTION CONSTANT FUNCTION LAMBDA OPERATOR POSITIONAL_REFERENCE"
    " STAR SUBQUERY WINDOW".split()
)
_QUERIES = frozenset({"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"})
_TABLES = frozenset({"BASE_TABLE", "EMPTY", "EXPRESSION_LIST", "JOIN", "SUBQUERY", "TABLE_FUNCTION"})
_PARTS = frozenset({"ORDER_MODIFIER", "DISTINCT_MODIFIER", "LIMIT_MODIFIER", "LIMIT_PERCENT_MODIFIER"})
_ORDERS = frozenset({"ORDER_DEFAULT", "ASCENDING", "DESCENDING", "ORDER_ASC", "ORDER_DESC"})
_JOINS = frozenset({"REGULAR", "NATURAL", "CROSS", "ASOF", "DEPENDENT"})
_FROM_FIRST = "UNBOUNDED_PRECEDING"
_TO_LAST = frozenset({"UNBOUNDED_FOLLOWING", "CURRENT_ROW_RANGE"})
_ZONES = ("%z", "%Z")


class Impure(Exception):
    """Two runs of the query can differ, or it cannot be told; the text goes on after the name of whose query it is."""


class FileRead(NamedTuple):
    """Files that a query reads, by paths or patterns as it has them; ``table`` is the reader in the tree."""

    paths: Tuple[str, ...]
    table: Tree


class Sum(NamedTuple):
    """An aggregate that is the same in every order if what it adds up are no floating-point numbers."""

    function: str
    argument: Optional[Tree]


class Findings:
    """What is still to be looked up in files and catalog before a query is proven."""

    def __init__(self) -> None:
        self.relations: Set[Name] = set()
        self.files: List[FileRead] = []
        self.sums: List[Sum] = []
        #: What each name that the query gives may stand for; ``None`` where that is not followed.
        self.given: Dict[str, List[Optional[Tree]]] = {}
        #: Columns that take their names from another query's, and names by pattern.
        self.unnamed: List[Optional[Tree]] = []


def examine(
    statement: Tree, relations: Collection[Name], catalog: str, *, takes_first: bool, to_jinja: bool
) -> Findings:
    """Look through a statement's tree. Raises :class:`Impure`.

    ``relations`` are those that this build has made, which alone it may read. ``takes_first``: this DuckDB takes any of
    the rows of a subquery that stands for one value. ``to_jinja``: the rows go to code that sees their order.
    """
    if statement.get("named_param_map"):
        raise Impure("has a parameter")
    if to_jinja and not (_is_ordered(statement["node"]) or _is_one_row(statement["node"])):
        raise Impure("has several rows without an ORDER BY, which come in any order")
    look = _Look(frozenset(relations), catalog.lower(), takes_first)
    look.query(statement["node"], frozenset())
    return look.found


def arguments(function: Tree) -> List[Tuple[str, Tree]]:
    """A function's arguments with their names, which most have not."""
    if function.get("arguments"):
        return [(str(each.get("name") or ""), each["expression"]) for each in function["arguments"]]
    return [("", each) for each in function.get("children") or ()]


def constant(expression: Tree) -> Optional[str]:
    """The text of a constant."""
    if expression.get("class") != "CONSTANT":
        return None
    if "literal" in expression:
        text = expression["literal"].get("text")
    else:
        text = (expression.get("value") or {}).get("value")
    return None if text is None else str(text)


class _Look:
    def __init__(self, relations: FrozenSet[Name], catalog: str, takes_first: bool) -> None:
        self.relations = relations
        self.takes_first = takes_first
        self.catalog = catalog
        self.found = Findings()
        self._sorted: Set[int] = set()

    def query(self, node: Tree, ctes: FrozenSet[str]) -> None:
        kind = node["type"]
        if kind not in _QUERIES:
            raise Impure(f"holds {_shown(kind)}, which is not understood")
        for each in (node.get("cte_map") or {}).get("map") or ():
            name, cte = each["key"].lower(), each["value"]
            inner = cte.get("query_node") or cte["query"]["node"]
            self.query(inner, ctes | {name} if inner["type"] == "RECURSIVE_CTE_NODE" else ctes)
            self._names(cte.get("aliases"))
            self.part(cte.get("key_targets"), ctes)
            ctes |= {name}
        if kind in ("CTE_NODE", "RECURSIVE_CTE_NODE"):
            self._names(node.get("aliases"))
        if kind == "CTE_NODE":
            name = node["cte_name"].lower()
            self.query(node["query"], ctes)
            self.query(node["child"], ctes | {name})
            return
        modifiers = node.get("modifiers") or []
        ordered = _is_ordered(node)
        for each in modifiers:
            if each["type"].startswith("LIMIT") and not ordered and constant(each.get("limit") or {}) != "0":
                raise Impure("has a LIMIT without an ORDER BY, which leaves to chance what rows there are")
            if each.get("distinct_on_targets") and not ordered:
                raise Impure("has a DISTINCT ON without an ORDER BY, which leaves to chance what rows there are")
        if kind != "SELECT_NODE" and "BY_NAME" not in str(node.get("setop_type")):
            branches = node.get("children") or [node["left"], node["right"]]
            for branch in branches[1:]:
                self.found.unnamed += [each for leaf in _leaves(branch) for each in leaf.get("select_list") or [None]]
        self.part({key: value for key, value in node.items() if key not in ("type", "cte_map")}, ctes)

    def part(self, value: Any, ctes: FrozenSet[str]) -> None:
        """Anything in the tree: its kind decides who looks at it."""
        if isinstance(value, list):
            for each in value:
                self.part(each, ctes)
        elif isinstance(value, dict):
            if "class" in value:
                self.expression(value, ctes)
                return
            kind = value.get("type")
            if kind in _QUERIES:
                self.query(value, ctes)
            elif kind in _TABLES:
                self.table(value, ctes)
            elif kind is None or kind in _PARTS or kind in _ORDERS:
                if value.get("sample") is not None:
                    raise Impure("takes a sample, which is another one each time")
                self._replaced(value)
                for each in value.values():
                    self.part(each, ctes)
            else:
                raise Impure(f"holds {_shown(kind)}, which is not understood")

    def table(self, table: Tree, ctes: FrozenSet[str]) -> None:
        kind = table["type"]
        if table.get("sample") is not None:
            raise Impure("takes a sample, which is another one each time")
        if table.get("at_clause") is not None:
            raise Impure("reads a table as of another time")
        if table.get("with_ordinality", "WITHOUT_ORDINALITY") != "WITHOUT_ORDINALITY":
            raise Impure("numbers rows WITH ORDINALITY, which is not understood")
        if kind == "JOIN" and table.get("ref_type", "REGULAR") not in _JOINS:
            raise Impure(f"has a {_shown(table['ref_type'])} join, to which the order of rows matters")
        if kind == "BASE_TABLE":
            self._names(table.get("column_name_alias"))
            self._base_table(table, ctes)
            return
        if kind == "TABLE_FUNCTION":
            self._table_function(table, ctes)
            return
        self._names(table.get("column_name_alias"))
        self._names(table.get("expected_names"))
        for key, value in table.items():
            if key != "type":
                self.part(value, ctes)

    def _base_table(self, table: Tree, ctes: FrozenSet[str]) -> None:
        name, schema, catalog = (
            str(table.get(key) or "").lower() for key in ("table_name", "schema_name", "catalog_name")
        )
        if not schema and not catalog and name in ctes:
            return
        path = (table.get("qualified_name") or {}).get("path") or []
        if len(path) > 3 or (path and path[-1].lower() != name):
            raise Impure(f"reads {'.'.join(path)}, whose name is not understood")
        if catalog in ("", self.catalog) and (schema or "main", name) in self.relations:
            self.found.relations.add((schema or "main", name))
            return
        if not schema and not catalog and ("." in name or "/" in name):
            self.found.files.append(FileRead((str(table["table_name"]),), table))
            return
        shown = ".".join(part for part in (catalog, schema, name) if part)
        raise Impure(f"reads {shown}, which no seed or model of this build makes")

    def _table_function(self, table: Tree, ctes: FrozenSet[str]) -> None:
        function = table["function"]
        name = str(function.get("function_name", "")).lower()
        if function.get("class") != "FUNCTION" or _qualified(function):
            raise Impure(f"reads from {name}(), which is not understood")
        exact = name in ("range", "generate_series")
        self._names(table.get("column_name_alias"), exact=exact)
        if exact:
            self._names([name], exact=True)
            self._names([str(table.get("alias") or "")], exact=True)
        if name in words.ROW_MAKERS:
            self.part([each for _, each in arguments(function)], ctes)
        elif name in words.READERS:
            self.found.files.append(FileRead(tuple(self._paths(name, function, ctes)), table))
        else:
            raise Impure(f"reads from {name}(), whose rows may differ from run to run")

    def _paths(self, name: str, function: Tree, ctes: FrozenSet[str]) -> Iterator[str]:
        """The constant paths that a reader is given, once its options are found harmless."""
        given = arguments(function)
        for number, (option, value) in enumerate(given):
            if value.get("class") == "COMPARISON" and value.get("type") == "COMPARE_EQUAL":
                left = value["left"].get("column_names") or [""]
                option, value = str(left[-1]), value["right"]
            option = (option or (str(value.get("alias") or "") if number else "")).lower()
            self.part(value, ctes)
            if number == 0:
                several = value.get("class") == "FUNCTION" and value.get("function_name") == "list_value"
                for each in [one for _, one in arguments(value)] if several else [value]:
                    path = constant(each)
                    if path is None:
                        raise Impure(f"reads files by {name}() whose names it makes up as it runs")
                    yield path
            elif option not in words.READERS[name]:
                raise Impure(f"reads files by {name}() with the option {option or 'without a name'}")

    def expression(self, node: Tree, ctes: FrozenSet[str]) -> None:
        kind = node["class"]
        if kind not in _EXPRESSIONS:
            raise Impure(f"holds {_shown(kind)}, which is not understood")
        if node.get("alias"):
            self.found.given.setdefault(str(node["alias"]).lower(), []).append(node)
        judge = _JUDGES.get(kind)
        if judge is not None:
            judge(self, node)
        for key, value in node.items():
            if key not in ("cast_type", "type_expr", "value", "literal"):
                self.part(value, ctes)

    def _column(self, node: Tree) -> None:
        names = node["column_names"]
        if names[-1].lower() in words.VEILED:
            raise Impure(f"uses {names[-1]}, which can differ from run to run")

    def _subquery(self, node: Tree) -> None:
        inner = (node.get("subquery") or {}).get("node") or {}
        if self.takes_first and node.get("subquery_type") == "SCALAR" and not _is_one_row(inner):
            raise Impure("has a subquery for a value that may have several rows, of which this DuckDB takes any")

    def _cast(self, node: Tree) -> None:
        for name in types_in(node):
            if name not in words.TYPES:
                raise Impure(f"casts to {name}, {_why_type(name)}")

    def _star(self, node: Tree) -> None:
        if node.get("columns") or node.get("expr") or node.get("rename_list"):
            self.found.unnamed.append(None)
        self._replaced(node)

    def _function(self, node: Tree) -> None:
        name = str(node["function_name"]).lower()
        given = [value for _, value in arguments(node)]
        if _qualified(node):
            raise Impure(f"calls {node.get('schema') or node.get('catalog')}.{name}(), which is not understood")
        ordered = bool((node.get("order_bys") or {}).get("orders"))
        if name in ("list_sort", "list_reverse_sort") and given:
            self._sorted.add(id(given[0]))  # so DuckDB 1.0 reads list(x ORDER BY x)
        if name in words.SUMS:
            if not ordered:
                self.found.sums.append(Sum(name, given[0] if given else None))
        elif name in words.IN_ORDER:
            if not ordered and not (id(node) in self._sorted and name in ("list", "array_agg")):
                raise Impure(f"calls {name}() without an ORDER BY in it: its result goes by the order of the rows")
        elif name not in words.AGGREGATES:
            self._scalar(name, given)

    def _scalar(self, name: str, given: Sequence[Tree]) -> None:
        if name not in words.SCALARS:
            raise Impure(f"calls {name}(), {_why_function(name)}")
        if name == "age" and len(given) != 2:
            raise Impure("calls age() with one date, which counts to the day that it runs")
        if name in ("strptime", "try_strptime"):
            formats = [text for each in given[1:] for text in _texts(each)]
            if None in formats or any(zone in str(text) for zone in _ZONES for text in formats):
                raise Impure(f"calls {name}() with a time zone, or a format that it makes up as it runs")

    def _window(self, node: Tree) -> None:
        name = str(node["function_name"]).lower()
        given = [value for _, value in arguments(node)]
        ordered = bool(node.get("orders")) or bool(node.get("arg_orders"))
        if (
            node.get("schema") not in ("", None, "main")
            or len((node.get("qualified_name") or {}).get("path") or []) > 1
        ):
            raise Impure(f"calls {node.get('schema')}.{name}(), which is not understood")
        whole = node.get("start") == _FROM_FIRST and node.get("end") in _TO_LAST
        whole = whole and node.get("exclude_clause", "NO_OTHER") == "NO_OTHER"
        by_row = name in words.WINDOW_BY_ROW or name in words.IN_ORDER
        if not ordered and (by_row or not (whole or name in words.WINDOW_BY_VALUE)):
            raise Impure(f"calls {name}() over a window without an ORDER BY: its result goes by the order of the rows")
        if name in words.SUMS and not ordered:
            self.found.sums.append(Sum(name, given[0] if given else None))
        known = words.SUMS | words.IN_ORDER | words.AGGREGATES | words.WINDOW_BY_VALUE | words.WINDOW_BY_ROW
        if name not in known:
            raise Impure(f"calls {name}(), {_why_function(name)}")

    def _names(self, names: Any, *, exact: bool = False) -> None:
        """Note columns that are named away from what they are."""
        for name in names or ():
            whole = {"class": "CONSTANT", "literal": {"kind": "INTEGER", "text": "0"}}
            self.found.given.setdefault(str(name).lower(), []).append(whole if exact else None)

    def _replaced(self, value: Tree) -> None:
        for each in value.get("replace_list") or ():
            self.found.given.setdefault(str(each["key"]).lower(), []).append(each["value"])


_JUDGES = {
    "CAST": _Look._cast,
    "COLUMN_REF": _Look._column,
    "FUNCTION": _Look._function,
    "STAR": _Look._star,
    "SUBQUERY": _Look._subquery,
    "WINDOW": _Look._window,
}


def _is_ordered(node: Tree) -> bool:
    return any(each["type"] == "ORDER_MODIFIER" and each["orders"] for each in node.get("modifiers") or ())


def _is_one_row(node: Tree) -> bool:
    """True for one row of constants, or of aggregates over all rows."""
    if node.get("type") != "SELECT_NODE" or node.get("group_expressions") or node.get("group_sets"):
        return any(each["type"] == "LIMIT_MODIFIER" and _is_one(each) for each in node.get("modifiers") or ())
    if node["from_table"]["type"] == "EMPTY":
        return not any(_holds(each, ("unnest", "generate_subscripts")) for each in node["select_list"])
    limited = any(each["type"] == "LIMIT_MODIFIER" and _is_one(each) for each in node.get("modifiers") or ())
    aggregates = words.AGGREGATES | words.SUMS | words.IN_ORDER
    return limited or any(
        str(each.get("function_name")).lower() in aggregates and each["class"] == "FUNCTION"
        for each in node["select_list"]
    )


def _is_one(limit: Tree) -> bool:
    return constant(limit.get("limit") or {}) == "1"


def _holds(value: Any, functions: Sequence[str]) -> bool:
    if isinstance(value, list):
        return any(_holds(each, functions) for each in value)
    if isinstance(value, dict):
        return str(value.get("function_name")).lower() in functions or any(_holds(v, functions) for v in value.values())
    return False


def types_in(cast: Tree) -> Iterator[str]:
    """The names of all types in the type that something is cast to."""
    todo = [cast.get("cast_type"), cast.get("type_expr")]
    while todo:
        each = todo.pop()
        if isinstance(each, list):
            todo += each
        elif isinstance(each, dict):
            name = each.get("type_name") or each.get("user_type_name") or each.get("id")
            if name is not None and name != "USER":
                yield str(name).upper()
            if len((each.get("qualified_name") or {}).get("path") or []) > 1:
                yield ".".join(each["qualified_name"]["path"])
            todo += each.values()


def _leaves(node: Tree) -> Iterator[Tree]:
    """The SELECTs that a branch of a set operation is made of."""
    if node["type"] == "SET_OPERATION_NODE":
        for each in node.get("children") or [node["left"], node["right"]]:
            yield from _leaves(each)
    elif node["type"] == "CTE_NODE":
        yield from _leaves(node["child"])
    else:
        yield node


def _texts(expression: Tree) -> List[Optional[str]]:
    if expression.get("class") == "FUNCTION" and expression.get("function_name") == "list_value":
        return [constant(each) for _, each in arguments(expression)]
    return [constant(expression)]


def _qualified(function: Tree) -> bool:
    """DuckDB itself puts ``main`` before the functions that stand for its syntax."""
    path = (function.get("qualified_name") or {}).get("path") or []
    outer = {str(function.get("schema") or "").lower(), *(str(each).lower() for each in path[:-1])}
    return bool(outer - {"", "main", "pg_catalog", "system"}) or str(function.get("catalog") or "") not in (
        "",
        "system",
    )


def _why_function(name: str) -> str:
    if name in words.FICKLE:
        return "which differs from run to run"
    return "which is not known to give the same in every run"


def _why_type(name: str) -> str:
    if "ZONE" in name or name.endswith("TZ"):
        return "whose meaning goes by the machine's time zone"
    return "a type that is not known here"


def _shown(kind: object) -> str:
    return str(kind).lower().replace("_", " ")
