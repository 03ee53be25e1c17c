"""The Jinja code of a dbt project, as steps: what each expression mentions and calls, and what decides over it.

Jinja's own parser reads the SQL files, and YAML's the properties, so comments, raw text, nested braces and escapes are
what they are to dbt. Whatever cannot be read, or is beyond what is understood here, is :class:`Unclear`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import yaml
from jinja2 import Environment, TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser

WORD = re.compile(r"\w+")
#: What makes a node what it is, when a file that is being parsed calls it.
STRUCTURE = frozenset({"config", "ref", "source", "metric", "function"})
#: With these, code can reach variables or functions without naming them, or leave a word where it isn't seen.
_REFLECTION = frozenset(
    "context builtins invocation_args_dict VARS render self attr store_result store_raw_result adapter_macro "
    "context_macro_stack".split()
)
_HARMLESS_FLAGS = frozenset({"WHICH", "FULL_REFRESH", "STORE_FAILURES", "EMPTY"})
#: What code calls methods of, or gets from dbt, and cannot change.
_UNCHANGING = frozenset("adapter api dbt exceptions execute flags loop modules this validation var".split())
#: Of a dictionary, as which dbt offers a package's macros.
_METHODS = frozenset({"get", "items", "keys", "values", "pop", "setdefault", "copy"})
_CHANGING = frozenset("update pop popitem setdefault clear append extend insert remove".split())
#: Dictionaries of dbt's that all code of a node shares.
SHARED = frozenset({"model", "target", "graph"})
_LATE = re.compile(r"\{[{%#]")
#: dbt puts braces around these by itself where properties name a relation.
_BARE_CALL = re.compile(r"\b(?:ref|source|metric|function|var)\s*\(")
_MAY_HOLD_JINJA = re.compile(r"\{[{%]|\b(?:ref|source|metric|function|var)\s*\(|\\(?:[xuU]|\r?\n)")
#: Safe, and the faster one where there is one.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Unclear(Exception):
    """The code is beyond what can be judged here."""


@dataclass(frozen=True, slots=True)
class Outer:
    """What a step is inside of: a condition with its ``words``; a block whose result goes to ``names``; a ``macro``,
    which goes by ``names``. ``hidden``: whoever is called there gets what is inside."""

    words: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    macro: bool = False
    hidden: bool = False


@dataclass(slots=True)
class Step:
    """One expression. ``words``: all that it mentions, text too. ``names``: what it may call or read by name.

    ``gets``: the names that may hold something of it afterwards; ``handed_on``: the functions that it names and does
    not call, which those names may be from then on; ``unknown``: what it calls that may be dbt's own.
    """

    words: frozenset[str]
    names: frozenset[str]
    gets: frozenset[str] = frozenset()
    handed_on: frozenset[str] = frozenset()
    unknown: frozenset[str] = frozenset()
    outer: tuple[Outer, ...] = ()


@dataclass(frozen=True, slots=True)
class Use:
    """A function's name where it stands in the code: with its first argument where it is called, and in which macro."""

    name: str
    argument: nodes.Node | None
    macro: nodes.Macro | None


class _Blocks(Extension):
    """dbt's own blocks. They are read as macros of a name that nobody calls, but for tests, which may be called."""

    tags = {"materialization", "test", "data_test", "snapshot", "docs"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: Parser) -> nodes.Node:
        """The block that begins here."""
        token = next(parser.stream)
        macro = nodes.Macro(lineno=token.lineno)
        macro.name = f"{token.value.removeprefix('data_')}_{parser.stream.expect('name').value}"
        macro.args, macro.defaults = [], []
        if parser.stream.current.type == "lparen":
            parser.parse_signature(macro)
        while parser.stream.current.type != "block_end":
            next(parser.stream)
        macro.body = parser.parse_statements((f"name:end{token.value}",), drop_needle=True)
        return macro


_ENVIRONMENT = Environment(extensions=["jinja2.ext.do", "jinja2.ext.loopcontrols", _Blocks])


def parsed(text: str) -> nodes.Template:
    """Jinja code, read. Raises :class:`Unclear`."""
    try:
        return _ENVIRONMENT.parse(text)
    except (TemplateError, RecursionError) as error:
        raise Unclear from error


def expressions(properties: str) -> list[nodes.Template]:
    """The Jinja code in a YAML file, also where dbt puts the braces around it. Raises :class:`Unclear`."""
    if not _MAY_HOLD_JINJA.search(properties):
        return []
    return [code for text in texts_in(_loaded(properties)) for code in expressions_in(text)]


def expressions_in(text: str) -> list[nodes.Template]:
    """The Jinja code that a value of a YAML file, or of a variable, is or holds."""
    if _LATE.search(text):
        return [parsed(text)]
    if _BARE_CALL.search(text):
        with suppress(Unclear):  # a sentence, and no code
            return [parsed("{{ " + text + " }}")]
    return []


def project_name(properties: str) -> str | None:
    """The name in a ``dbt_project.yml``."""
    content = _loaded(properties)
    return str(content["name"]) if isinstance(content, dict) and "name" in content else None


