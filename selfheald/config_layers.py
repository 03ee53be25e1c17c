"""Where settings come from: service folders, the file, environment variables, flags, each over the last.

A layer is flat: ``("watch", "settle")`` and its value, ``("dbt", "vars", "start_year")`` for each entry of
the tables that are the user's own, so that layers merge key by key and every value knows where it was set.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selfheald.config_file import Found, anchor, lines_of
from selfheald.config_model import keys, sections

Key = tuple[str | int, ...]

PREFIX = "SELFHEALD_"
_VARIABLE = re.compile(rf"{PREFIX}([A-Za-z0-9]+)__(.+)", re.DOTALL)
#: Tables whose entries are the user's own.
_FREE = (("dbt", "vars"), ("dbt", "env"))
#: What systemd tells a service about its folders, and what selfheald puts there.
_SERVICE_FOLDERS: Mapping[str, tuple[Key, str]] = {
    "STATE_DIRECTORY": (("state_dir",), ""),
    "LOGS_DIRECTORY": (("log", "file"), "selfheald.log"),
    "CACHE_DIRECTORY": (("templates", "dir"), "templates"),
}


@dataclass
class Layer:
    """One source of settings.

    ``origin`` is its name; ``values`` its settings; ``places`` the variable or flag that set each (a file's
    lines are looked up when they are needed); ``problems`` what is no setting at all, a line each.
    """

    origin: str
    values: dict[Key, Any] = field(default_factory=dict)
    places: dict[Key, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def put(self, values: Mapping[Key, Any], place: str) -> None:
        """Take settings that were all made at ``place``; they win over those taken before."""
        self.values.update(values)
        self.places.update(dict.fromkeys(values, place))


def service_layer(environ: Mapping[str, str]) -> Layer:
    """The folders that a service manager has made for this service."""
    layer = Layer("service")
    for variable, (key, below) in _SERVICE_FOLDERS.items():
        # With several folders, separated by colons, the first is the main one.
        folder = environ.get(variable, "").partition(":")[0]
        if folder:
            layer.put({key: str(Path(folder) / below)}, f"${variable}")
    return layer


def file_layer(found: Found) -> Layer:
    """The configuration file. Its relative paths count from its own folder."""
    layer = Layer("file")
    if found.path is None or found.data is None:
        return layer
    data = anchor(found.data, found.path.parent)
    wrong = [name for name in sections() if not isinstance(data.get(name, {}), Mapping)]
    lines = lines_of(found.text, [(name,) for name in wrong])
    for name in wrong:
        del data[name]
        where = f"{found.path}:{lines[(name,)]}" if (name,) in lines else f"{found.path}"
        layer.problems.append(f"{where}: {name} should be a section, [{name}]")
    layer.values = dict(_flat(data))
    return layer


def environment_layer(environ: Mapping[str, str]) -> Layer:
    """``SELFHEALD_SECTION__KEY`` and ``SELFHEALD_STATE_DIR``; other ``SELFHEALD_`` names are somebody else's.

    ``SELFHEALD_DBT__VARS__NAME`` and ``SELFHEALD_DBT__ENV__NAME`` set one entry each.
    """
    layer = Layer("environment")
    # In this order SELFHEALD_DBT__VARS comes before its single entries, which therefore win.
    for variable in sorted(environ):
        try:
            key = _key_of(variable)
            if key is not None:
                layer.put(_settings_of(key, environ[variable]), variable)
        except ValueError as error:
            layer.problems.append(f"{variable}: {error}")
    return layer


def flag_layer(overrides: Mapping[str, Any]) -> Layer:
    """Flags, as ``{"log.level": "DEBUG"}`` or ``{"log": {"level": "DEBUG"}}``. None means "not given"."""
    nested: dict[str, Any] = {}
    for name, value in overrides.items():
        section, dot, key = name.partition(".")
        if dot:
            nested.setdefault(section, {})[key] = value
        elif isinstance(value, Mapping):
            nested.setdefault(section, {}).update(value)
        else:
            nested[name] = value
    layer = Layer("command line")
    layer.put({key: value for key, value in _flat(nested) if value is not None}, "command line")
    return layer


def merged(layers: Sequence[Layer]) -> dict[str, Any]:
    """All settings as nested tables; of two for one key, the later layer's."""
    whole: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.values.items():
            table = whole
            for step in key[:-1]:
                below = table.get(str(step))
                # A table over something that is none, such as an entry over `vars = 5`: the table wins.
                table[str(step)] = table = below if isinstance(below, dict) else {}
            table[str(key[-1])] = value
    return whole


def place_of(key: Key, layers: Sequence[Layer]) -> str | None:
    """The variable or flag that set ``key`` or what is above or below it; None if the file did."""
    for layer in reversed(layers):
        for known in layer.values:
            if known[: len(key)] == key[: len(known)]:
                return layer.places.get(known)
    return None


def dotted(key: Key) -> str:
    """``required.tables[0].name``."""
    text = ""
    for step in key:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += f".{step}" if text else step
    return text


def _flat(data: Mapping[str, Any]) -> Iterator[tuple[Key, Any]]:
    known = sections()
    for name, value in data.items():
        if name not in known or not isinstance(value, Mapping):
            yield (name,), value
            continue
        for key, item in value.items():
            if (name, key) in _FREE and isinstance(item, Mapping):
                yield from (((name, key, entry), inner) for entry, inner in item.items())
            else:
                yield (name, key), item


def _key_of(variable: str) -> Key | None:
    """The setting that a variable names; None if the name is not ours, ValueError if it is a wrong one."""
    if variable == f"{PREFIX}STATE_DIR":
        return ("state_dir",)
    match = _VARIABLE.fullmatch(variable)
    if not match:
        return None
    known = sections()
    section = match[1].lower()
    name, more, entry = match[2].partition("__")
    name = name.lower()
    if section not in known or name not in keys(known[section]) or (more and (section, name) not in _FREE):
        raise ValueError(f"unknown variable{_nearest_variable(section, name)}")
    if not more:
        return (section, name)
    # dbt's variables have small names as a rule; names of the environment are what they are.
    return (section, name, entry if name == "env" else entry.lower())


def _settings_of(key: Key, text: str) -> dict[Key, Any]:
    """The setting that a variable's text stands for; a JSON object gives one for each entry."""
    stripped = text.strip()
    if len(key) == 3:
        return {key: text if key[1] == "env" else _json_or_text(text)}
    if key in _FREE:
        value = _json(stripped, "a JSON object") if stripped else {}
        if not isinstance(value, dict):
            raise ValueError("should be a JSON object")
        return {(*key, name): item for name, item in value.items()}
    if not _is_list(key):
        return {key: text}
    if stripped.startswith(("[", "{")):
        return {key: _json(stripped, "a JSON list")}
    if key == ("dbt", "vars_command"):
        return {key: text}
    return {key: [part.strip() for part in text.split(",") if part.strip()]}


def _is_list(key: Key) -> bool:
    if len(key) != 2:
        return False
    info = keys(sections()[str(key[0])])[str(key[1])]
    return isinstance(info.get_default(call_default_factory=True), tuple)


def _json(text: str, expected: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(f"should be {expected}, and is not JSON") from None


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _nearest_variable(section: str, name: str) -> str:
    names = [f"{PREFIX}{one}__{key}".upper() for one, model in sections().items() for key in keys(model)]
    near = difflib.get_close_matches(f"{PREFIX}{section}__{name}".upper(), names, n=1, cutoff=0.8)
    return f"; did you mean {near[0]}?" if near else ""
