"""The configuration: read once, checked as a whole, frozen.

:func:`load_config` is what everything starts with. Flags win over ``SELFHEALD_SECTION__KEY`` environment
variables, these over the file, that over the defaults.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from selfheald import notify
from selfheald.config_file import Found, find, lines_of
from selfheald.config_layers import (
    Key,
    Layer,
    dotted,
    environment_layer,
    file_layer,
    flag_layer,
    merged,
    place_of,
    service_layer,
)
from selfheald.config_model import (
    Config,
    DbtConfig,
    HistoryConfig,
    LimitsConfig,
    LogConfig,
    MetricsConfig,
    RequiredConfig,
    RequiredTableConfig,
    RetryConfig,
    ShutdownConfig,
    Sources,
    TemplatesConfig,
    WatchConfig,
    keys,
    sections,
)
from selfheald.config_places import bundled_project_dir
from selfheald.config_text import is_private, show, show_toml, template
from selfheald.config_values import is_loopback, render
from selfheald.errors import InitializationError

__all__ = [
    "Config",
    "DbtConfig",
    "HistoryConfig",
    "LimitsConfig",
    "LogConfig",
    "MetricsConfig",
    "RequiredConfig",
    "RequiredTableConfig",
    "RetryConfig",
    "ShutdownConfig",
    "Sources",
    "TemplatesConfig",
    "WatchConfig",
    "bundled_project_dir",
    "child_environment",
    "config_sources",
    "load_config",
    "render",
    "require_roots",
    "show",
    "show_toml",
    "template",
    "warnings",
]

#: Names a configuration file, as ``--config`` does.
FILE_VARIABLE = "SELFHEALD_CONFIG"
#: What a child must not inherit: it speaks of the daemon itself, or of the daemon's interpreter alone.
_NOT_INHERITED = notify.OWN_NAMES | {"DATABASE_PATH", "PYTHONHOME", "__PYVENV_LAUNCHER__"}
#: The longest value that an error message quotes, in characters.
_QUOTED = 80


def load_config(
    path: str | os.PathLike[str] | None = None,
    overrides: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Config:
    """The effective configuration.

    ``path`` is the file to use (else ``$SELFHEALD_CONFIG``, else the first that is found and may be trusted);
    ``overrides`` are the flags, as ``{"log.level": "DEBUG"}`` or nested, where None means "not given";
    ``environ`` stands for the process's environment. Raises ``InitializationError`` with the code
    ``config_invalid``, whose message has one line for each problem.
    """
    environ = os.environ if environ is None else environ
    explicit = path if path is not None else environ.get(FILE_VARIABLE) or None
    found = find(explicit, environ.get("CONFIGURATION_DIRECTORY"))
    layers = [
        service_layer(environ),
        file_layer(found),
        environment_layer(environ),
        flag_layer(overrides or {}),
    ]
    problems = [problem for layer in layers for problem in layer.problems]
    config = None
    try:
        config = Config.model_validate(merged(layers))
    except ValidationError as error:
        problems += _explained(error, layers, found)
    if problems or config is None:
        raise InitializationError(
            "\n".join(dict.fromkeys(problems)), code="config_invalid", path=found.path or explicit
        )
    origins = {dotted(key): layer.origin for layer in layers for key in layer.values}
    return config.with_sources(Sources(found.path, found.notices, origins))


def config_sources(config: Config) -> Sources:
    """Which file a configuration came from, what was passed over, and which keys were set where."""
    return config.sources


def warnings(config: Config) -> list[str]:
    """What is allowed but hardly meant, a sentence each. It looks at the disk, at this moment."""
    found = list(config.sources.notices)
    if not config.watch.roots:
        found.append("watch.roots: no folder to watch is configured; `selfheald run` needs ROOT arguments")
    # Not by pathlib, which raises where a folder above may not be passed.
    roots = [root for root in config.watch.roots if not os.path.isdir(root)]  # noqa: PTH112
    found += [f"watch.roots: {root} is not a folder" for root in roots]
    project = config.dbt.project_dir
    if project.is_absolute() and not os.path.isfile(project / "dbt_project.yml"):  # noqa: PTH113
        found.append(f"dbt.project_dir: {project} holds no dbt_project.yml")
    if not os.access(config.dbt.python, os.X_OK):
        found.append(f"dbt.python: {config.dbt.python} is not a program that you may run")
    host = (config.metrics.listen or "127.0.0.1:0").rpartition(":")[0]
    if not is_loopback(host):
        found.append(f"metrics.listen: other machines can reach {host}, and nobody is asked for a password")
    file = config.sources.file
    if file is not None and config.dbt.env and file.is_file() and file.stat().st_mode & 0o004:
        found.append(f"dbt.env: everybody here can read {file}; `chmod 600` it if it holds secrets")
    return found


def require_roots(config: Config, command: str) -> None:
    """Raise ``config_invalid`` if there is no folder to watch; ``command`` is the one that takes some."""
    if not config.watch.roots:
        raise InitializationError(
            "there is no folder to watch",
            code="config_invalid",
            path=config_sources(config).file,
            hint=f"Name one: `{command} ROOT`, or set watch.roots in selfheald.toml.",
        )


def child_environment(
    extra: Mapping[str, str] | None = None, environ: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The environment of a child process: this process's own with ``extra`` over it.

    Left out are selfheald's own settings, what a service manager says to the daemon alone, and what would
    bend another interpreter.
    """
    environ = os.environ if environ is None else environ
    inherited = {
        name: value
        for name, value in environ.items()
        if name not in _NOT_INHERITED and not name.startswith("SELFHEALD_")
    }
    return inherited | dict(extra or {})