def default_values(properties: str) -> list[nodes.Template]:
    """The Jinja code in the values that a ``dbt_project.yml`` gives to variables."""
    content = _loaded(properties)
    given = content.get("vars") if isinstance(content, dict) else None
    return [code for text in texts_in(given) for code in expressions_in(text)]


def texts_in(content: object) -> Iterator[str]:
    """All texts in lists and dictionaries, keys too."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, dict):
        for key, value in content.items():
            yield from texts_in(key)
            yield from texts_in(value)
    elif isinstance(content, (list, tuple, set)):
        for each in content:
            yield from texts_in(each)


def _loaded(text: str) -> object:
    try:
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise Unclear from error


def late_code(code: nodes.Node) -> list[nodes.Template]:
    """The Jinja code in texts of other code: dbt renders it where it is a hook."""
    texts = (each.value for each in _walk(code) if isinstance(each, nodes.Const) and isinstance(each.value, str))
    found = [parsed(text) for text in texts if _LATE.search(text)]
    return found + [later for each in found for later in late_code(each)]


def macros(code: nodes.Node) -> Iterator[nodes.Macro]:
    """All macros in it."""
    return (each for each in _walk(code) if isinstance(each, nodes.Macro))


def called(name: str) -> frozenset[str]:
    """The names by which a macro is called: ``adapter.dispatch`` leaves the prefix out."""
    return frozenset({name, name.partition("__")[2] or name})


def words(code: nodes.Node) -> frozenset[str]:
    """All that it mentions: names, and the words of its texts."""
    return frozenset(word for each in _walk(code) for word in _words(each))


def assigned(code: Iterable[nodes.Node]) -> frozenset[str]:
    """The names that it gives a value."""
    return frozenset(
        each.name
        for part in code
        for each in _walk(part)
        if isinstance(each, nodes.NSRef) or (isinstance(each, nodes.Name) and each.ctx != "load")
    )


def steps(code: nodes.Template) -> list[Step]:
    """Its expressions, in order."""
    found = list(_steps(code.body, ()))
    own = {name: words(macro) for macro in macros(code) for name in called(macro.name)}
    for step in found:  # a macro can change what its own file holds
        step.gets = step.gets.union(*(own[name] for name in step.names & own.keys()))
    return found


def require_plain(code: nodes.Node, packages: frozenset[str]) -> None:
    """Raise :class:`Unclear` if it could reach something without naming it."""
    owners = {id(each.node): each for each in _walk(code) if isinstance(each, nodes.Getattr)}
    calls = {id(call.node): call for call in _calls(_walk(code))}
    for each in _walk(code):
        if _own_names(each) & _REFLECTION:
            raise Unclear
        if isinstance(each, nodes.Name) and each.name in {*packages, "adapter", "flags", "dbt"}:
            owner = owners.get(id(each))
            if owner is None or owner.attr in _METHODS:
                raise Unclear
            if each.name == "flags" and owner.attr not in _HARMLESS_FLAGS:
                raise Unclear
        if isinstance(each, nodes.Getattr) and each.attr in _CHANGING and not SHARED.isdisjoint(_names_in(each)):
            raise Unclear
        if isinstance(each, nodes.Getattr) and each.attr == "dispatch":
            call = calls.get(id(each))
            if call is None or not call.args or _text(call.args[0]) is None:
                raise Unclear


def uses(code: nodes.Node) -> Iterator[Use]:
    """Each name that could be a function's."""
    calls = {}
    for call in _calls(_walk(code)):
        asks = isinstance(call.node, nodes.Getattr) and call.node.attr == "has_var"
        calls[id(call.node.node if asks else call.node)] = call  # type: ignore[attr-defined] # as it just was
    todo: list[tuple[nodes.Node, nodes.Macro | None]] = [(code, None)]
    while todo:
        each, macro = todo.pop()
        asking = calls.get(id(each))
        argument = asking.args[0] if asking is not None and asking.args else None
        if isinstance(each, (nodes.Name, nodes.Getattr, nodes.Getitem, nodes.Call)):
            yield from (Use(name, argument, macro) for name in _own_names(each))
        macro = each if isinstance(each, nodes.Macro) else macro
        todo += [(child, macro) for child in each.iter_child_nodes()]


# -- statements ----------------------------------------------------------------------------------------


def _steps(body: Iterable[nodes.Node], outer: tuple[Outer, ...]) -> Iterator[Step]:
    for node in body:
        if isinstance(node, nodes.Output):
            yield from (_step(each, outer) for each in node.nodes if not isinstance(each, nodes.TemplateData))
        elif isinstance(node, nodes.ExprStmt):
            yield _step(node.node, outer)
        elif isinstance(node, nodes.Assign):
            yield _step(node.node, outer, assigned([node.target]))
        elif isinstance(node, nodes.AssignBlock):
            targets = assigned([node.target])
            if node.filter is not None:
                yield _step(node.filter, outer, targets)
            yield from _steps(node.body, (*outer, Outer(names=targets)))
        elif isinstance(node, nodes.If):
            yield from _branches(node, outer)
        elif isinstance(node, nodes.For):
            yield from _loop(node, outer)
        elif isinstance(node, nodes.Macro):
            inside = (*outer, Outer(names=called(node.name), macro=True))
            yield from (_step(each, inside, assigned(node.args)) for each in node.defaults)
            yield from _steps(node.body, inside)
        elif isinstance(node, (nodes.CallBlock, nodes.FilterBlock)):
            yield from _handed_over(node, outer)
        elif isinstance(node, (nodes.Break, nodes.Continue)):
            yield Step(frozenset(), STRUCTURE, outer=outer)  # it decides over all that comes after it
        else:
            raise Unclear


