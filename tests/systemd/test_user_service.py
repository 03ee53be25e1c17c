"""A service of one person's own, under their service manager."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from fixtures.waiting import wait_for

from systemd.machine import Machine
from systemd.server import DROP_IN, PEOPLE
from systemd.service import PROGRAM, UNIT, Service

NAME = "carl"
HOME = f"/home/{NAME}"
WORKSPACES = f"{HOME}/workspaces"
FILE = f"{HOME}/.config/systemd/user/{UNIT}"


@pytest.fixture(scope="module")
def service(machine: Machine) -> Iterator[Service]:
    """The service of somebody who has a service manager: they have logged in."""
    done = machine.run("systemctl", "start", f"user@{PEOPLE[NAME]}")
    assert done.returncode == 0, [entry["MESSAGE"] for entry in machine.journal(f"--unit=user@{PEOPLE[NAME]}")]
    machine.ok("mkdir", "-p", f"{WORKSPACES}/old", user=NAME)
    machine.ok("touch", f"{WORKSPACES}/old/simulation.duckdb", user=NAME)
    service = Service(machine, (NAME, PEOPLE[NAME]))
    service.change(**DROP_IN)
    yield service
    machine.ok("systemctl", "stop", f"user@{PEOPLE[NAME]}")


def test_the_service_of_a_person(service: Service) -> None:
    """From installing it to taking it away."""
    machine = service.machine
    installed = service.install(WORKSPACES)
    assert installed.startswith(f"Installed: {FILE}\n")
    assert "active (running)" in installed
    assert service.record(WORKSPACES)["state"] == "ready"
    assert service.show("UnitFileState") == "enabled"
    database = f"{WORKSPACES}/old/simulation.duckdb"
    done = service.selfheald("wait", database, "--timeout", 45)
    assert done.returncode == 0, (done.stderr, service.told())
    wait_for(lambda: service.status == "1 ready", what=lambda: service.status)

    assert service.install(WORKSPACES).startswith("Unchanged: ")
    shown = json.loads(service.selfheald("service", "show", "--json").stdout)
    assert (shown["active"], shown["current"], shown["status"]) == (True, True, "1 ready")
    pid = service.kill("KILL")
    assert service.wait_for_restart(pid) == service.record(WORKSPACES)["pid"]
    assert service.line("ready: watching")["PRIORITY"] == "6"
    machine.ok(
        "systemd-analyze", "verify", "--recursive-errors=yes", "--user", FILE, user=NAME, env=service.environment
    )

    done = service.selfheald("service", "uninstall")
    assert done.returncode == 0, done.stderr
    assert not machine.path(FILE).exists()
    assert service.show("LoadState") == "not-found"
    assert machine.path(database).exists()
    assert machine.path(f"{database}.ready").exists()


def test_without_a_service_manager_of_theirs_they_are_told(machine: Machine) -> None:
    machine.ok("mkdir", "-p", "/home/ben/workspaces", user="ben")
    done = machine.run(PROGRAM, "service", "install", "/home/ben/workspaces", user="ben", env={"HOME": "/home/ben"})
    assert done.returncode == 1, done.stdout
    assert "the service manager of user ben cannot be reached" in done.stderr
    assert "loginctl enable-linger ben" in done.stderr
    assert not machine.path(f"/home/ben/.config/systemd/user/{UNIT}").exists()
