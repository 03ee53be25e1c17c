"""The templates of the services' files: inside an installed package, beside it in a checkout."""

from __future__ import annotations

from pathlib import Path

UNIT_OF_USER = "systemd/user/selfheald.service"
UNIT_OF_SYSTEM = "systemd/system/selfheald.service"
AGENT = "launchd/agent.plist"
DAEMON = "launchd/daemon.plist"


def template(name: str) -> str:
    """The text of one of the files above."""
    package = Path(__file__).absolute().parent.parent
    inside = package / f"_{name}"
    return (inside if inside.is_file() else package.parent / name).read_text(encoding="utf-8")
