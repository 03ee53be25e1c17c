"""A server that people share: one service of the machine's, and workspaces of those who are in its group."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from fixtures.waiting import DEADLINE, wait_for

from systemd.machine import Done, Machine
from systemd.service import PROGRAM, PYTHON, UNIT, Service

ROOT = "/srv/workspaces"
CONFIG = "/etc/selfheald/selfheald.toml"
#: A project that is built in less time than the bundled one.
PROJECT = "/opt/source/tests/projects/own_project"
#: Who there is, by number.
PEOPLE = {"selfheald": 2000, "ada": 2001, "ben": 2002, "carl": 2003}
#: The group of those that have workspaces. Carl has none.
GROUP, GROUP_NUMBER, MEMBERS = "workforce", 3000, ["selfheald", "ada", "ben"]
#: A folder for ``PYTHONPATH``, in which SIGUSR1 brings a daemon to a standstill.
STANDSTILL = "/opt/standstill"
#: What differs from the unit as it is installed, so that tests need not wait for it.
DROP_IN = {"WatchdogSec": "5s", "RestartSec": "100ms", "Environment": f"PYTHONPATH={STANDSTILL}"}

_CHANGE = """
import sys, duckdb
with duckdb.connect(sys.argv[1]) as connection:
    connection.execute(sys.argv[2])
"""
_ANSWER = """
import sys, duckdb
with duckdb.connect(sys.argv[1], read_only=True) as connection:
    print(connection.execute("select sum(answer) from notes").fetchone()[0])
"""


class Server:
    """The machine with the service installed for ``ROOT``, and what people do there."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.service = Service(machine)
        machine.ok("install", "-d", "-m", "2775", "-g", GROUP, ROOT)
        machine.ok("install", "-d", "/etc/selfheald")
        self.configure()

    def install(self) -> str:
        """``selfheald service install --system``; what it prints."""
        return self.service.install("--system", "--config", CONFIG, "--group", GROUP)

    def configure(self, **settings: Mapping[str, object]) -> None:
        """Write the configuration; sections with values of their own over those of all tests."""
        sections: dict[str, Mapping[str, object]] = {
            "watch": {"roots": [ROOT]},
            "dbt": {"project_dir": PROJECT},
            "shutdown": {"grace": 2},
        }
        merged = {name: {**sections.get(name, {}), **settings.get(name, {})} for name in sections | settings}
        lines = [
            f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in section.items())
            for name, section in merged.items()
        ]
        self.machine.path(CONFIG).write_text("\n".join(lines))

    def workspace(self, name: str, user: str = "ada", umask: int = 0o002, *, empty: bool = False) -> PurePosixPath:
        """A folder of somebody's, with a database of theirs: with a table of notes, or of no bytes."""
        database = self.database(name)
        self.machine.ok("mkdir", database.parent, user=user, umask=umask)
        if empty:
            self.machine.ok("touch", database, user=user, umask=umask)
        else:
            self.change(database, user, "create table notes as select 42 as answer", umask)
        return database

    def database(self, name: str) -> PurePosixPath:
        """The database of a workspace that is there."""
        return PurePosixPath(ROOT, name, "simulation.duckdb")

    def inside(self) -> list[str]:
        """What must stand before a command that is to run as the service's user, where the service is."""
        groups = f"--setuid={PEOPLE['selfheald']}", f"--setgid={GROUP_NUMBER}"
        return ["nsenter", "--target", str(self.service.pid), "--mount", *groups, "--"]

    def wait(self, database: PurePosixPath, user: str = "ada", timeout: float = DEADLINE) -> Done:
        """``selfheald wait``, as simulators of this user's do."""
        return self.machine.run(PROGRAM, "wait", database, "--timeout", timeout, user=user, timeout=timeout + 15)

    def heals(self, database: PurePosixPath, user: str = "ada") -> None:
        """The database must become ready."""
        done = self.wait(database, user)
        assert done.returncode == 0, (done.stdout, done.stderr, self.service.told())

    def answer(self, database: PurePosixPath, user: str = "ada") -> int:
        """The sum of all notes."""
        return int(self.machine.ok(PYTHON, "-c", _ANSWER, database, user=user))

    def change(self, database: PurePosixPath, user: str, statement: str, umask: int = 0o002) -> None:
        """Run SQL, as a simulator of this user's."""
        self.machine.ok(PYTHON, "-c", _CHANGE, database, statement, user=user, umask=umask)

    def write(self, database: PurePosixPath, user: str) -> None:
        """One note more, which counts 1."""
        self.change(database, user, "insert into notes values (1)")

    def look(self, path: PurePosixPath | str) -> tuple[str, str, str]:
        """A path's mode, owner and group."""
        mode, owner, group = self.machine.ok("stat", "-c", "%a %U %G", path).split()
        return mode, owner, group

    def processes(self) -> list[str]:
        """The service's user's processes, by number."""
        there = [entry for entry in self.machine.path("/proc").iterdir() if entry.name.isdigit()]
        return [entry.name for entry in there if _owner(entry) == PEOPLE["selfheald"]]

    def files(self) -> set[str]:
        """What there is of workspaces, configuration, state and logs, but for what a daemon has while it lives."""
        folders = [ROOT, *(f"{above}/selfheald" for above in ("/etc", "/var/lib", "/var/log", "/var/cache"))]
        passing = ("-not", "-name", "*.notes", "-not", "-name", "watch-probe")
        return set(self.machine.ok("find", *folders, *passing).splitlines())

    def stops(self) -> float:
        """Stop the service; how many seconds that took."""
        began = time.monotonic()
        self.service.do("stop", UNIT)
        return time.monotonic() - began

    def wait_for_state(self, state: str) -> None:
        """Wait for a state of the unit's."""
        wait_for(lambda: self.service.show("ActiveState") == state, what=self.service.told)


def _owner(path: Path) -> int | None:
    """``None`` for what has gone in the meantime."""
    try:
        return path.stat().st_uid
    except OSError:
        return None
