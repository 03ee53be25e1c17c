"""What dbt does in vain when it builds a few nodes of a large project in a database of their own, left out.

Each shortcut stands for one function of dbt's, and gives what that gives. It is taken only where the function looks as
it does in the versions that it was written for (1.8 to 1.11); elsewhere dbt goes its own way, which is slower.
"""

from __future__ import annotations

import copy
import functools
import inspect
import itertools
from typing import Any, Callable, Collection, Dict, Iterable, List, Sequence, Set

#: What in a manifest may be a parent of what makes a relation, and what never is.
_PARENTS, _LEAVES = ("nodes", "sources", "functions"), ("exposures", "metrics", "semantic_models", "saved_queries")
#: Events of this level are for dbt's debug log, but for those that tell where a run is.
_UNHEARD, _HEARD = ("debug", "test"), ("NodeStart", "NodeFinished")


def take() -> None:
    """Take those that hold for every command of this process."""
    for shortcut in SHORTCUTS:
        _if_as_known(shortcut)


def link_only(steps: Sequence[Collection[str]]) -> bool:
    """From now on, let dbt's graph hold the nodes of these steps and what they are built from, and nothing else.

    Nodes of a step come after those of the steps before, as if these were what they are built from. False if this dbt
    has its own way.

    dbt runs the chosen nodes in the order that their paths in the graph give, and a path between two of them leads
    through ancestors only. Tests, exposures and the like are no ancestors of a relation, and the edges that dbt draws
    from tests to what must wait for them join nodes that are joined already. The manifest itself stays whole: what a
    model sees of it, as ``graph`` or by a macro, is all there.
    """
    return _if_as_known(functools.partial(_link_only, steps))


def ancestors(wanted: Iterable[str], parents: Callable[[str], Iterable[str]]) -> Set[str]:
    """Those wanted, and all that they depend on."""
    found: Set[str] = set()
    left = list(wanted)
    while left:
        each = left.pop()
        if each not in found:
            found.add(each)
            left.extend(parents(each))
    return found


def _if_as_known(shortcut: Callable[[], None]) -> bool:
    try:
        shortcut()
    except (ImportError, AttributeError, TypeError, ValueError):
        return False  # another dbt: its own way
    return True


def _require(function: Any, *parameters: str) -> None:
    """Raise ``TypeError`` unless this is a function with these parameters."""
    if list(inspect.signature(function).parameters) != list(parameters):
        raise TypeError


def _link_only(steps: Sequence[Collection[str]]) -> None:
    from dbt.compilation import Linker

    link, add_test_edges = Linker.link_graph, Linker.add_test_edges
    _require(link, "self", "manifest")
    _require(add_test_edges, "self", "manifest")
    _require(Linker.dependency, "self", "node1", "node2")
    wanted = [uid for step in steps for uid in step]

    def link_graph(linker: Any, manifest: Any) -> None:
        part = _part(manifest, wanted)
        linker.selfheald_part = part is not manifest
        link(linker, part)
        for number in range(1, len(steps)):
            for later, earlier in itertools.product(steps[number], steps[number - 1]):
                linker.dependency(later, earlier)

    def without_tests(linker: Any, manifest: Any) -> None:
        if not getattr(linker, "selfheald_part", False):
            add_test_edges(linker, manifest)

    Linker.link_graph = link_graph
    Linker.add_test_edges = without_tests


def _part(manifest: Any, wanted: Collection[str]) -> Any:
    """A manifest that holds what is wanted and its ancestors; the whole one where that is not clear-cut."""
    kinds: List[Dict[str, Any]] = [getattr(manifest, kind) for kind in _PARENTS if hasattr(manifest, kind)]

    def find(uid: str) -> Any:
        return next((kind[uid] for kind in kinds if uid in kind), None)

    needed = ancestors(wanted, lambda uid: getattr(find(uid), "depends_on_nodes", ()))
    if any(find(uid) is None for uid in needed):
        return manifest
    part = copy.copy(manifest)
    for kind in _PARENTS:
        if hasattr(manifest, kind):
            setattr(part, kind, {uid: node for uid, node in getattr(manifest, kind).items() if uid in needed})
    for kind in (*_LEAVES, "unit_tests"):
        if hasattr(manifest, kind):
            setattr(part, kind, {})
    return part