def _explained(error: ValidationError, layers: Sequence[Layer], found: Found) -> list[str]:
    """A line for each problem: where it is, which key, what is wrong. Those of the file come in its order."""
    details = error.errors(include_url=False)
    locations = [_location(detail) for detail in details]
    lines = lines_of(found.text, {key[:end] for key in locations for end in range(1, len(key) + 1)})
    explained: list[tuple[int, str]] = []
    for key, detail in zip(locations, details, strict=True):
        number = 0
        place = place_of(key, layers)
        if place is None and found.path is None:
            place = "configuration"
        elif place is None:
            number = next((lines[key[:end]] for end in range(len(key), 0, -1) if key[:end] in lines), 0)
            place = f"{found.path}:{number}" if number else f"{found.path}"
        explained.append((number, f"{place}: {dotted(key)}{_problem(key, detail)}"))
    return [text for _, text in sorted(explained, key=lambda one: one[0])]


def _location(detail: ErrorDetails) -> Key:
    key: Key = detail["loc"]
    return (*key, detail["ctx"]["key"]) if detail["type"] == "config_fault" else key


def _problem(key: Key, detail: ErrorDetails) -> str:
    """What is wrong with a key, as the rest of a sentence."""
    kind = detail["type"]
    if kind == "extra_forbidden":
        return f": unknown key{_nearest_key(key)}"
    if kind == "missing":
        return " is missing"
    if kind == "config_fault":
        return f" {detail['msg']}"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        message = "should be a table"
    elif kind == "tuple_type":
        message = "should be a list"
    else:
        message = detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
        message = re.sub(r", unable to .*$|^\w+ (?=should )", "", message)
    given = detail["input"]
    if isinstance(given, (str, int, float)) and not is_private(key):
        text = json.dumps(given, ensure_ascii=False)
        message += f" (it is {text if len(text) <= _QUOTED else text[: _QUOTED - 1] + '…'})"
    return f" {message}"


def _nearest_key(key: Key) -> str:
    """`; did you mean …?` with the key that an unknown one is nearest to, if any is near."""
    name = str(key[-1])
    known = sections()
    candidates: dict[str, str] = {}
    if len(key) == 1:
        candidates = {one: one for one in (*known, "state_dir")}
    elif len(key) == 2 and key[0] in known:
        candidates = {one: f"{key[0]}.{one}" for one in keys(known[str(key[0])])}
    elif key[:2] == ("required", "tables"):
        candidates = {one: f"{dotted(key[:-1])}.{one}" for one in keys(RequiredTableConfig)}
    near = difflib.get_close_matches(name.lower().replace("-", "_"), candidates, n=1)
    if near:
        return f"; did you mean {candidates[near[0]]}?"
    elsewhere = [f"{section}.{name}" for section, model in known.items() if name in keys(model)]
    return f"; did you mean {elsewhere[0]}?" if elsewhere else ""
