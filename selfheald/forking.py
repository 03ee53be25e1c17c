"""The dbt host as its parent sees it: a process that forks children, and those children."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, BinaryIO, Self

import anyio
import anyio.abc

from selfheald.dbt_host import CHILD, Order, kill_group, open_log

#: Seconds in which a host must have forked, be it the first time, when it imports dbt before.
FORK_SECONDS = 20.0
#: Seconds in which it must tell how a fork ended.
STATUS_SECONDS = 2.0
#: Seconds in which a fork that never got its job has gone.
STRAY_SECONDS = 2.0
#: An answer has no more bytes.
MOST_BYTES = 65536
_PAGE = os.sysconf("SC_PAGE_SIZE")


OnEnd = Callable[["Host"], Awaitable[None]]


class HostError(Exception):
    """The host did not fork. No job has begun."""


class Host:
    """A running host. Nothing but :meth:`fork` and what it returns uses its time; :meth:`kill` ends it."""

    def __init__(
        self, process: anyio.abc.Process, lifeline: int, orders: socket.socket, log: Path, on_end: OnEnd
    ) -> None:
        self._process = process
        self._on_end = on_end
        self._lifeline = lifeline
        self._orders = orders
        self._log = log
        self._turn = anyio.Lock()
        #: Forks that have not ended.
        self.running = 0
        #: True once it has forked: what an interpreter, dbt and DuckDB can have against that was not the case.
        self.proven = False

    @classmethod
    async def start(cls, python: str, environment: Mapping[str, str], log: Path, on_end: OnEnd) -> Self:
        """Start a host, which then begins to import dbt; ``on_end`` is called when a fork of it has ended.

        Raises :class:`HostError`.
        """
        with ExitStack() as stack:
            try:
                stderr: int | BinaryIO = subprocess.DEVNULL
                with suppress(OSError):
                    stderr = stack.enter_context(log.open("wb"))
                theirs, lifeline = os.pipe()
                stack.callback(os.close, theirs)
                ours = stack.enter_context(ExitStack())
                ours.callback(os.close, lifeline)
                orders, answers = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                stack.enter_context(answers)
                ours.enter_context(orders)
                orders.setblocking(False)
                process = await anyio.open_process(
                    [python, str(CHILD), "host", str(answers.fileno())],
                    stdin=theirs,
                    stdout=subprocess.DEVNULL,
                    stderr=stderr,
                    env=dict(environment),
                    start_new_session=True,
                    pass_fds=(answers.fileno(),),
                )
            except OSError as error:
                raise HostError(f"it cannot be started: {error.strerror or error}") from error
            ours.pop_all()
            return cls(process, lifeline, orders, log, on_end)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        return self._process.returncode is not None

    def memory(self) -> int:
        """Bytes that it has resident; 0 if it has ended."""
        try:
            return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * _PAGE
        except (OSError, IndexError):
            return 0

    async def fork(self, order: Order) -> ForkedChild:
        """A child that waits for its job.

        Raises :class:`HostError`; then, and when this is cancelled, no fork is left, and unless it has only refused
        to fork the host is not either.
        """
        with ExitStack() as stack:
            given = stack.enter_context(ExitStack())
            try:
                their_input, stdin = os.pipe()
                given.callback(os.close, their_input)
                given.callback(os.close, stdin)
                stdout, their_output = os.pipe()
                stack.callback(os.close, stdout)
                given.callback(os.close, their_output)
                log = given.enter_context(open_log(order.log_file))
                facts = given.enter_context(os.fdopen(os.memfd_create("order"), "wb", buffering=0))
                facts.write(json.dumps({"environment": dict(order.environment), "held": order.held}).encode())
            except OSError as error:
                raise HostError(f"it cannot be given a job: {error.strerror or error}") from error
            numbers = (facts.fileno(), their_input, their_output, log.fileno(), *order.held)
            try:
                with anyio.fail_after(FORK_SECONDS):
                    answer = await self._ask({"job": order.kind, "parse": order.parse}, numbers)
                if "pid" in answer:
                    handle = os.pidfd_open(answer["pid"])  # nobody else can have got the number: the host sees to that
                    child = ForkedChild(self, answer["pid"], handle, os.dup(stdin), os.dup(stdout))
            except BaseException as error:
                with anyio.CancelScope(shield=True):
                    await self.kill()
                    given.close()
                    await _until_gone(stdout)
                if isinstance(error, TimeoutError):
                    raise HostError(f"it did not fork within {FORK_SECONDS:g} s") from None
                if isinstance(error, OSError):
                    raise HostError(f"its fork cannot be followed: {error.strerror or error}") from error
                raise
        if "pid" not in answer:
            raise HostError(str(answer.get("refused")))
        self.proven = True
        self.running += 1
        return child

    async def status_of(self, pid: int) -> int | None:
        """How a fork that has ended did so, as :attr:`subprocess.Popen.returncode`; ``None`` if that is unknown."""
        status = None
        with anyio.move_on_after(STATUS_SECONDS, shield=True), suppress(HostError):
            status = (await self._ask({"ended": pid})).get("status")
        self.running -= 1
        await self._on_end(self)
        return None if status is None else int(status)

    async def kill(self) -> None:
        """End it, and all in its group; its forks have groups of their own. Also of one that has ended already."""
        with anyio.CancelScope(shield=True):
            if self._lifeline >= 0:
                os.close(self._lifeline)
                self._lifeline = -1
                await kill_group(self._process)
                async with self._turn:
                    self._orders.close()

    async def _ask(self, message: Mapping[str, Any], descriptors: tuple[int, ...] = ()) -> dict[str, Any]:
        async with self._turn:
            try:
                socket.send_fds(self._orders, [json.dumps(message).encode()], descriptors)
                await anyio.wait_readable(self._orders)
                data = self._orders.recv(MOST_BYTES)
            except ConnectionError:
                data = b""
            except (OSError, anyio.ClosedResourceError) as error:
                raise HostError(f"it does not answer: {error}") from error
        if not data:
            await self._process.wait()
            raise HostError(self._how_it_ended())
        answer: dict[str, Any] = json.loads(data)
        return answer

    def _how_it_ended(self) -> str:
        code = self._process.returncode
        if code is not None and code < 0:
            return f"it was killed by {signal.Signals(-code).name}"
        return f"it ended with exit code {code}; {self._log} may tell why"


class ForkedChild:
    """A child that a host has forked: a :class:`~selfheald.dbt_host.Child`."""

    def __init__(self, host: Host, pid: int, handle: int, stdin: int, stdout: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self.stdin = _Sender(stdin)
        self.stdout = _Receiver(stdout)
        self._host = host
        self._handle = handle
        self._has_ended = False

    async def wait(self) -> int | None:
        """Wait until it has ended."""
        if not self._has_ended:
            await anyio.wait_readable(self._handle)
            if not self._has_ended:
                self._has_ended = True
                self.returncode = await self._host.status_of(self.pid)
        return self.returncode

    async def aclose(self) -> None:
        """Let go of it. Its lifeline is cut by that."""
        await self.stdin.aclose()
        await self.stdout.aclose()
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


class _End:
    """Our end of a pipe."""

    def __init__(self, number: int) -> None:
        self.number = number
        os.set_blocking(number, False)

    async def aclose(self) -> None:
        if self.number >= 0:
            os.close(self.number)
            self.number = -1


class _Sender(_End, anyio.abc.ByteSendStream):
    async def send(self, item: bytes) -> None:
        rest = memoryview(item)
        while rest:
            await anyio.wait_writable(self.number)
            try:
                rest = rest[os.write(self.number, rest) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise anyio.BrokenResourceError from error


class _Receiver(_End, anyio.abc.ByteReceiveStream):
    async def receive(self, max_bytes: int = 65536) -> bytes:
        while True:
            await anyio.wait_readable(self.number)
            try:
                data = os.read(self.number, max_bytes)
            except BlockingIOError:
                continue
            if not data:
                raise anyio.EndOfStream
            return data


async def _until_gone(stdout: int) -> None:
    """Wait until nobody has the other end of a pipe any more."""
    os.set_blocking(stdout, False)
    with anyio.move_on_after(STRAY_SECONDS), suppress(anyio.EndOfStream):
        receiver = _Receiver(stdout)
        while True:
            await receiver.receive()
