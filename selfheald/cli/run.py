"""``selfheald run``: the daemon in the foreground."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selfheald.cli.output import ConfigOption, configuration


def command(
    roots: Annotated[
        list[Path] | None,
        typer.Argument(metavar="ROOT", help="Folders to watch; they replace watch.roots.", show_default=False),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Watch folders and make the databases in them ready, until stopped by a signal.

    Example: selfheald run ~/workspaces
    """
    import anyio

    from selfheald import config as settings
    from selfheald import log
    from selfheald.daemon import serve
    from selfheald.errors import InitializationError

    overrides = {"watch.roots": [str(root.absolute()) for root in roots]} if roots else {}
    effective = configuration(config, overrides)
    if not effective.watch.roots:
        raise InitializationError(
            "there is no folder to watch",
            code="config_invalid",
            path=settings.config_sources(effective).file,
            hint="Name one: `selfheald run ROOT`, or set watch.roots in selfheald.toml.",
        )
    log.configure(effective.log)
    for warning in settings.warnings(effective):
        if not warning.startswith("watch.roots: "):  # a root that is missing at the start is an error, and told as one
            log.event_log("config_warning", warning, "WARNING")
    anyio.run(serve, effective)
