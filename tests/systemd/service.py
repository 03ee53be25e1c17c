"""selfheald as a service of a :class:`Machine`, of the system's manager or of one user's."""

from __future__ import annotations

import json
from typing import Any

from fixtures.waiting import wait_for

from systemd.machine import Done, Entry, Machine

UNIT = "selfheald.service"
#: Where the machine has selfheald.
PROGRAM = "/opt/selfheald/bin/selfheald"
PYTHON = "/opt/selfheald/bin/python"


class Service:
    """The service, as an administrator handles and reads it. ``user`` is whose it is, by name and number."""

    def __init__(self, machine: Machine, user: tuple[str, int] | None = None) -> None:
        self.machine = machine
        self.user = user

    def selfheald(self, *arguments: object) -> Done:
        """A command of selfheald's, from start to end, by whoever the service belongs to."""
        return self._run(PROGRAM, *arguments)

    def install(self, *arguments: object) -> str:
        """``selfheald service install``, which must succeed: what it prints."""
        done = self.selfheald("service", "install", *arguments)
        assert done.returncode == 0, (done.stdout, done.stderr, self.told())
        return done.stdout

    def ctl(self, *arguments: object) -> Done:
        """``systemctl``."""
        return self._run("systemctl", *self._manager, *arguments)

    def do(self, *arguments: object) -> None:
        """``systemctl``, which must succeed."""
        done = self.ctl(*arguments)
        assert done.returncode == 0, (arguments, done.stdout, done.stderr, self.told())

    def show(self, name: str) -> str:
        """A property of the unit's."""
        done = self.ctl("show", UNIT, "--property", name, "--value")
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def kill(self, signal: str) -> int:
        """Send the daemon alone a signal; its process."""
        pid = self.pid
        self.do("kill", "--signal", signal, "--kill-whom=main", UNIT)
        return pid

    @property
    def pid(self) -> int:
        """The daemon's process; 0 if there is none."""
        return int(self.show("MainPID"))

    @property
    def status(self) -> str:
        """What it says of itself in ``systemctl status``."""
        return self.show("StatusText")

    def entries(self) -> list[Entry]:
        """What the journal has of it: its own lines, and what the manager says about it."""
        kind = "" if self.user is None else "USER_"
        return self.machine.journal(f"_SYSTEMD_{kind}UNIT={UNIT}", "+", f"{kind}UNIT={UNIT}")

    def told(self, since: int = 0) -> list[str]:
        """The messages of the entries, from one of them on."""
        return [str(entry["MESSAGE"]) for entry in self.entries()[since:]]

    def mark(self) -> int:
        """How many entries there are so far."""
        return len(self.entries())

    def line(self, text: str, since: int = 0) -> Entry:
        """Wait for a line with this in it."""

        def find() -> Entry | None:
            return next((entry for entry in self.entries()[since:] if text in str(entry["MESSAGE"])), None)

        return wait_for(find, what=lambda: (text, self.told(since)))

    def wait_for_status(self, text: str) -> None:
        """Wait until it says this of itself."""
        wait_for(lambda: self.status == text, what=lambda: (self.status, self.told()))

    def wait_for_restart(self, pid: int) -> int:
        """Wait until another process than this is ready; its number."""

        def another() -> int | None:
            found = self.pid
            return found if found not in (0, pid) and self.show("ActiveState") == "active" else None

        return wait_for(another, what=self.told)

    def record(self, root: str) -> dict[str, Any]:
        """What the daemon says in a root."""
        found = json.loads(self.machine.path(f"{root}/.selfheald/daemon.json").read_text())
        assert isinstance(found, dict)
        return found

    def change(self, **settings: str) -> None:
        """Settings of the unit's that differ in tests; such as ``WatchdogSec="2s"``."""
        folder = self.machine.path(f"/etc/systemd/{'system' if self.user is None else 'user'}/{UNIT}.d")
        folder.mkdir(parents=True, exist_ok=True)
        lines = [f"{name}={value}\n" for name, value in settings.items()]
        (folder / "test.conf").write_text(f"[Service]\n{''.join(lines)}")

    @property
    def environment(self) -> dict[str, str]:
        """That of whoever the service belongs to, as a login makes it."""
        if self.user is None:
            return {"HOME": "/root"}
        name, number = self.user
        return {"XDG_RUNTIME_DIR": f"/run/user/{number}", "HOME": f"/home/{name}"}

    @property
    def _manager(self) -> list[str]:
        return [] if self.user is None else ["--user"]

    def _run(self, *arguments: object) -> Done:
        name = None if self.user is None else self.user[0]
        return self.machine.run(*arguments, user=name, env=self.environment)