def _branches(node: nodes.If, outer: tuple[Outer, ...]) -> Iterator[Step]:
    decided = frozenset[str]()
    for branch in (node, *node.elif_):
        yield _step(branch.test, (*outer, Outer(words=decided)))
        decided |= words(branch.test)
        yield from _steps(branch.body, (*outer, Outer(words=decided)))
    yield from _steps(node.else_, (*outer, Outer(words=decided)))


def _loop(node: nodes.For, outer: tuple[Outer, ...]) -> Iterator[Step]:
    targets = assigned([node.target])
    yield _step(node.iter, outer, targets)
    decided = words(node.iter)
    if node.test is not None:
        yield _step(node.test, outer)
        decided |= words(node.test)
    inside = (*outer, Outer(words=decided))
    yield from _steps(node.body, inside)
    yield from _steps(node.else_, inside)


def _handed_over(node: nodes.CallBlock | nodes.FilterBlock, outer: tuple[Outer, ...]) -> Iterator[Step]:
    to = node.call if isinstance(node, nodes.CallBlock) else node.filter
    yield _step(to, outer)
    inside = (*outer, Outer(words=words(to), hidden=True))
    if isinstance(node, nodes.CallBlock):
        yield from (_step(each, inside, assigned(node.args)) for each in node.defaults)
    yield from _steps(node.body, inside)


# -- expressions ---------------------------------------------------------------------------------------


def _step(code: nodes.Node, outer: tuple[Outer, ...], targets: frozenset[str] = frozenset()) -> Step:
    everything = list(_walk(code))
    calls = _calls(everything)
    functions = {id(call.node) for call in calls}
    methods = {id(call.node.node) for call in calls if isinstance(call.node, nodes.Getattr)}
    bare = [each for each in everything if id(each) not in functions]
    return Step(
        words(code),
        frozenset(name for each in everything for name in _callable_names(each)),
        targets | _changed(calls),
        frozenset(name for each in bare if id(each) not in methods for name in _callable_names(each)),
        frozenset(name for call in calls for name in _own_names(call.node) if _may_be_dbts(call.node)),
        outer,
    )


def _changed(calls: Iterable[nodes.Call]) -> frozenset[str]:
    """What calls may change: lists and dictionaries that they are given, or that they are methods of."""
    return frozenset(
        each.name
        for call in calls
        for each in _walk(call)
        if isinstance(each, nodes.Name) and each is not call.node and each.name not in _UNCHANGING
    )


def _may_be_dbts(function: nodes.Node) -> bool:
    return isinstance(function, nodes.Name) or (
        isinstance(function, nodes.Getattr) and isinstance(function.node, nodes.Name) and function.node.name == "dbt"
    )


def _calls(code: Iterable[nodes.Node]) -> list[nodes.Call]:
    return [each for each in code if isinstance(each, nodes.Call)]


def _walk(node: nodes.Node) -> Iterator[nodes.Node]:
    todo = [node]
    while todo:
        each = todo.pop()
        yield each
        todo += each.iter_child_nodes()


def _words(node: nodes.Node) -> Iterable[str]:
    if isinstance(node, nodes.Const):
        return WORD.findall(str(node.value))
    return _own_names(node)


def _callable_names(node: nodes.Node) -> Iterable[str]:
    """What could call a function of that name. One named as what dbt offers is a mere attribute elsewhere."""
    return _own_names(node) - (frozenset() if isinstance(node, nodes.Name) else STRUCTURE)


def _own_names(node: nodes.Node) -> frozenset[str]:
    """The names that stand in this very node; those of a text where it says which macro is meant."""
    if isinstance(node, (nodes.Name, nodes.NSRef, nodes.Filter, nodes.Test, nodes.Macro)):
        return frozenset({node.name})
    if isinstance(node, nodes.Getattr):
        return frozenset({node.attr})
    if isinstance(node, nodes.Keyword):
        return frozenset({node.key})
    if isinstance(node, nodes.Getitem):
        return frozenset(WORD.findall(_text(node.arg) or ""))
    if isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr) and node.node.attr == "dispatch":
        return frozenset(word for argument in node.args[:1] for word in WORD.findall(_text(argument) or ""))
    return frozenset()


def _names_in(code: nodes.Node) -> Iterator[str]:
    return (each.name for each in _walk(code) if isinstance(each, nodes.Name))


def _text(node: nodes.Node) -> str | None:
    return node.value if isinstance(node, nodes.Const) and isinstance(node.value, str) else None
