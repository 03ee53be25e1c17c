"""Whether Jinja code of a dbt project writes the same text in every run, told from the syntax tree that dbt gets of it.

A list of what may be mentioned, and how: names that stand for a function may only be called, so that none goes by
another name. What queries such code sends to the database is not judged here, but when it has been sent.
"""

from __future__ import annotations

import re
from typing import Any, Collection, Dict, FrozenSet, Iterator, List, Optional, Set, Tuple

import yaml
from dbt_common.clients.jinja import get_environment
from jinja2 import TemplateError, nodes

from sql_purity import Impure


def _words(text: str) -> FrozenSet[str]:
    return frozenset(text.split())


_CALLED = _words(
    """
    caller config cycler dict diff_of_two_dicts doc env_var fromjson fromyaml is_incremental joiner load_result
    local_md5 log namespace print range ref return run_query should_full_refresh source statement
    noop_statement tojson toyaml var zip zip_strict
    """
)
_READ = _words("database dbt_version execute kwargs loop none project_name schema this varargs")
#: What may be had of objects that also offer what is not the same in every run.
_PARTS = {
    "adapter": _words("dispatch quote type"),
    "api": _words("Column Relation"),
    "config": _words("get meta_get meta_require require persist_column_docs persist_relation_docs"),
    "exceptions": _words(
        "raise_compiler_error raise_contract_error raise_dependency_error raise_not_implemented warn "
        "column_type_missing missing_config"
    ),
    "model": _words(
        "alias columns database description language name original_file_path package_name resource_type schema "
        "unique_id"
    ),
    "modules": _words("itertools re"),
    "target": _words("database name profile_name schema target_name type"),
    "validation": _words("any"),
    "var": _words("has_var"),
}
_FICKLE = _words("invocation_id run_started_at thread_id")
#: Whatever else dbt offers by name: as a variable of the code's own it is suspicious enough.
_KEPT_OUT = _FICKLE | _words(
    """
    adapter_macro builtins column context context_macro_stack dbt_metadata_envs defer_relation env flags function graph
    invocation_args_dict lipsum load_agate_table model_package_name post_hooks pre_hooks render self set set_strict sql
    sql_now source_node store_raw_result store_result submit_python_job try_or_compiler_error selected_resources write
    """
)
#: What ``pprint`` shows of an object can be its address.
_FILTERS_KEPT_OUT = frozenset({"random", "pprint"})
_KNOWN_FILTERS = frozenset(get_environment(None, capture_macros=False).filters) - _FILTERS_KEPT_OUT
_LEAVE_OUT = (nodes.Import, nodes.FromImport, nodes.Include, nodes.Extends)
#: How the environment variables are found whose values count: in the text, as it is in the file.
_NAMED = re.compile(r"""\benv_var\s*\(\s*(?:'(\w+)'|"(\w+)")""")
_IN_YAML = re.compile(r"\{[{%]|\\(?:[xuU]|\r?\n)")
_OWN_PATH = re.compile(r"""env_var\(\s*(?:'DATABASE_PATH'|"DATABASE_PATH")\s*\)""")
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Macros:
    """The macros of a project and its packages, dbt's own among them.

    ``trusted`` are dbt's own whose code need not be looked at: what they do is seen where it is done.
    """

    trusted = _words(
        """
        run_query statement noop_statement is_incremental should_full_refresh default__generate_alias_name
        default__generate_database_name default__generate_schema_name
        """
    )

    def __init__(self, macros: Collection[Any], built_in: Collection[str]) -> None:
        self._by_name: Dict[str, List[Any]] = {}
        self.packages: Set[str] = set()
        self._built_in = frozenset(built_in)
        self._known_uses: Dict[str, Set[str]] = {}
        for macro in macros:
            self._by_name.setdefault(macro.name, []).append(macro)
            self.packages.add(macro.package_name)

    def known(self, name: str) -> bool:
        return any(self._called(name))

    def judge(self, names: Collection[str]) -> None:
        """Raise :class:`Impure` if one of the macros that go by these names, or one that these use, may differ."""
        todo, seen = list(names), set(names)
        while todo:
            for macro in self._called(todo.pop()):
                new = self._uses(macro) - seen
                seen |= new
                todo += new

    def _uses(self, macro: Any) -> Set[str]:
        if macro.package_name in self._built_in and macro.name in self.trusted:
            return set()
        if macro.unique_id not in self._known_uses:
            try:
                self._known_uses[macro.unique_id] = judge(macro.macro_sql, self)
            except Impure as error:
                raise Impure(f"uses the macro {macro.name}, which {error}") from error
        return self._known_uses[macro.unique_id]

    def _called(self, name: str) -> Iterator[Any]:
        for prefix in ("", "default__", "duckdb__"):
            yield from self._by_name.get(prefix + name, ())


def judge(text: str, macros: Macros, file: Optional[str] = None) -> Set[str]:
    """The names of the macros that code uses. Raises :class:`Impure` if it may write another text in another run.

    ``file`` is the text of the file that it is in, where that is another.
    """
    if "{{" not in text and "{%" not in text:
        return set()
    try:
        tree = get_environment(None, capture_macros=False).parse(text)
    except (TemplateError, RecursionError) as error:
        raise Impure("holds Jinja that is not understood") from error
    look = _Look(tree, macros, _NAMED.findall(text if file is None else file))
    look.at(tree)
    return look.used


