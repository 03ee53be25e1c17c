"""selfheald as a service of systemd or launchd: what its file says, and installing it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from selfheald.config import Config


def start_command(path: Path) -> str | None:
    """What a person types to start an installed service that watches ``path``; ``None`` if there is none."""
    import os

    from selfheald.service import installing

    return installing.start_command(path, os.environ)


def diagnose(config: Config) -> list[tuple[str, str, str | None]]:
    """How the installed services stand, for `selfheald doctor`: status, message and hint of each thing there is to say.

    Whether one's file is up to date is judged by what was said when it was installed, not by ``config``.
    """
    import os

    from selfheald.service.installing import manager_for, standing
    from selfheald.service.judgement import judged, none_installed

    del config
    told = []
    for system in (False, True):
        found = standing(manager_for(system, os.environ), os.environ)
        told += judged(found, system=system) if found.given is not None else []
    return told or none_installed()
