"""Which variables a project's parse cannot depend on: they appear in what models say, not in what they are.

dbt renders every file when it parses a project, but keeps of it only what the calls of ``config``, ``ref`` and
``source`` said, and what its YAML files say. A variable that reaches neither is *inert*: databases that differ in it
alone share one plan and one parse. The proof is by the words of the Jinja code, and errs on the safe side: whatever is
not understood makes every variable count.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_STRING = r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\""
_JINJA = re.compile(
    r"\{#.*?#\}" + "".join(rf"|\{{{a}(?:{_STRING}|[^'\"])*?{b}\}}" for a, b in ((r"\{", r"\}"), ("%", "%"))), re.DOTALL
)
_STRINGS = re.compile(_STRING, re.DOTALL)
_WORD = re.compile(r"\w+")
_TARGETS = re.compile(r"(?:set|for)\s+(.*?)(?:=|\bin\b)", re.DOTALL)
_MACRO = re.compile(r"macro\s+(\w+)\s*\(\s*(\w*)")
#: What makes a node what it is, when a file that is being parsed calls it.
_STRUCTURE = frozenset({"config", "ref", "source", "metric", "function"})
#: dbt calls these while it parses, for every node.
_CALLED_BY_DBT = frozenset({"generate_alias_name", "generate_schema_name", "generate_database_name"})
#: With these, code can reach variables or functions without naming them; and so with a flag that is not one of four.
_REFLECTION = frozenset({"context", "builtins", "invocation_args_dict", "VARS", "render"})
_TELLING_FLAG = re.compile(r"\bflags\b(?!\s*\.\s*(?:WHICH|FULL_REFRESH|STORE_FAILURES|EMPTY)\b)")
_OPENING = frozenset({"macro", "test", "materialization", "snapshot", "if", "for", "set", "call", "filter", "raw"})


@dataclass(frozen=True, slots=True)
class _Block:
    """One ``{{ … }}`` (no tag) or ``{% … %}``: its words, and its ``code`` and ``names`` without string literals."""

    tag: str
    text: str
    code: str
    words: frozenset[str]
    names: frozenset[str]


@dataclass(slots=True)
class _Open:
    """A block that has begun. ``doubtful``: whether its content is rendered depends on the variable."""

    tag: str
    names: frozenset[str]
    doubtful: bool = False


class _Unclear(Exception):
    """The code is beyond what can be judged here."""


def inert_variables(files: Mapping[str, str], variables: Mapping[str, Any]) -> frozenset[str]:
    """The names of those ``variables`` that no parse of these files (their names, their texts) can depend on."""
    try:
        sql = [list(_blocks(text)) for name, text in files.items() if name.lower().endswith(".sql")]
        yaml = [list(_blocks(text)) for name, text in files.items() if name.lower().endswith((".yml", ".yaml"))]
        yaml.append([block for value in variables.values() for block in _blocks(str(value))])  # dbt renders these too
        structure = _structural(sql)
        _require_literal_names([*sql, *yaml])
    except _Unclear:
        return frozenset()
    in_yaml = {word for blocks in yaml for block in blocks for word in block.words}
    return frozenset(
        name
        for name, value in variables.items()
        if _WORD.fullmatch(name) and not isinstance(value, dict) and _is_inert(name, sql, in_yaml, structure)
    )


def _blocks(text: str) -> Iterator[_Block]:
    if "{{" in (rest := _JINJA.sub("", text)) or "{%" in rest:
        raise _Unclear
    for found in _JINJA.findall(text):
        if found.startswith("{#"):
            continue
        inner = found[2:-2].strip("-+ \t\r\n")
        plain = _STRINGS.sub(lambda match: '"\\"' if "\\" in match[0] else '""', inner)
        code = inner if "dispatch" in plain else plain  # a macro's name can be in that string
        names = frozenset(_WORD.findall(code))
        if names & _REFLECTION or _TELLING_FLAG.search(code):
            raise _Unclear
        tag = ""
        if found.startswith("{%"):
            tag = inner.split(None, 1)[0] if inner else ""
            if tag == "set" and "=" not in plain:
                tag = "set block"
        yield _Block(tag, inner, code, frozenset(_WORD.findall(inner)), names)


def _macros(blocks: Iterable[_Block]) -> Iterator[tuple[str, str, list[_Block]]]:
    """Name, first parameter and content of each macro."""
    inside: tuple[str, str, list[_Block]] | None = None
    for block in blocks:
        if block.tag == "macro":
            header = _MACRO.match(block.text)
            if header is None or inside is not None:
                raise _Unclear
            inside = (header[1], header[2], [block])
        elif inside is not None:
            inside[2].append(block)
            if block.tag == "endmacro":
                yield inside
                inside = None


def _called(name: str) -> frozenset[str]:
    """The names by which a macro is called: ``adapter.dispatch`` leaves the prefix out."""
    return frozenset({name, name.partition("__")[2] or name})


def _structural(files: Iterable[list[_Block]]) -> frozenset[str]:
    """What may call ``config``, ``ref`` or ``source``: these, and each macro in which one of such names occurs."""
    macros = [(name, content) for blocks in files for name, _, content in _macros(blocks)]
    if any(name in _STRUCTURE or name == "var" for name, _ in macros):
        raise _Unclear
    found, before = _STRUCTURE, 0
    while len(found) != before:
        before = len(found)
        for name, content in macros:
            if any(block.names & found for block in content[1:]):
                found |= _called(name)
    return found


def _require_literal_names(files: Collection[list[_Block]]) -> None:
    """Raise unless each variable is asked for by a name that stands there.

    ``var`` itself is called with a string; a macro that passes its first parameter on to ``var`` is called so too.
    """
    asking, before = {"var"}, 0
    macros = [macro for blocks in files for macro in _macros(blocks)]
    while len(asking) != before:
        before = len(asking)
        for name, parameter, content in macros:
            if any(_passes_on(word, parameter, block.code) for word in asking & _names(content) for block in content):
                asking |= _called(name)
    within = {id(block): parameter for _, parameter, content in macros for block in content}
    assigned = {
        id(block) for _, parameter, content in macros if parameter in _assigned(content[1:]) for block in content
    }
    for blocks in files:
        for block in blocks:
            code = block.code
            for word in asking & block.names:
                code = re.sub(rf'\b{word}\s*(?:\(|\.has_var\s*\()\s*""\s*(?=[,)])', "", code)
                if block.tag == "macro":
                    code = re.sub(rf"macro\s+(?:\w+__)?{word}\b", "", code)
                if id(block) in within and id(block) not in assigned and within[id(block)]:
                    code = re.sub(rf"\b{word}\s*(?:\(|\.has_var\s*\()\s*{within[id(block)]}\s*(?=[,)])", "", code)
                if re.search(rf"\b(?:\w+__)?{word}\b", code):
                    raise _Unclear


def _passes_on(word: str, parameter: str, code: str) -> bool:
    return bool(parameter) and re.search(rf"\b{word}\s*(?:\(|\.has_var\s*\()\s*{parameter}\b", code) is not None


def _names(content: Iterable[_Block]) -> set[str]:
    return {name for block in content for name in block.names}


def _assigned(content: Iterable[_Block]) -> set[str]:
    return {target for block in content if block.tag in ("set", "set block", "for") for target in _targets(block)}


def _targets(block: _Block) -> frozenset[str]:
    if block.tag == "set block":
        return block.names - {"set"}
    match = _TARGETS.match(block.code)
    if match is None:
        raise _Unclear
    return frozenset(_WORD.findall(match[1]))


def _is_inert(
    variable: str, files: Collection[list[_Block]], in_yaml: Collection[str], structure: frozenset[str]
) -> bool:
    reached, before = frozenset({variable}), 0
    try:
        while len(reached) != before:
            before = len(reached)
            for blocks in files:
                reached |= _reached_macros(blocks, reached, structure)
    except _Unclear:
        return False
    return reached.isdisjoint(_CALLED_BY_DBT) and reached.isdisjoint(in_yaml)


def _reached_macros(blocks: Collection[_Block], reached: frozenset[str], structure: frozenset[str]) -> frozenset[str]:
    """The macros of a file whose result depends on what is ``reached``; raises where its structure may."""
    if not any(block.words & reached for block in blocks):
        return frozenset()
    local, macros, before = reached, frozenset[str](), 0
    while len(local) + len(macros) != before:
        before = len(local) + len(macros)
        opened: list[_Open] = []
        for block in blocks:
            depends = bool(block.words & local) or any(outer.doubtful for outer in opened)
            if depends:
                if block.names & structure - ({block.tag} if block.tag else set()):
                    raise _Unclear
                local |= _spread(block, opened)
                macros |= frozenset().union(*(outer.names for outer in opened if outer.tag == "macro"))
            macros |= _step(block, opened, bool(block.words & local))
        if opened:
            raise _Unclear
    return macros


def _spread(block: _Block, opened: Collection[_Open]) -> frozenset[str]:
    """The names that hold something of the variable after this block of code."""
    if any(outer.tag in ("call", "filter", "raw") for outer in opened):
        raise _Unclear  # whoever is called there gets it
    names = frozenset[str]().union(*(outer.names for outer in opened if outer.tag == "set block"))
    if block.tag in ("set", "set block", "for"):
        names |= _targets(block)
    elif block.tag == "do":
        names |= block.names - {"do"}  # lists and dictionaries change in place
    return names


def _step(block: _Block, opened: list[_Open], hit: bool) -> frozenset[str]:
    """Enter or leave what this block of code begins or ends; the macro that is reached by its header alone."""
    tag = block.tag
    if tag.startswith("end"):
        if not opened or opened.pop().tag.split()[0] != tag[3:]:
            raise _Unclear
    elif tag in ("if", "for"):
        opened.append(_Open(tag, frozenset(), hit))
    elif tag in ("elif", "else"):
        if not opened:
            raise _Unclear
        opened[-1].doubtful |= hit
    elif tag == "set block":
        opened.append(_Open(tag, _targets(block)))
    elif tag == "macro":
        header = _MACRO.match(block.text)
        names = frozenset[str]() if header is None else _called(header[1])
        opened.append(_Open(tag, names))
        return names if hit else frozenset()
    elif tag in _OPENING and tag != "set":
        if hit:
            raise _Unclear
        opened.append(_Open(tag, frozenset()))
    elif tag not in ("", "set", "do"):
        raise _Unclear
    return frozenset()