def judge_properties(text: str, macros: Macros, *, own_path: bool = False) -> None:
    """Raise :class:`Impure` if the Jinja in a YAML file may give another value in another run.

    ``own_path``: there the path of the database is asked for by right.
    """
    if not _IN_YAML.search(text):
        return
    try:
        loaded = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise Impure("is no YAML that can be read") from error
    for value in _strings(loaded):
        macros.judge(judge(_OWN_PATH.sub("''", value) if own_path else value, macros, text))


class _Look:
    def __init__(self, tree: nodes.Template, macros: Macros, environment: Collection[Tuple[str, str]]) -> None:
        self.macros = macros
        self.environment = {name for names in environment for name in names}
        self.used: Set[str] = set()
        self.own = {each.name for each in tree.find_all(nodes.Name) if each.ctx in ("store", "param")}
        #: The arguments of the macros that the code is inside of: these names are never dbt's there.
        self.arguments: FrozenSet[str] = frozenset()

    def at(self, node: nodes.Node) -> None:
        """Look at a part of the code, in a macro with what its arguments stand for."""
        outer = self.arguments
        if isinstance(node, (nodes.Macro, nodes.CallBlock)):
            self.arguments |= {each.name for each in node.args}
        self._at(node)
        self.arguments = outer

    def _at(self, node: nodes.Node) -> None:
        if isinstance(node, _LEAVE_OUT):
            raise Impure("imports a template, which is not understood")
        if isinstance(node, nodes.Call):
            self._call(node)
        elif isinstance(node, nodes.Getattr) and isinstance(node.node, nodes.Name):
            self._part(node.node.name, node.attr)
        elif isinstance(node, nodes.Name):
            if node.ctx == "load":
                self._name(node.name)
        else:
            if isinstance(node, nodes.Filter):
                self._filter(node)
            self._inside(node)

    def _inside(self, node: nodes.Node) -> None:
        for child in node.iter_child_nodes():
            self.at(child)

    def _name(self, name: str) -> None:
        if name in self.arguments:
            return
        if name in _FICKLE:
            raise Impure(f"uses {name} in its Jinja, which differs from run to run")
        if name in _KEPT_OUT or name in _CALLED or name in _PARTS:
            raise Impure(f"uses {name} in its Jinja in a way that is not followed")
        if self.macros.known(name):
            self.used.add(name)
        elif name not in _READ and name not in self.own:
            raise Impure(f"uses {name} in its Jinja, which is not understood")

    def _part(self, name: str, part: str) -> None:
        """``name.part``, called or not."""
        if name in self.arguments:
            return
        if name in _PARTS:
            if part not in _PARTS[name]:
                raise Impure(f"uses {name}.{part} in its Jinja, which may differ from run to run")
        elif name in self.macros.packages:
            self.used.add(part)
            if not self.macros.known(part) and name not in self.own:
                raise Impure(f"uses {name}.{part} in its Jinja, which is not understood")
        else:
            self._name(name)

    def _call(self, call: nodes.Call) -> None:
        function = call.node
        if isinstance(function, nodes.Name):
            name = function.name
            if name in _CALLED and name not in self.arguments:
                if name == "env_var":
                    self._require_named(call)
                if self.macros.known(name):
                    self.used.add(name)
            else:
                self._name(name)
        else:
            if isinstance(function, nodes.Getattr) and isinstance(function.node, nodes.Name):
                if (function.node.name, function.attr) == ("adapter", "dispatch"):
                    self.used.add(_dispatched(call))
                if function.node.name == "config" and _first_constant(call) in (None, "tags"):
                    raise Impure("asks for its tags, or for a part of its configuration that it makes up as it runs")
            self.at(function)
        for child in call.iter_child_nodes():
            if child is not function:
                self.at(child)

    def _require_named(self, call: nodes.Call) -> None:
        """The values of variables count as known where their names are found; the database's own path does not."""
        name = _first_constant(call)
        if name == "DATABASE_PATH":
            raise Impure("uses the database's own path, which is another one for each")
        if not name or name not in self.environment:
            raise Impure("asks for an environment variable whose name it makes up as it runs")

    def _filter(self, node: nodes.Filter) -> None:
        names = [node.name]
        if node.name == "map" and node.args:
            names.append(str(node.args[0].value) if isinstance(node.args[0], nodes.Const) else "")
        if not _KNOWN_FILTERS.issuperset(names) or node.dyn_args or node.dyn_kwargs:
            raise Impure(f"uses the filter {names[-1] or 'map'} in its Jinja, which may differ from run to run")


def _dispatched(call: nodes.Call) -> str:
    name = _first_constant(call)
    if name is None:
        raise Impure("dispatches a macro whose name it makes up as it runs")
    return name


def _first_constant(call: nodes.Call) -> Optional[str]:
    given = call.args[0] if call.args else None
    return given.value if isinstance(given, nodes.Const) and isinstance(given.value, str) else None


def _strings(value: Any) -> Iterator[str]:
    todo = [value]
    while todo:
        each = todo.pop()
        if isinstance(each, str):
            if "{{" in each or "{%" in each:
                yield each
        elif isinstance(each, dict):
            todo += [*each, *each.values()]
        elif isinstance(each, list):
            todo += each
