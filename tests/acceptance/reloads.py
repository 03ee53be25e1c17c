"""A daemon that a test has read its configuration again."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

from fixtures.waiting import wait_for
from processes import Daemon, Selfheald
from service_manager import Manager


class Reloaded:
    """A daemon whose configuration is a file that a test rewrites."""

    def __init__(self, selfheald: Selfheald, folder: Path, manager: Manager) -> None:
        self.file = folder / "selfheald.toml"
        self.manager = manager
        self.settings: dict[str, Any] = {"watch.rescan": 60}
        environ = selfheald.environment | manager.environment | {"SELFHEALD_CONFIG": str(self.file)}
        self.daemon = Selfheald(selfheald.folder, environ).daemon()

    def start(self, *roots: Path, **settings: Any) -> Daemon:
        """Start it with that configuration."""
        self.write(*roots, **settings)
        self.daemon.start(ready=False)
        wait_for(lambda: self.manager.said("READY=1"), what=self.daemon.told)
        return self.daemon

    def write(self, *roots: Path, **settings: Any) -> None:
        """Change the file."""
        self.settings |= {name.replace("__", "."): value for name, value in settings.items()}
        lines = [f"{name} = {json.dumps(value)}" for name, value in self.settings.items()]
        self.file.write_text("\n".join([f"watch.roots = {json.dumps(list(map(str, roots)))}", *lines]) + "\n")

    def hang_up(self) -> None:
        """Ask for a reload."""
        os.kill(self.daemon.pid, signal.SIGHUP)

    def reload(self, *roots: Path, **settings: Any) -> str:
        """Change the file, ask for a reload, wait for its end; what the log says of it."""
        done = len(self.ends())
        self.write(*roots, **settings)
        self.hang_up()
        return wait_for(lambda: "\n".join(self.ends()[done:]), what=self.daemon.told)

    def ends(self) -> list[str]:
        """How the reloads so far ended."""
        ends = [line for line in self.daemon.log_lines() if line["event"] in ("reloaded", "reload_refused")]
        return [line["message"] for line in ends if line["level"] != "ERROR"]
