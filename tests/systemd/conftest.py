"""One machine for all tests in here, with selfheald installed on it, and people."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
from fixtures.standstill import make_standstill

from systemd.machine import Machine, hindrance
from systemd.server import DROP_IN, GROUP, GROUP_NUMBER, MEMBERS, PEOPLE, STANDSTILL, Server
from systemd.service import PROGRAM, PYTHON

_SOURCE = Path(__file__).parents[2]
_SCRIPT = f"""#!{PYTHON}
import sys
from selfheald.cli import main
sys.exit(main())
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests in this folder need a systemd of their own."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.systemd)


@pytest.fixture(scope="session")
def machine() -> Iterator[Machine]:
    """A machine with selfheald in ``/opt/selfheald``, whose packages are those that the tests run with."""
    why = hindrance()
    if why is not None:
        pytest.skip(why)
    shown = {Path(sysconfig.get_path("purelib")): "/opt/packages", _SOURCE: "/opt/source"}
    python = Path(os.path.realpath(sys.executable))
    if not python.is_relative_to("/usr"):
        # One of a person's own, whom the service cannot look at.
        base = Path(os.path.realpath(sys.base_prefix))
        shown[base] = "/opt/python"
        python = "/opt/python" / python.relative_to(base)
    with Machine(shown) as machine:
        _let_people_in(machine)
        _install(machine, python)
        make_standstill(machine.path(STANDSTILL))
        yield machine


@pytest.fixture(scope="session")
def server(machine: Machine) -> Server:
    """The service is installed, with one database there before it came."""
    server = Server(machine)
    server.workspace("first", empty=True)
    server.service.change(**DROP_IN)
    server.install()
    return server


def _install(machine: Machine, python: Path) -> None:
    """A virtual environment as ``python -m venv`` makes it, without a download."""
    # The interpreter may have a library of its own, which it is to find in its place here.
    machine.path("/etc/ld.so.conf").write_text("/opt/python/lib\n")
    machine.ok("ldconfig")
    machine.ok(python, "-m", "venv", "--without-pip", "/opt/selfheald")
    (packages,) = machine.path("/opt/selfheald/lib").glob("python3*/site-packages")
    (packages / "selfheald.pth").write_text("/opt/source\nimport site; site.addsitedir('/opt/packages')\n")
    program = machine.path(PROGRAM)
    program.write_text(_SCRIPT)
    program.chmod(0o755)


def _let_people_in(machine: Machine) -> None:
    with machine.path("/etc/group").open("a") as groups:
        groups.write(f"{GROUP}:x:{GROUP_NUMBER}:{','.join(MEMBERS)}\n")
        groups.writelines(f"{name}:x:{number}:\n" for name, number in PEOPLE.items())
    with machine.path("/etc/passwd").open("a") as people:
        people.writelines(f"{name}:x:{number}:{number}::/home/{name}:/bin/sh\n" for name, number in PEOPLE.items())
    # Without an entry nobody can log in, with a password or without.
    shadow = machine.path("/etc/shadow")
    shadow.write_text("".join(f"{name}:*:20000:0:99999:7:::\n" for name in ["root", *PEOPLE]))
    shadow.chmod(0o600)
    for name in PEOPLE:
        machine.ok("install", "-d", "-m", "700", "-o", name, "-g", name, f"/home/{name}")
