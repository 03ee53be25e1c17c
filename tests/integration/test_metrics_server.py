"""The HTTP server on real sockets: time limits, places, and what is in the way of its own accepting."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.abc
import pytest

from selfheald.errors import InitializationError
from selfheald.figures import Figures, Snapshot
from selfheald.metrics import answers, server
from selfheald.metrics.endpoint import Endpoint
from selfheald.metrics.request import Request, Response
from selfheald.metrics.server import Server
from selfheald.standing import Standing

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
SIZES = {"/much": 50_000_000, "/some": 8_000_000}
#: Seconds in which anything must have happened.
DEADLINE = 20.0


async def answer(request: Request) -> Response:
    if request.path == "/fault":
        raise ZeroDivisionError
    return Response("x" * SIZES.get(request.path, 0) or "short")


@asynccontextmanager
async def serving(server: Server | None = None) -> AsyncIterator[int]:
    """A server's port."""
    listener = (await anyio.create_tcp_listener(local_host="127.0.0.1")).listeners[0]
    assert isinstance(listener, anyio.abc.SocketListener)
    async with listener, anyio.create_task_group() as group:
        group.start_soon((server or Server(answer)).serve, listener)
        with anyio.fail_after(DEADLINE):
            yield int(listener.extra(anyio.abc.SocketAttribute.local_port))
        group.cancel_scope.cancel()


async def rest(client: anyio.abc.ByteReceiveStream) -> bytes:
    """What comes until the other side ends."""
    found = b""
    try:
        while True:
            found += await client.receive()
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        return found


class Departures(Server):
    """Tells when it has let somebody go."""

    def __init__(self) -> None:
        super().__init__(answer)
        self.let_go = anyio.Event()

    async def _attend(self, stream: anyio.abc.SocketStream) -> None:
        await super()._attend(stream)
        self.let_go.set()


async def ask(port: int, data: bytes = REQUEST) -> bytes:
    async with await anyio.connect_tcp("127.0.0.1", port) as client:
        await client.send(data)
        return await rest(client)


def test_who_says_nothing_is_told_so_and_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.2)

    async def run() -> None:
        async with serving() as port:
            began = anyio.current_time()
            assert (await ask(port, b"GET / HT")).startswith(b"HTTP/1.1 408 ")
            assert 0.2 <= anyio.current_time() - began < 5

    anyio.run(run)


def test_who_does_not_read_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "ALL_SECONDS", 0.3)

    async def run() -> None:
        busy = Departures()
        async with serving(busy) as port, await anyio.connect_tcp("127.0.0.1", port) as client:
            await client.send(REQUEST.replace(b"/ ", b"/much "))
            await busy.let_go.wait()
            assert (await ask(port)).endswith(b"short")
            assert len(await rest(client)) < 50_000_000

    anyio.run(run)


def test_who_reads_late_gets_all() -> None:
    """What is still on its way when all has been said is not lost by the end of the connection."""

    async def run() -> None:
        async with serving() as port, await anyio.connect_tcp("127.0.0.1", port) as client:
            await client.send(REQUEST.replace(b"/ ", b"/some ") + b"and what nobody asked for" * 1000)
            await anyio.sleep(0.3)  # as late as anybody likes: no event tells when that is
            assert len((await rest(client)).partition(b"\r\n\r\n")[2]) == SIZES["/some"]

    anyio.run(run)


def test_a_fault_of_ours_ends_one_connection_alone() -> None:
    async def run() -> None:
        async with serving() as port:
            assert await ask(port, REQUEST.replace(b"/ ", b"/fault ")) == b""
            assert (await ask(port)).endswith(b"short")

    anyio.run(run)


def test_without_descriptors_it_waits_for_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "PAUSE_SECONDS", 0.05)

    class Short:
        """A listener that fails three times before it hands out a connection."""

        def __init__(self, ready: anyio.abc.SocketListener) -> None:
            self.ready, self.failures = ready, 0

        async def accept(self) -> anyio.abc.SocketStream:
            if self.failures < 3:
                self.failures += 1
                raise OSError(errno.EMFILE, "Too many open files")
            return await self.ready.accept()

    async def run() -> None:
        listener = (await anyio.create_tcp_listener(local_host="127.0.0.1")).listeners[0]
        assert isinstance(listener, anyio.abc.SocketListener)
        async with listener, anyio.create_task_group() as group:
            short = Short(listener)
            group.start_soon(Server(answer).serve, short)  # type: ignore[arg-type]
            with anyio.fail_after(DEADLINE):
                assert (await ask(int(listener.extra(anyio.abc.SocketAttribute.local_port)))).endswith(b"short")
            assert short.failures == 3
            group.cancel_scope.cancel()

    anyio.run(run)


def endpoint(*listed: tuple[Path, Standing]) -> Endpoint:
    return Endpoint(Figures(), lambda: Snapshot("ready", "native"), lambda: list(listed))


def test_a_port_that_cannot_be_had_leaves_the_one_that_is() -> None:
    async def run() -> None:
        async with anyio.create_task_group() as group:
            ours = endpoint()
            await group.start(ours.serve)
            with socket.create_server(("127.0.0.1", 0)) as probe:
                first = probe.getsockname()[1]
            await ours.move(f"127.0.0.1:{first}")
            # Our own port, at an address that is not this machine's: it is let go of, and had again.
            with pytest.raises(InitializationError, match=r"cannot listen on 192\.0\.2\.1"):
                await ours.move(f"192.0.2.1:{first}")
            assert (await ask(first)).startswith(b"HTTP/1.1 200 ")
            with socket.create_server(("127.0.0.2", first)):
                # Taken there as well as here: 0.0.0.0 cannot be had although we let go of ours.
                with pytest.raises(InitializationError) as caught:
                    await ours.move(f"0.0.0.0:{first}")
                assert caught.value.code == "locked"
                assert (await ask(first)).startswith(b"HTTP/1.1 200 ")
            await ours.move(f"0.0.0.0:{first}")
            assert (await ask(first)).startswith(b"HTTP/1.1 200 ")
            await ours.move(None)
            with pytest.raises(OSError, match="connect"):
                await ask(first)
            group.cancel_scope.cancel()

    with_deadline(run)


def with_deadline(run: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        with anyio.fail_after(DEADLINE):
            await run()

    anyio.run(bounded)


def test_a_file_system_that_hangs_costs_the_page_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread is kept by it, however many ask; figures and health are told all the same."""
    reads, release = list[int](), threading.Event()

    def read_rows(shown: object) -> list[object]:
        reads.append(1)
        release.wait(DEADLINE)
        return []

    monkeypatch.setattr(answers, "read_rows", read_rows)
    monkeypatch.setattr(answers, "PAGE_SECONDS", 0.2)

    async def run() -> None:
        made = answers.Answers(Figures(), lambda: Snapshot("ready", "native"), lambda: [(tmp_path, Standing.READY)])
        try:
            for _ in range(3):
                found = await made.to(Request("GET", "/", None), only_own_name=True)
                assert found.status == 503
                assert "does not answer" in found.text
            assert (await made.to(Request("GET", "/healthz", None), only_own_name=True)).status == 200
            assert len(reads) == 1
        finally:
            release.set()

    with_deadline(run)
