"""From what a person says to what a service runs: reads the configuration as the service will, and looks at the roots.

Nothing is changed here.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from selfheald.config import FILE_VARIABLE, Config, config_sources, load_config, require_roots
from selfheald.config_layers import PREFIX
from selfheald.config_places import own_python
from selfheald.config_values import has_placeholder, is_loopback
from selfheald.errors import InitializationError
from selfheald.marker import installed_version
from selfheald.service.order import Given, Order, Reach
from selfheald.service.unit_text import HOMES, TEMPORARY, is_below
from selfheald.workspace import merge_roots


def planned(given: Given, environ: Mapping[str, str]) -> tuple[Order, Config]:
    """What the service is to run, and its configuration.

    ``environ`` is the person's: of its settings the service will know nothing, so that only the file counts that it
    names. Raises ``config_invalid`` for a wrong configuration, for roots that are no folders, and for what the
    service could not see.
    """
    config = load_config(
        given.config or environ.get(FILE_VARIABLE) or None,
        {"watch.roots": list(given.roots)} if given.roots else {},
        {name: value for name, value in environ.items() if not name.startswith(PREFIX)},
    )
    file = config_sources(config).file
    python = own_python()
    given = replace(given, config=None if file is None else str(file), python=str(python))
    _require_roots(config)
    roots = merge_roots(list(config.watch.roots))
    writable = [*roots, *(folder for folder in _own_folders(config) if not is_below(folder, roots))]
    order = Order(
        given=given,
        python=python,
        roots=tuple(roots),
        writable=tuple(dict.fromkeys(writable)),
        grace=config.shutdown.grace,
        version=installed_version(),
        reach=_reach(config.metrics.listen),
    )
    if given.system:
        _require_visible(order, config)
    return order, config


def unheard(environ: Mapping[str, str]) -> list[str]:
    """What this environment sets here and not in the service, a sentence for each variable."""
    ours = (name for name in sorted(environ) if name.startswith(PREFIX))
    names = [name for name in ours if "__" in name or name == f"{PREFIX}STATE_DIR"]
    return [f"{name} is set here, and not for the service: put it into selfheald.toml" for name in names]


def _reach(listen: str | None) -> Reach:
    if listen is None:
        return "nobody"
    return "this machine" if is_loopback(listen.rpartition(":")[0]) else "others"


def _require_roots(config: Config) -> None:
    require_roots(config, "selfheald service install")
    for root in config.watch.roots:
        if not os.path.isdir(root):  # noqa: PTH112 - never raises
            there = os.path.lexists(root)
            raise InitializationError(
                f"the root {root} {'is not a folder that can be reached' if there else 'does not exist'}",
                code="config_invalid",
                path=root,
                hint=f"mkdir -p {shlex.quote(str(root))}, or correct watch.roots.",
            )


def _own_folders(config: Config) -> Iterator[Path]:
    """Folders of the daemon's own that the configuration names: the service manager makes, and opens, only its own."""
    origins = config_sources(config).origins
    if origins.get("state_dir") == "file":
        yield Path(os.path.realpath(config.state_dir))
    if origins.get("log.file") == "file" and config.log.file is not None:
        yield Path(os.path.realpath(config.log.file.parent))


def _require_visible(order: Order, config: Config) -> None:
    """Raise for what the sandbox of a system's service hides.

    Workspaces below a home folder can be shown in it; programs cannot: whoever owns the home could exchange them.
    """
    # On macOS nothing is hidden, and homes are elsewhere.
    if sys.platform == "darwin":
        return
    for what, path in _needed(order, config):
        for each in dict.fromkeys((path, Path(os.path.realpath(path)))):
            if is_below(each, HOMES) and not (what == "watch.roots"):
                raise _hidden(what, each, "a home folder, which the service does not see")
            if is_below(each, TEMPORARY):
                raise _hidden(what, each, "a temporary folder, of which the service has its own")
    for root in order.roots:
        if root in HOMES:
            raise _hidden("watch.roots", root, "all home folders together; name the workspaces in them")


def _needed(order: Order, config: Config) -> Iterator[tuple[str, Path]]:
    yield "the interpreter", order.python
    yield "the interpreter's environment", Path(sys.prefix)
    yield "the interpreter's own Python", Path(sys.base_prefix)
    if order.given.config is not None:
        yield "the configuration", Path(order.given.config)
    yield from (("watch.roots", root) for root in order.roots)
    dbt = config.dbt
    for key in ("python", "project_dir", "profiles_dir"):
        path: Path | None = getattr(dbt, key)
        if path is not None and not has_placeholder(str(path)):
            yield f"dbt.{key}", path
    own = [folder for folder in order.writable if folder not in order.roots]
    yield from (("state_dir or log.file", folder) for folder in own)


def _hidden(what: str, path: Path, why: str) -> InitializationError:
    return InitializationError(
        f"{what} ({path}) is in {why}",
        code="config_invalid",
        path=path,
        hint=_CURES.get(what, "Put it elsewhere, for instance below /srv or /opt."),
    )


_INTERPRETER = (
    "Install selfheald where all can see it, and call it from there: sudo python3 -m venv /opt/selfheald && "
    "sudo /opt/selfheald/bin/python -m pip install selfheald; or install the service for yourself, without --system."
)
_CURES = {
    "the interpreter": _INTERPRETER,
    "the interpreter's environment": _INTERPRETER,
    "the interpreter's own Python": _INTERPRETER.replace("python3 -m venv", "/usr/bin/python3 -m venv"),
    "the configuration": "Put it into /etc/selfheald: sudo install -D -m 644 FILE /etc/selfheald/selfheald.toml.",
}
