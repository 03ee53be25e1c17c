"""What is said to a service manager, on real sockets."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from selfheald import check_child, config
from selfheald.errors import InitializationError, from_os_error
from selfheald.notify import OWN_NAMES, ServiceManager, of_children

Speaker = Callable[..., ServiceManager]


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """A service manager's socket, and its name as the environment gives it."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@selfheald-test-{os.getpid()}-{time.time_ns()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0{name[1:]}" if name[0] == "@" else name)
        listening.setblocking(False)
        yield listening, name


@pytest.fixture
def to() -> Iterator[Speaker]:
    """Speaks to a service manager of that name, until the end of the test."""
    with ExitStack() as opened:
        yield lambda name, **environ: opened.enter_context(ServiceManager({"NOTIFY_SOCKET": name, **environ}))


def heard(listening: socket.socket) -> list[str]:
    """The lines of the next message."""
    return listening.recv(4096).decode().splitlines()


def test_each_word_of_the_protocol(manager: tuple[socket.socket, str], to: Speaker) -> None:
    listening, name = manager
    said = to(name)
    assert said.listens
    assert said.watchdog is None
    assert said.ready("12 ready")
    assert heard(listening) == ["READY=1", "STATUS=12 ready"]
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert said.reloading("reloading")
    reloading, moment, status = heard(listening)
    assert (reloading, status) == ("RELOADING=1", "STATUS=reloading")
    assert before <= int(moment.removeprefix("MONOTONIC_USEC=")) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert said.stopping("bye")
    assert heard(listening) == ["STOPPING=1", "STATUS=bye"]
    assert said.status("1 building 3/10")
    assert heard(listening) == ["STATUS=1 building 3/10"]
    assert said.alive()
    assert heard(listening) == ["WATCHDOG=1"]


def test_a_status_stays_one_line_whatever_a_name_holds(manager: tuple[socket.socket, str], to: Speaker) -> None:
    listening, name = manager
    assert to(name).status("a\nMAINPID=1\r\n\tb \udcff")
    assert listening.recv(4096) == b"STATUS=a MAINPID=1 b \xff"
    assert to(name).status("x" * 100_000)
    assert len(listening.recv(200_000)) < 1000


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (InitializationError("no such root", code="config_invalid"), 22),
        (InitializationError("another daemon", code="concurrent_initialization"), 16),
        (InitializationError("whatever", code="dbt_failed"), None),
    ],
)
def test_a_failing_start_tells_its_error(
    manager: tuple[socket.socket, str], to: Speaker, error: InitializationError, number: int | None
) -> None:
    listening, name = manager
    assert to(name).failed(error)
    wanted = [f"STATUS={error.code}: {error.message}"]
    assert heard(listening) == wanted + ([] if number is None else [f"ERRNO={number}"])


def test_the_kernels_own_number_counts_most(manager: tuple[socket.socket, str], to: Speaker) -> None:
    listening, name = manager
    cause = FileNotFoundError(2, "nothing there")
    error = from_os_error(cause, "/nowhere", "read")
    error.__cause__ = cause
    assert to(name).failed(error)
    assert "ERRNO=2" in heard(listening)


@pytest.mark.parametrize("name", ["", "x", "/", "@", "vsock:2:1", "relative/path"])
def test_where_nobody_listens_nothing_is_said(name: str, to: Speaker) -> None:
    said = to(name, WATCHDOG_USEC="1000000")
    assert not said.listens
    assert said.watchdog is None
    assert not said.ready("")
    assert not said.alive()


@pytest.mark.parametrize("name", ["/nowhere/notify", "@nobody-listens-here", "/" + "x" * 300])
def test_a_service_manager_that_is_gone_is_no_error(name: str, to: Speaker) -> None:
    said = to(name)
    assert not said.ready("12 ready")
    assert not said.alive()


def test_a_service_manager_that_does_not_read_delays_nobody_for_long(
    manager: tuple[socket.socket, str], to: Speaker
) -> None:
    _, name = manager
    said = to(name)
    count = 0
    while said.alive():
        count += 1
        assert count < 1_000_000
    began = time.monotonic()
    assert not said.status("more")
    assert time.monotonic() - began < 0.5
    assert not said.ready("more")
    assert 0.5 < time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
    ],
)
def test_whose_watchdog_it_is(environ: dict[str, str], seconds: float | None, to: Speaker) -> None:
    assert to("/run/notify", **environ).watchdog == seconds


def test_no_child_hears_of_the_service_manager(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = dict.fromkeys(OWN_NAMES, "1") | {"PATH": "/bin"}
    assert of_children(given) == {"PATH": "/bin"}
    assert config.child_environment(environ=given) == {"PATH": "/bin"}
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    given_to_checks: list[Mapping[str, str]] = []

    class Noted(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, env: Mapping[str, str], **options: Any) -> None:
            given_to_checks.append(env)
            super().__init__(*arguments, env=env, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "Popen", Noted)
    assert not check_child.read_in_child(tmp_path / "simulation.duckdb").exists
    (environ,) = given_to_checks
    assert "PATH" in environ
    assert "NOTIFY_SOCKET" not in environ
