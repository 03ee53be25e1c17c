"""Whether what a build has made may be given to other databases: the same project and files would make it again.

The verdict is ``{"usable", "why"}``. It is given on what was executed, and on the code that wrote that; whatever is
not understood is a reason against.
"""

from __future__ import annotations

import os
import re
import sys
import traceback
from functools import partial
from itertools import chain
from pathlib import Path
from typing import (
    Any,
    Callable,
    Collection,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Set,
    Tuple,
)

from dbt.adapters.factory import get_adapter_package_names

from jinja_purity import Macros, judge, judge_properties
from reuse_watch import QueryWatch
from sql_proof import Impure, Prover
from sql_words import TYPES

_MATERIALIZED = frozenset({"table", "view", "incremental"})
_STRATEGIES = frozenset({None, "append", "default", "delete+insert", "merge"})
_CONSTRAINTS = frozenset({"not_null", "unique", "primary_key"})
#: Macros that a project may have its own of: they are judged as any other.
_NAMING = frozenset({"generate_schema_name", "generate_alias_name", "generate_database_name"})
_PREFIX = re.compile(r"^(?:default|duckdb)__")
#: What a profile may set: where and how fast, but not what.
_CREDENTIALS = frozenset(
    {"database", "schema", "path", "external_root", "disable_transactions", "keep_open", "retries"}
)
_SETTINGS = frozenset(
    "threads worker_threads external_threads memory_limit max_memory temp_directory max_temp_directory_size "
    "enable_progress_bar enable_progress_bar_print preserve_insertion_order".split()
)
_EXTENSIONS = frozenset({"core_functions", "icu", "json", "parquet"})
#: What stands for a brace in a variable, so that dbt takes it for no code.
_BRACE = "{{ '{' }}"
_IDENTIFIER = re.compile(r"\w+")
_TYPE = re.compile(r"([A-Za-z_0-9]+)\s*(?:\(\s*\d+\s*(?:,\s*\d+\s*)?\))?\s*(?:\[\d*\])*")
_CREATE_SCHEMA = re.compile(r'\s*(?:create\s+schema\s+(?:if\s+not\s+exists\s+)?(?:\w+|"[^";]*")\s*)?', re.IGNORECASE)

Verdict = Dict[str, Any]


class Build(NamedTuple):
    """What is judged: the nodes asked for as dbt has run them, and what their Jinja asked the database meanwhile."""

    session: Any
    manifest: Any
    made: Mapping[str, Any]
    queries: Sequence[Tuple[str, str]]


def judge_reuse(session: Any, manifest: Any) -> Callable[..., Verdict]:
    """To be called before dbt runs; what it returns gives the verdict once the database is closed.

    See :func:`verdict` for what it takes beside the build.
    """
    watch = QueryWatch()

    def judge_made(declared: Iterable[str], *, built: bool = True) -> Verdict:
        return verdict(Build(session, manifest, session.made, watch.queries), declared, built=built)

    return judge_made


def verdict(build: Build, declared: Iterable[str], *, built: bool = True) -> Verdict:
    """The verdict on a build whose database is closed.

    ``declared`` are the absolute paths of the files whose content counts as known. Where nothing is ``built`` yet, the
    types of its columns are taken to be harmless.
    """
    try:
        why = next(chain(reasons_in_code(build), reasons_in_queries(build, declared, built=built)), None)
    except Exception as error:  # noqa: BLE001  (a proof that fails is none, and no reason for a build to fail)
        traceback.print_exc(file=sys.stderr)
        why = f"it cannot be judged: {type(error).__name__}: {error}"
    return {"usable": why is None, "why": why}


