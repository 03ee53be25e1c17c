"""The configuration as text: what is in force (secrets hidden), and the commented file to begin with."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from selfheald.config_model import Config, keys, sections

HIDDEN = "<hidden>"
_SECRET = re.compile(r"passw|token|secret|key|credential|passphrase|private|pwd", re.IGNORECASE)
_LOGIN = re.compile(r"(?<=://)[^/@\s]+@")
#: What may be a secret in an address: what stands before an @ in it, and behind a ?.
_OF_ADDRESS = re.compile(r"[^/@\s]+(?=@)|(?<=\w\?)\S*=\S*")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
#: Keys of the model that hold sizes; they are written as people write them.
_SIZES = {
    ("templates", "max_bytes"),
    ("limits", "min_free_bytes"),
    ("limits", "max_input_bytes"),
    ("log", "rotation"),
}
#: Defaults that stand for something that moves with the installation: written as "", which means the same.
_BLANK = {("dbt", "project_dir"), ("dbt", "python")}

_PREFACE = """\
selfheald.toml: the configuration of selfheald.

Each key is shown with its default: take away the # before it to change it. Durations are in seconds; sizes
are numbers of bytes, or text such as "100 MB" or "2 GiB"; relative paths count from this file's folder.
SELFHEALD_SECTION__KEY environment variables win over this file. Check it with `selfheald config validate`.
Only you and root may be able to write to it, since it names commands.""".splitlines()


def show(config: Config) -> dict[str, Any]:
    """The effective configuration as JSON knows it: sizes in bytes, secrets hidden."""
    return {name: _hidden((name,), value) for name, value in _plain(config).items()}


def show_toml(config: Config, *, discreet: bool = False) -> str:
    """The effective configuration as TOML, secrets hidden; a comment tells what is not at its default.

    ``discreet`` hides all values of the user's own words, whatever they are called: for who is not to know them.
    """
    origins = config.sources.origins
    lines = []
    shown = show(config)
    if discreet:
        shown = _bare_addresses(shown)
        shown["dbt"] = {
            key: _covered(value) if is_private(("dbt", key)) else value for key, value in shown["dbt"].items()
        }
    blocks: list[tuple[str, dict[str, Any]]] = [("", {"state_dir": shown["state_dir"]})]
    blocks += [(name, shown[name]) for name in sections()]
    for section, table in blocks:
        if section:
            lines += ["", f"[{section}]"]
        for key, value in table.items():
            dotted = f"{section}.{key}".lstrip(".")
            found = {origin for name, origin in origins.items() if f"{name}.".startswith(f"{dotted}.")}
            comment = f"  # {', '.join(sorted(found))}" if found else ""
            lines.append(f"{key} = {_toml(_sized(section, key, value))}{comment}")
    return "\n".join(lines) + "\n"


def template(roots: Iterable[str] = ()) -> str:
    """The file that ``config init`` writes: every key with its meaning, commented out at its default.

    ``roots`` are written as they are, not commented. A ``#`` without a space after it hides a setting, one
    with a space begins a comment: with all of the former taken away, the file still means the defaults.
    """
    watched = list(roots)
    lines = [*(f"# {line}".rstrip() for line in _PREFACE), ""]
    lines += _entry("", "state_dir", Config.model_fields["state_dir"])
    for name, model in sections().items():
        lines += ["", f"[{name}]"]
        for key, info in keys(model).items():
            lines += _entry(name, key, info)
            if (name, key) == ("watch", "roots") and watched:
                lines[-1] = f"roots = {_toml(watched)}"
    return "\n".join(lines) + "\n"


def default_of(section: str, key: str, info: FieldInfo) -> str:
    """A key's default as TOML; ``""`` where that stands for a default that moves with the installation."""
    if (section, key) in _BLANK:
        return '""'
    return _toml(_sized(section, key, _plain(info.get_default(call_default_factory=True))))


def is_private(key: Iterable[str | int]) -> bool:
    """True for keys whose values are never quoted: the user's own words, which may hold secrets."""
    steps = [str(step) for step in key]
    return steps[:1] == ["dbt"] and steps[1:2] in (["env"], ["vars"], ["vars_command"], ["pre_sql"])


