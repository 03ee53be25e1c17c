"""``selfheald run``: the daemon in the foreground."""

from __future__ import annotations

import signal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selfheald.cli.output import ConfigOption, configuration

if TYPE_CHECKING:
    from selfheald.config import Config


def command(
    roots: Annotated[
        list[Path] | None,
        typer.Argument(metavar="ROOT", help="Folders to watch; they replace watch.roots.", show_default=False),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Watch folders and make the databases in them ready, until stopped by a signal.

    SIGHUP has the configuration read again.

    Exit codes: 0 stopped by a signal, 1 failed, 2 wrong usage or configuration.

    Example: selfheald run ~/workspaces
    """
    # One that comes before anybody listens waits: by itself it would end the process.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    import anyio

    from selfheald import log
    from selfheald.config import require_roots
    from selfheald.daemon import serve
    from selfheald.errors import InitializationError
    from selfheald.notify import ServiceManager

    overrides = {"watch.roots": [str(root.absolute()) for root in roots]} if roots else {}
    with ServiceManager() as manager:
        try:
            effective = configuration(config, overrides)
            require_roots(effective, "selfheald run")
            place = log.configure_daemon(effective)
            _tell_warnings(effective)
            anyio.run(serve, effective, partial(_read_again, config, overrides), manager, place)
        except InitializationError as error:
            manager.failed(error)
            raise


def _read_again(path: Path | None, overrides: dict[str, Any]) -> Config:
    """The configuration as it is now, from where it came at the start."""
    from selfheald.config import load_config, require_roots

    config = load_config(path, overrides)
    require_roots(config, "selfheald run")
    _tell_warnings(config)
    return config


def _tell_warnings(config: Config) -> None:
    from selfheald.config import warnings
    from selfheald.log import event_log

    for warning in warnings(config):
        if not warning.startswith("watch.roots: "):  # a root that is missing at the start is an error, and told as one
            event_log("config_warning", warning, "WARNING")