def _quiet_events() -> None:
    """dbt makes a message of each of hundreds of events for its debug log, which is not written here."""
    from dbt_common.events.event_manager import EventManager

    fire = EventManager.fire_event
    if list(inspect.signature(fire).parameters)[:3] != ["self", "e", "level"]:
        raise TypeError

    def fire_event(manager: Any, e: Any, level: Any = None, *rest: Any, **named: Any) -> None:
        told = (level or e.level_tag()).value
        if told in _UNHEARD and type(e).__name__ not in _HEARD and not any(rest) and not any(named.values()):
            if all(logger.level.value not in _UNHEARD for logger in manager.loggers):
                return
        fire(manager, e, level, *rest, **named)

    EventManager.fire_event = fire_event


def _empty_events() -> None:
    """What such an event says is put together only if somebody asks for it."""
    from dbt_common.events.base_types import BaseEvent, DebugLevel

    fill, get, put = BaseEvent.__init__, BaseEvent.__getattr__, BaseEvent.__setattr__
    _require(get, "self", "key")
    _require(put, "self", "key", "value")
    given = "selfheald_given"

    def begin(event: Any, *args: Any, **named: Any) -> None:
        if args or not isinstance(event, DebugLevel) or type(event).__name__ in _HEARD:
            fill(event, *args, **named)
        else:
            event.__dict__[given] = named

    def read(event: Any, key: str) -> Any:
        if given not in event.__dict__:
            return get(event, key)
        fill(event, **event.__dict__.pop(given))
        return getattr(event, key)

    def write(event: Any, key: str, value: Any) -> None:
        if given in event.__dict__:
            fill(event, **event.__dict__.pop(given))
        put(event, key, value)

    BaseEvent.__init__, BaseEvent.__getattr__, BaseEvent.__setattr__ = begin, read, write


def _plugins_once() -> None:
    """Each command looks through all folders of the interpreter's packages for plugins; they stay the same ones."""
    from dbt.plugins.manager import PluginManager

    find = inspect.getattr_static(PluginManager, "get_prefixed_modules").__func__
    _require(find, "cls")
    found = functools.lru_cache(maxsize=None)(lambda: find(PluginManager))
    PluginManager.get_prefixed_modules = classmethod(lambda cls: dict(found()))


def _macros_at_once() -> None:
    """Each of hundreds of contexts gets hundreds of macros, looked up one by one in dictionaries that can be joined."""
    from dbt.context.macros import MacroNamespace
    from dbt.context.manifest import ManifestContext

    to_dict = ManifestContext.to_dict
    _require(to_dict, "self")
    _require(MacroNamespace._search_order, "self")

    def joined(context: Any) -> Any:
        if type(context.namespace) is not MacroNamespace:
            return to_dict(context)
        found = super(ManifestContext, context).to_dict()
        for names in reversed(list(context.namespace._search_order())):
            found.update(names)
        return found

    ManifestContext.to_dict = joined


def _schemas_once() -> None:
    """To learn which schemas there are, dbt makes a relation of every node; one for each schema does."""
    from dbt.adapters.base.impl import BaseAdapter

    schemas = BaseAdapter._get_cache_schemas
    _require(schemas, "self", "relation_configs")

    def cache_schemas(adapter: Any, relation_configs: Iterable[Any]) -> Any:
        different = {
            (each.database, each.schema, repr(each.quoting_dict), repr(each.config.get("catalog"))): each
            for each in relation_configs
        }
        return schemas(adapter, different.values())

    BaseAdapter._get_cache_schemas = cache_schemas


def _one_empty_table() -> None:
    """A statement without rows gets a table, made with all that it takes to guess the types of columns."""
    from dbt_common.clients import agate_helper

    _require(agate_helper.empty_table)
    agate_helper.empty_table = functools.lru_cache(maxsize=None)(agate_helper.empty_table)


#: Those of every command.
SHORTCUTS = (_quiet_events, _empty_events, _plugins_once, _macros_at_once, _schemas_once, _one_empty_table)
