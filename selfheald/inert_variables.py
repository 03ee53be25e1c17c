"""Which variables a project's parse cannot depend on: they appear in what models say, not in what they are.

dbt renders every SQL file when it parses a project, but keeps of it only what the calls of ``config``, ``ref`` and
``source`` said, and what its YAML files say. A variable that reaches neither is *inert*: databases that differ in it
alone share one plan and one parse. Why that is safe:

1. Code gets at a variable only by ``var('its name')``: every other use of ``var``, or of a macro that passes a name on
   to it, and whatever reaches a thing without naming it, makes all variables count.
2. From there its value is followed, step by step, to whatever may hold something of it: a name that is set, what a call
   may change in place, the macro that it is in, what happens under a condition on it. Names are not told apart by where
   they stand, nor is one ever free of it again, so more is followed than is so.
3. It counts if a step that may hold something of it names what calls ``config``, ``ref`` or ``source`` (a function may
   go by another name), if a YAML file's code mentions what holds it, or if a macro that dbt calls for each node does.

Whatever is not understood makes every variable count: that costs time, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import PurePath
from typing import Any

from jinja2 import nodes

from selfheald import jinja_code
from selfheald.jinja_code import SHARED, STRUCTURE, WORD, Step, Unclear, called

#: dbt calls these while it parses, for every node.
_CALLED_BY_DBT = frozenset({"generate_alias_name", "generate_schema_name", "generate_database_name"})
#: What dbt and Jinja offer beside macros. Any other name that no macro of the project has is one of dbt's own macros,
#: which may call one of the project's that has replaced another of dbt's.
_OFFERED = frozenset(
    "var env_var ref source config metric function return log print set set_strict zip zip_strict fromjson tojson "
    "fromyaml toyaml local_md5 diff_of_two_dicts doc debug load_result run_query is_incremental caller range dict "
    "namespace cycler joiner lipsum loop".split()
)


def inert_variables(files: Mapping[str, str], variables: Mapping[str, Any]) -> frozenset[str]:
    """The names of those ``variables`` that no parse of these files (their names, their texts) can depend on."""
    wanted = [name for name, value in variables.items() if WORD.fullmatch(name) and not isinstance(value, dict)]
    try:
        judge = _Judge(files, variables)
    except Unclear:
        return frozenset()
    return frozenset(name for name in wanted if judge.is_inert(name))


class _Judge:
    """All that is known of a project's code. Raises :class:`Unclear` when it is made."""

    def __init__(self, files: Mapping[str, str], variables: Mapping[str, Any]) -> None:
        sql = [jinja_code.parsed(text) for name, text in files.items() if name.lower().endswith(".sql")]
        properties = {name: text for name, text in files.items() if name.lower().endswith((".yml", ".yaml"))}
        projects = [text for name, text in properties.items() if PurePath(name).name == "dbt_project.yml"]
        values = [code for text in jinja_code.texts_in(list(variables.values())) for code in _value(text)]
        yaml = [code for text in properties.values() for code in jinja_code.expressions(text)]
        late = [code for each in chain(sql, yaml, values) for code in jinja_code.late_code(each)]
        names = frozenset(name for text in projects if (name := jinja_code.project_name(text)) is not None)
        for code in chain(sql, yaml, values, late):
            jinja_code.require_plain(code, names)
        self._macros = frozenset(
            name for code in sql for macro in jinja_code.macros(code) for name in called(macro.name)
        )
        if self._macros & {*STRUCTURE, "var"}:
            raise Unclear
        _require_literal_names([*sql, *yaml, *values, *late])
        self._files = [jinja_code.steps(code) for code in sql]
        self._structure = _structure(self._files)
        given = (code for text in projects for code in jinja_code.default_values(text))
        if any(self._structure & step.names for code in chain(values, given) for step in jinja_code.steps(code)):
            raise Unclear  # to ask for that variable is to call it
        self._in_yaml = frozenset(word for code in chain(yaml, values) for word in jinja_code.words(code))
        everything = (step.unknown for steps in self._files for step in steps)
        self._unknown = frozenset(chain.from_iterable(everything)) - self._macros - _OFFERED

    def is_inert(self, variable: str) -> bool:
        """Follow what may hold something of it, until that is all or it counts."""
        reached, before = frozenset({variable}), 0
        held = [frozenset[str]() for _ in self._files]
        while len(reached) + sum(map(len, held)) != before:
            before = len(reached) + sum(map(len, held))
            for number, steps in enumerate(self._files):
                for step in steps:
                    here = reached | held[number]
                    if step.words.isdisjoint(here) and all(outer.words.isdisjoint(here) for outer in step.outer):
                        continue
                    if step.names & self._structure or any(outer.hidden for outer in step.outer):
                        return False
                    reached |= frozenset().union(*(outer.names for outer in step.outer if outer.macro))
                    reached |= step.gets & SHARED
                    held[number] |= step.gets.union(*(outer.names for outer in step.outer))
            if reached & self._macros:
                reached |= self._unknown
        return reached.isdisjoint(_CALLED_BY_DBT | self._in_yaml)


def _value(text: str) -> list[nodes.Template]:
    """The code of a variable's value: dbt renders it when it is asked for."""
    return [jinja_code.parsed(text)] if "{" in text else []


def _structure(files: Iterable[Sequence[Step]]) -> frozenset[str]:
    """What may call ``config``, ``ref`` or ``source``: these, each macro that names such, other names of such."""
    steps = [step for file in files for step in file]
    found, before = STRUCTURE, 0
    while len(found) != before:
        before = len(found)
        for step in steps:
            if step.names & found:
                found |= frozenset().union(*(outer.names for outer in step.outer if outer.macro))
            if step.handed_on & found:
                found |= step.gets
    return found


def _require_literal_names(code: Iterable[nodes.Node]) -> None:
    """Raise :class:`Unclear` unless each variable is asked for by a name that stands there.

    ``var`` itself is called with a text; a macro that passes its first parameter on to ``var`` is called so too.
    """
    uses = [use for each in code for use in jinja_code.uses(each)]
    asking, before = frozenset({"var"}), 0
    while len(asking) != before:
        before = len(asking)
        for use in uses:
            if use.name in asking and use.macro is not None and _is_passed_on(use.argument, use.macro):
                asking |= called(use.macro.name)
    for use in uses:
        literal = isinstance(use.argument, nodes.Const) and isinstance(use.argument.value, str)
        if use.name in asking and not literal and not (use.macro and _is_passed_on(use.argument, use.macro)):
            raise Unclear


def _is_passed_on(argument: nodes.Node | None, macro: nodes.Macro) -> bool:
    """True if it is the macro's first parameter, as it was given."""
    return (
        isinstance(argument, nodes.Name)
        and [each.name for each in macro.args[:1]] == [argument.name]
        and len(macro.defaults) < len(macro.args)
        and argument.name not in jinja_code.assigned(macro.body)
    )
