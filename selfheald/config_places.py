"""The folders and files that the configuration's defaults name on this machine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import platformdirs


def bundled_project_dir() -> Path:
    """The dbt project that comes with selfheald: in an installed package, else beside it in a checkout."""
    package = Path(__file__).absolute().parent
    inside = package / "_dbt"
    return inside if inside.is_dir() else package.parent / "dbt"


def own_python() -> Path:
    """The interpreter that runs this process, links not followed: a virtual environment's is a link."""
    return Path(sys.executable)


def default_state_dir() -> Path:
    """The platform's state folder; ``/var/lib`` for a user without a home."""
    return _place(platformdirs.user_state_path, Path("/var/lib/selfheald"))


def default_log_file() -> Path:
    """``selfheald.log`` in the platform's log folder; in ``/var/log`` for a user without a home."""
    return _place(platformdirs.user_log_path, Path("/var/log/selfheald")) / "selfheald.log"


def default_templates_dir() -> Path:
    """``templates`` in the platform's cache folder; in ``/var/cache`` for a user without a home."""
    return _place(platformdirs.user_cache_path, Path("/var/cache/selfheald")) / "templates"


def _place(find: Callable[[str], Path], without_home: Path) -> Path:
    # Without $HOME and without an entry in the user database, some versions of platformdirs raise, others leave `~`.
    try:
        found = find("selfheald")
    except RuntimeError:
        return without_home
    return found if found.is_absolute() else without_home