def reasons_in_code(build: Build) -> Iterator[str]:
    """The reasons against it, as far as the project, its Jinja and the profile have any; the cheap ones first."""
    built_in = frozenset(get_adapter_package_names("duckdb"))
    macros = Macros(build.manifest.macros.values(), built_in)
    job = build.session.job
    yield from _against("dbt.pre_sql", lambda: _judge_pre_sql(job.get("pre_sql")))
    yield from _against("a variable", lambda: _judge_variable(job.get("vars")))
    yield from _against("the profile", lambda: _judge_profile(build.session))
    for hook in _run_hooks(build.manifest):
        yield f"the project has an on-run hook in {hook.package_name}, whose effect is not followed"
    for macro in _stand_ins(build, built_in):
        yield f"the project has a macro {macro.name} of its own in the place of dbt's"
    if build.session.raw_project.get("dispatch"):
        yield "the project has dispatch, by which its packages may stand in for dbt's own macros"
    for node in build.made.values():
        yield from _against(said(node), partial(_judge_node, build, node, built_in))
    for node in _written(build):
        yield from _against(said(node), partial(_judge_code, node.raw_code, macros))
    yield from _against("the project", lambda: macros.judge(_NAMING))
    for path in _properties(build):
        yield from _against(path, partial(_judge_properties, path, macros))


def reasons_in_queries(build: Build, declared: Iterable[str], *, built: bool) -> Iterator[str]:
    """The reasons against it in what was sent to the database."""
    made = frozenset(map(_name, build.made.values()))
    prover = Prover(build.session.database, declared, typed=built)
    try:
        yield from _against("the database", prover.own_definitions)
        for node in build.made.values():
            if node.resource_type != "seed" and not node.compiled_code:
                yield f"{said(node)} cannot be judged before dbt builds: its Jinja asks for what is not there yet"
            elif node.resource_type != "seed":
                yield from _against(said(node), partial(prover.query, node.compiled_code, made))
            yield from _against(said(node), partial(prover.relation, _name(node)))
        for uid, sql in dict.fromkeys(build.queries):
            subject = said(build.manifest.nodes[uid]) if uid in build.manifest.nodes else uid
            yield from _against(
                f"{subject} asks the database for what", partial(prover.query, sql, made, to_jinja=True)
            )
    finally:
        prover.close()


def _against(subject: str, check: Callable[[], None]) -> Iterator[str]:
    try:
        check()
    except Impure as error:
        yield f"{subject} {error}"


def _name(node: Any) -> Tuple[str, str]:
    return str(node.schema).lower(), str(node.alias).lower()


def _judge_code(text: str, macros: Macros) -> None:
    macros.judge(judge(text, macros))


def said(node: Any) -> str:
    """A node as a person calls it."""
    return f"{node.resource_type} {node.name}"


def _judge_node(build: Build, node: Any, built_in: Collection[str]) -> None:
    """What of a node is no SQL of its own."""
    config = node.config
    if config.pre_hook or config.post_hook:
        raise Impure("has a hook, whose effect is not followed")
    if str(node.database).lower() != str(build.session.catalog).lower():
        raise Impure(f"is in the database {node.database}")
    for column, kind in dict(config.get("column_types") or {}).items():
        _require_type(column, kind)
    if node.resource_type == "model":
        _judge_model(node)
    elif node.resource_type != "seed":
        raise Impure("is a snapshot, which holds when it was made")
    project, kind = build.session.project_name, config.materialized
    found = build.manifest.find_materialization_macro_by_name(project, kind, "duckdb")
    if found is None or found.package_name not in built_in:
        raise Impure(f"is materialized as {kind} by a macro that is not dbt's own")


def _judge_model(node: Any) -> None:
    config = node.config
    if str(node.language) != "sql":
        raise Impure("is written in Python, which is not judged")
    materialized = config.materialized
    if materialized not in _MATERIALIZED:
        raise Impure(f"is materialized as {materialized}, whose effect is not followed")
    if materialized == "incremental" and config.get("incremental_strategy") not in _STRATEGIES:
        raise Impure(f"is incremental by {config.get('incremental_strategy')}, which may go by the clock")
    if config.get("sql_header"):
        raise Impure("has an sql_header, whose effect is not followed")
    for index in config.get("indexes") or ():
        for column in index.get("columns", ()):
            if not _IDENTIFIER.fullmatch(str(column)):
                raise Impure(f"has an index on {column}, which is not understood")
    if node.contract.enforced:
        _judge_contract(node)


