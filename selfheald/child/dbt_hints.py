"""The next step after what dbt said: which file to mend at which line, what to set, which command to run."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Any, NamedTuple, Optional

from error_places import failing_line, jinja_line, line_with, named_by, ragged_line, source_line
from saved_parse import sources

_ENV_VAR = re.compile(r"Env var required but not provided: '(?P<name>[^']+)'")
_VAR = re.compile(r"Required var '(?P<name>[^']+)' not found")
_UNDEFINED = re.compile(r"'(?P<name>\w+)' is undefined")
_NOT_THERE = re.compile(r"depends on a (?P<kind>node|source) named '(?P<name>[^']+)'.* which (?:was not found|is dis)")
_REQUIRES = re.compile(r"Required version of dbt[^:]*: (?P<range>.+)")
_CSV_LINE = re.compile(r"CSV Error on Line: (?P<number>\d+)")
_CSV_COLUMN = re.compile(r'converting column "(?P<name>[^"]+)"')
_TRY_AGAIN = "then try again"


class Advice(NamedTuple):
    """The file to mend, where dbt's words lead to one that they don't name, and what to do."""

    file: Optional[Path]
    hint: Optional[str]


def of_profile(message: str) -> str:
    """After a profile that could not be resolved."""
    missing = _ENV_VAR.search(message)
    if missing is not None:
        return _set_environment(missing["name"])
    if "does not have a target named" in message:
        return f"Correct dbt.target, or add that target to the profile, {_TRY_AGAIN}."
    if "Could not find profile named" in message:
        return f"Let `profile` in dbt_project.yml name a profile of that file, {_TRY_AGAIN}."
    return f"Mend the profile (`dbt debug` shows the same error), {_TRY_AGAIN}."


def of_project(message: str, project_dir: Path, file: Optional[Path]) -> Advice:
    """After a project that could not be parsed; ``file`` is the one that dbt names, if any."""
    if 'Run "dbt deps"' in message:
        deps = shlex.join([sys.executable, "-m", "dbt.cli.main", "deps", "--project-dir", str(project_dir)])
        return Advice(file, f"Install its packages, {_TRY_AGAIN}: {deps}")
    missing = _ENV_VAR.search(message)
    if missing is not None:
        return Advice(_only_file_with(f"env_var('{missing['name']}'", project_dir), _set_environment(missing["name"]))
    requires = _REQUIRES.search(message)
    if requires is not None:
        return Advice(file, f"Install dbt-core {requires['range']} beside {sys.executable}, or name it in dbt.python.")
    if "with the name" in message:
        return Advice(file, f"Rename or disable one of them, {_TRY_AGAIN}.")
    if "Found a cycle" in message:
        return Advice(file, f"Let one model of the cycle not `ref` the next, {_TRY_AGAIN}.")
    text = _text(file)
    lost = _NOT_THERE.search(message)
    if lost is not None:
        name = lost["name"].rpartition(".")[2]
        what = "model or seed" if lost["kind"] == "node" else "source"
        return Advice(file, f"Correct the name{_at(line_with(name, text))}, or add that {what}, {_TRY_AGAIN}.")
    unknown = _UNDEFINED.search(message)
    if unknown is not None:
        return Advice(file, _define(unknown["name"], line_with(unknown["name"], text)))
    if file is None:
        file = _file_with_quoted_line(message, project_dir)
        text = _text(file)
    place = _at(jinja_line(message, text))
    return Advice(
        file, f"Mend the dbt project{place} (`dbt parse` shows the same error), {_TRY_AGAIN}." if place else None
    )


def of_model(message: str, node: Any, file: Optional[str], kept_sql: Optional[Path]) -> Optional[str]:
    """After a model that failed; ``kept_sql`` is where its compiled SQL was put, if it came that far."""
    text = _text(None if file is None else Path(file))
    unset = _VAR.search(message)
    if unset is not None:
        return f"Set it in selfheald.toml: dbt.vars.{unset['name']}{_read_at(line_with(unset['name'], text))}."
    missing = _ENV_VAR.search(message)
    if missing is not None:
        return _set_environment(missing["name"])
    unknown = _UNDEFINED.search(message)
    if unknown is not None:
        return _define(unknown["name"], line_with(unknown["name"], text))
    if "enforced contract that failed" in message:
        seen = "" if kept_sql is None else f"; its SQL is in {kept_sql}"
        return f"Mend the model, or the columns of its contract{seen}."
    compiled = getattr(node, "compiled_code", None) or ""
    if kept_sql is None:
        return None
    line, name = failing_line(message, compiled), named_by(message)
    if line is None and name is not None and line_with(name, compiled) is None:
        hook = next((hook.sql for hook in _hooks(node) if name in hook.sql and name not in compiled), None)
        if hook is not None:
            return f"Mend the model's hook: {' '.join(hook.split())}"
    if line is None:
        return f"Mend the model; the SQL that failed is in {kept_sql}."
    own = source_line(line, compiled, text) if str(file).endswith(".sql") else None
    return f"Mend the model{_at(own)}; the SQL that failed is in {kept_sql}, line {line}."


def of_seed(message: str, node: Any, file: Path) -> Optional[str]:
    """After a seed that could not be loaded."""
    wrong, column = _CSV_LINE.search(message), _CSV_COLUMN.search(message)
    if wrong is not None:
        types = f", or the type of {column['name']} in column_types" if column else ""
        return f"Mend line {wrong['number']} of {file}{types}, {_TRY_AGAIN}."
    line = ragged_line(_text(file), getattr(node.config, "delimiter", None) or ",")
    return None if line is None else f"Mend line {line} of {file}, {_TRY_AGAIN}."


def _set_environment(name: str) -> str:
    return f"Set it: dbt.env.{name} in selfheald.toml, or {name} in the environment that selfheald runs in."


def _define(name: str, line: Optional[int]) -> str:
    place = ", or a macro that it calls" if line is None else _at(line)
    return f"Mend the model{place}: no macro or variable is called {name}; or let `dbt deps` install what has it."


def _at(line: Optional[int]) -> str:
    return "" if line is None else f" at line {line}"


def _read_at(line: Optional[int]) -> str:
    return "" if line is None else f" (line {line} of the model reads it)"


def _hooks(node: Any) -> Any:
    return [*getattr(node.config, "pre_hook", ()), *getattr(node.config, "post_hook", ())]


def _text(file: Optional[Path]) -> str:
    try:
        return "" if file is None else file.read_text(encoding="utf-8-sig", errors="replace")
    except OSError:
        return ""


def _only_file_with(words: str, project_dir: Path) -> Optional[Path]:
    found = [file for file in sources(project_dir) if words in _text(file).replace('"', "'")]
    return found[0] if len(found) == 1 else None


def _file_with_quoted_line(message: str, project_dir: Path) -> Optional[Path]:
    """dbt says of a macro only which line is wrong, and what stands there."""
    found = [file for file in sources(project_dir, ".sql") if jinja_line(message, _text(file)) is not None]
    return found[0] if len(found) == 1 else None
