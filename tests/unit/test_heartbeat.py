"""When the watchdog is fed, and when it is left to starve."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from selfheald import heartbeat
from selfheald.heartbeat import Heartbeat, Pulse, complaint
from selfheald.notify import ServiceManager

#: Seconds of the watchdog in these tests.
PERIOD = 0.3


@pytest.mark.parametrize(
    ("pulse", "word"),
    [
        (Pulse(), None),
        (Pulse(unanswered=heartbeat.WORKER_SECONDS - 1, overdue=9, patience=10), None),
        (Pulse(unanswered=heartbeat.WORKER_SECONDS + 1), "worker thread"),
        (Pulse(overdue=11, patience=10), "checks are due"),
        (Pulse(missing={"watch", "checks"}), "checks, watch"),
    ],
)
def test_what_is_wrong_with_a_pulse(pulse: Pulse, word: str | None) -> None:
    found = complaint(pulse)
    assert found is None if word is None else word in (found or "")


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[socket.socket]:
    """A service manager's socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as opened:
        opened.bind(str(tmp_path / "notify"))
        opened.setblocking(False)
        yield opened


def beats(listening: socket.socket) -> int:
    """How many came since the last look."""
    count = 0
    while True:
        try:
            count += listening.recv(100) == b"WATCHDOG=1"
        except BlockingIOError:
            return count


async def until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(20):
        while not condition():  # noqa: ASYNC110 - a socket's buffer wakes nobody
            await anyio.sleep(0.01)


@pytest.fixture
def manager(tmp_path: Path, listening: socket.socket) -> Iterator[ServiceManager]:
    """Whom the watchdog's food is sent to."""
    environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": str(int(PERIOD * 1e6))}
    with ServiceManager(environ) as opened:
        yield opened


def test_threads_that_are_occupied_starve_it_only_after_their_limit(
    manager: ServiceManager, listening: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, blocked = threading.Event(), threading.Semaphore(0)
    limit = 5 * PERIOD
    monkeypatch.setattr(heartbeat, "WORKER_SECONDS", limit)

    def block() -> None:
        blocked.release()
        release.wait(60)

    async def main() -> None:
        threads = anyio.CapacityLimiter(2)
        heart = Heartbeat(manager, threads, Pulse)
        async with anyio.create_task_group() as group:
            group.start_soon(heart.beat)
            await until(lambda: beats(listening))
            for _ in range(2):
                group.start_soon(lambda: anyio.to_thread.run_sync(block, limiter=threads))
            await until(lambda: blocked.acquire(blocking=False))
            await until(lambda: blocked.acquire(blocking=False))
            began = time.monotonic()
            beats(listening)
            # All threads are occupied, as by files that block their readers: that alone is no reason for an end.
            await anyio.sleep(limit - 2 * PERIOD)
            assert beats(listening) >= 2
            # Nor does it last: then nothing is fed any more.
            await anyio.sleep(3 * PERIOD)
            beats(listening)
            await anyio.sleep(2 * PERIOD)
            assert beats(listening) == 0
            assert time.monotonic() - began > limit
            release.set()
            await until(lambda: beats(listening))
            group.cancel_scope.cancel()

    try:
        anyio.run(main)
    finally:
        release.set()


def test_a_task_that_has_ended_starves_it(manager: ServiceManager, listening: socket.socket) -> None:
    missing: set[str] = set()

    async def main() -> None:
        threads = anyio.CapacityLimiter(2)
        heart = Heartbeat(manager, threads, lambda _: Pulse(missing=missing))
        async with anyio.create_task_group() as group:
            group.start_soon(heart.beat)
            await until(lambda: beats(listening))
            missing.add("watch")
            await anyio.sleep(PERIOD)
            beats(listening)
            await anyio.sleep(2 * PERIOD)
            assert beats(listening) == 0
            missing.clear()
            await until(lambda: beats(listening))
            group.cancel_scope.cancel()

    anyio.run(main)


def test_a_loop_that_stands_still_starves_it(manager: ServiceManager, listening: socket.socket) -> None:
    async def main() -> None:
        heart = Heartbeat(manager, anyio.CapacityLimiter(2), lambda _: Pulse())
        async with anyio.create_task_group() as group:
            group.start_soon(heart.beat)
            await until(lambda: beats(listening))
            beats(listening)
            time.sleep(2 * PERIOD)  # noqa: ASYNC251 - that is what is tried
            assert beats(listening) == 0
            await until(lambda: beats(listening))
            group.cancel_scope.cancel()

    anyio.run(main)


def test_without_a_watchdog_there_is_no_beat(manager: ServiceManager, listening: socket.socket) -> None:
    async def main() -> None:
        manager.watchdog = None
        heart = Heartbeat(manager, anyio.CapacityLimiter(1), Pulse)
        with anyio.fail_after(5):
            await heart.beat()

    anyio.run(main)
    assert beats(listening) == 0