def _judge_contract(node: Any) -> None:
    constraints = [*node.constraints]
    for column in node.columns.values():
        _require_type(column.name, column.data_type)
        constraints += column.constraints
    for each in constraints:
        kind = str(getattr(each.type, "value", each.type))
        if kind not in _CONSTRAINTS or getattr(each, "expression", None):
            raise Impure(f"has a constraint of the type {kind}, whose effect is not followed")


def _require_type(column: str, kind: object) -> None:
    """dbt puts what stands as the type into SQL as it is, and there a default or more can follow."""
    match = _TYPE.fullmatch(str(kind).strip())
    if match is None or match.group(1).upper() not in TYPES:
        raise Impure(f"has {kind} as the type of {column}, which is not understood")


def _run_hooks(manifest: Any) -> List[Any]:
    return [node for node in manifest.nodes.values() if node.resource_type == "operation"]


def _stand_ins(build: Build, built_in: Collection[str]) -> Iterator[Any]:
    """Macros of the project that dbt takes for its own. Those of packages it does not, but by ``dispatch``."""
    dbts = {_PREFIX.sub("", each.name) for each in build.manifest.macros.values() if each.package_name in built_in}
    dbts |= {"ref", "source", "config", "var", "env_var"}
    for macro in build.manifest.macros.values():
        name = _PREFIX.sub("", macro.name)
        of_tests = macro.name.startswith("test_")
        if macro.package_name == build.session.project_name and name in dbts - _NAMING and not of_tests:
            yield macro


def _judge_variable(variables: Any) -> None:
    todo = [variables]
    while todo:
        each = todo.pop()
        if isinstance(each, str) and ("{{" in each.replace(_BRACE, "") or "{%" in each):
            raise Impure("holds Jinja, which is not judged")
        if isinstance(each, dict):
            todo += [*each, *each.values()]
        elif isinstance(each, list):
            todo += each


def _judge_profile(session: Any) -> None:
    given = {name: value for name, value in vars(session.credentials).items() if value and not name.startswith("_")}
    for name, value in given.items():
        if name == "settings":
            _require_all(name, value, _SETTINGS)
        elif name == "extensions":
            _require_all(name, [getattr(each, "name", each) for each in value], _EXTENSIONS)
        elif name not in _CREDENTIALS:
            raise Impure(f"has {name}, which reaches out or changes results")
        elif name != "path" and session.database in str(value):
            raise Impure(f"has the database's own path in {name}")


def _require_all(name: str, given: Iterable[Any], known: Collection[str]) -> None:
    for each in given:
        if str(each).lower() not in known:
            raise Impure(f"has {each} in {name}, which may change results")


def _judge_pre_sql(sql: Optional[str]) -> None:
    for statement in (sql or "").split(";"):
        if not _CREATE_SCHEMA.fullmatch(statement):
            raise Impure("does more than create schemas, which is not followed")


def _written(build: Build) -> Iterator[Any]:
    """The nodes that were built, and the ephemeral models that dbt has folded into them."""
    todo = list(build.made)
    seen: Set[str] = set()
    while todo:
        uid = todo.pop()
        node = build.manifest.nodes.get(uid)
        if uid in seen or node is None:
            continue
        seen.add(uid)
        if node.resource_type == "model":
            yield node
            parents = (build.manifest.nodes.get(each) for each in node.depends_on_nodes)
            todo += [each.unique_id for each in parents if each and each.config.materialized == "ephemeral"]


def _properties(build: Build) -> List[str]:
    """All YAML files that dbt reads of the project and its packages, and the profile."""
    roots: Set[str] = set()
    found: List[str] = []
    for file in build.manifest.files.values():
        place = getattr(file.path, "project_root", None)
        if place:
            roots.add(os.path.join(build.session.project_dir, place))
        path = str(file.path.absolute_path)
        if path.endswith((".yml", ".yaml")):
            found.append(path)
    roots.add(str(build.session.project_dir))
    found += [
        path for root in sorted(roots) for path in [os.path.join(root, "dbt_project.yml")] if os.path.exists(path)
    ]
    return [*found, str(build.session.profiles_dir / "profiles.yml")]


def _judge_properties(path: str, macros: Macros) -> None:
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    judge_properties(text, macros, own_path=Path(path).name == "profiles.yml")