def looks_secret(value: Any, name: str = "") -> bool:
    """True if a value, or anything in it, has a name of a secret's kind, or a login in an address."""
    if _SECRET.search(name):
        return True
    if isinstance(value, Mapping):
        return any(looks_secret(item, str(key)) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return any(map(looks_secret, value))
    return isinstance(value, str) and _LOGIN.search(value) is not None


def without_secrets(variables: Mapping[str, Any]) -> dict[str, Any]:
    """dbt variables as they may be shown to whoever looks at the terminal."""
    return {name: HIDDEN if looks_secret(value, str(name)) else value for name, value in variables.items()}


def _entry(section: str, key: str, info: FieldInfo) -> list[str]:
    words = (info.json_schema_extra or {}) if not callable(info.json_schema_extra) else {}
    text = str(info.description)
    if default := words.get("x-default"):
        text = f"{text} Default: {default}."
    return [*(f"# {line}" for line in textwrap.wrap(text, 100)), f"#{key} = {default_of(section, key, info)}"]


def _plain(value: Any) -> Any:
    """A value in JSON's own types; ``""`` for None."""
    if isinstance(value, BaseModel):
        return {key: _plain(getattr(value, name)) for key, name in _attributes(value).items()}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None:
        return ""
    return _printable(str(value)) if isinstance(value, (str, PurePath)) else value


def _attributes(model: BaseModel) -> dict[str, str]:
    return {info.alias or name: name for name, info in type(model).model_fields.items()}


def _printable(text: str) -> str:
    # Paths may hold bytes that are no UTF-8; neither TOML nor a terminal takes them.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _hidden(key: tuple[str, ...], value: Any) -> Any:
    """``value`` without its secrets."""
    if key[:2] == ("dbt", "env") and len(key) > 2:
        return HIDDEN
    if key[:2] == ("dbt", "vars") and len(key) > 2 and _SECRET.search(key[-1]):
        return HIDDEN
    if key == ("dbt", "vars_command"):
        return _hidden_arguments(value)
    if key == ("dbt", "pre_sql") and _SECRET.search(value):
        return HIDDEN
    if isinstance(value, dict):
        return {name: _hidden((*key, name), item) for name, item in value.items()}
    if isinstance(value, list):
        return [_hidden((*key, "") if isinstance(item, dict) else key, item) for item in value]
    return _LOGIN.sub(f"{HIDDEN}@", value) if isinstance(value, str) else value


def _bare_addresses(value: Any) -> Any:
    """Without what may be a secret in an address."""
    if isinstance(value, dict):
        return {key: _bare_addresses(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_bare_addresses(item) for item in value]
    return _OF_ADDRESS.sub(HIDDEN, value) if isinstance(value, str) else value


def _covered(value: Any) -> Any:
    """Names alone."""
    if isinstance(value, dict):
        return dict.fromkeys(value, HIDDEN)
    if isinstance(value, list):
        return [HIDDEN for _ in value]
    return HIDDEN if value else value


def private_words(config: Config) -> set[str]:
    """All texts in the user's own words, which may hold secrets: to be looked for where none may be."""
    dbt = config.dbt
    found = {*dbt.env.values(), *dbt.vars_command[1:], dbt.pre_sql or ""}
    todo: list[Any] = [dbt.vars]
    while todo:
        value = todo.pop()
        if isinstance(value, Mapping):
            todo += value.values()
        elif isinstance(value, (list, tuple)):
            todo += value
        elif isinstance(value, str):
            found.add(value)
    return found - {""}


def _hidden_arguments(arguments: list[str]) -> list[str]:
    """A command without the values in ``--token VALUE``, ``--token=VALUE`` or ``TOKEN=VALUE``."""
    shown: list[str] = []
    hide = False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        if hide:
            shown.append(HIDDEN)
            hide = False
        elif equals and _SECRET.search(name):
            shown.append(f"{name}={HIDDEN}")
        else:
            hide = name.startswith("-") and _SECRET.search(name) is not None
            shown.append(_LOGIN.sub(f"{HIDDEN}@", argument))
    return shown


def _sized(section: str, key: str, value: Any) -> Any:
    """Bytes as text with the largest unit that is exact, if there is one."""
    if (section, key) not in _SIZES or not isinstance(value, int) or not value:
        return value
    for step, units in ((1024, ("TiB", "GiB", "MiB", "KiB")), (1000, ("TB", "GB", "MB", "kB"))):
        for power, unit in zip((4, 3, 2, 1), units, strict=True):
            if value % step**power == 0:
                return f"{value // step**power} {unit}"
    return value


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, dict):
        inner = ", ".join(f"{_toml_key(key)} = {_toml(item)}" for key, item in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list):
        return f"[{', '.join(_toml(item) for item in value)}]"
    return repr(value)


def _toml_key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _toml(key)
