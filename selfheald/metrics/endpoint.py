"""The port that ``metrics.listen`` names, and what is to be read there. Without that key nothing of it is loaded."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import anyio
import anyio.abc

from selfheald.config_values import is_loopback
from selfheald.errors import InitializationError
from selfheald.figures import Figures, Snapshot
from selfheald.log import event_log
from selfheald.standing import Standing

#: Connections that wait to be accepted.
_WAITING = 64

_Listeners = Sequence[anyio.abc.SocketListener]


class Endpoint:
    """Listens where it is told to, for as long as :meth:`serve` runs.

    ``snapshot`` tells how the daemon stands, ``listed`` all databases and where they stand; both are called on the
    event loop, and only when somebody asks.
    """

    def __init__(
        self,
        figures: Figures,
        snapshot: Callable[[], Snapshot],
        listed: Callable[[], list[tuple[Path, Standing]]],
    ) -> None:
        self._figures = figures
        self._snapshot = snapshot
        self._listed = listed
        self._listen: str | None = None
        self._listeners: _Listeners = ()
        self._scope, self._closed = anyio.CancelScope(), anyio.Event()
        self._group: anyio.abc.TaskGroup | None = None

    async def serve(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Serve wherever :meth:`move` says, until this is cancelled."""
        async with anyio.create_task_group() as self._group:
            task_status.started()
            await anyio.sleep_forever()

    async def move(self, listen: str | None) -> None:
        """Listen at ``HOST:PORT`` from now on, or nowhere. If that cannot be it stays as it is, and
        :class:`InitializationError` is raised."""
        if listen == self._listen:
            return
        new: _Listeners = ()
        if listen is not None:
            try:
                new = await _bind(listen)
            except InitializationError as error:
                # Perhaps it is our own port, and only the address is another.
                if error.code != "locked" or _port(listen) not in map(_port_of, self._listeners):
                    raise
                new = await self._exchange(listen)
        await self._close()
        self._open(new, listen)

    async def _exchange(self, listen: str) -> _Listeners:
        """Let go of the port, and have it at another address; or back, where that cannot be."""
        before, host = self._listen, str(self._listen).rpartition(":")[0]
        await self._close()
        try:
            return await _bind(listen)
        except InitializationError:
            self._open(await _bind(f"{host}:{_port(listen)}"), before)
            raise

    def _open(self, listeners: _Listeners, listen: str | None) -> None:
        self._listen, self._listeners = listen, listeners
        if not listeners:
            return
        assert self._group is not None
        self._scope, self._closed = anyio.CancelScope(), anyio.Event()
        self._group.start_soon(self._serve, listeners, self._scope, self._closed)
        address = f"{str(listen).rpartition(':')[0]}:{_port_of(listeners[0])}"
        event_log("metrics_served", f"http://{address}/ shows how it goes, http://{address}/metrics is for Prometheus")

    async def _serve(self, listeners: _Listeners, scope: anyio.CancelScope, closed: anyio.Event) -> None:
        from selfheald.metrics.answers import Answers
        from selfheald.metrics.server import Server

        answers = Answers(self._figures, self._snapshot, self._listed)
        server = Server(partial(answers.to, only_own_name=all(map(_is_local, listeners))))
        try:
            with scope:
                async with anyio.create_task_group() as group:
                    for listener in listeners:
                        group.start_soon(server.serve, listener)
        finally:
            with anyio.CancelScope(shield=True):
                for listener in listeners:  # only now: one that is closed while it accepts calls that an error
                    await listener.aclose()
            closed.set()

    async def _close(self) -> None:
        if self._listeners:
            self._scope.cancel()
            await self._closed.wait()
        self._listen, self._listeners = None, ()


async def _bind(listen: str) -> _Listeners:
    """Listen at an address. Raises :class:`InitializationError`: ``locked`` if somebody else does already."""
    host = listen.rpartition(":")[0]
    try:
        # A name may stand for several addresses: localhost for two.
        made = await anyio.create_tcp_listener(
            local_host=host.removeprefix("[").removesuffix("]"), local_port=_port(listen), backlog=_WAITING
        )
    except OSError as error:
        raise _refused(listen, error) from error
    return [each for each in made.listeners if isinstance(each, anyio.abc.SocketListener)]


def _refused(listen: str, error: OSError) -> InitializationError:
    port = _port(listen)
    code, hint = {
        errno.EADDRINUSE: (
            "locked",
            f"End it (`ss -ltnp 'sport = :{port}'` tells which one it is), or set metrics.listen to another port.",
        ),
        errno.EACCES: ("permission_denied", "Set metrics.listen to a port from 1024 up: those below are root's."),
    }.get(error.errno or 0, ("config_invalid", "Set metrics.listen to an address of this machine: 127.0.0.1:9187."))
    why = "another program does already" if code == "locked" else error.strerror or str(error)
    return InitializationError(f"metrics.listen: cannot listen on {listen}: {why}", code=code, hint=hint)


def _port(listen: str) -> int:
    return int(listen.rpartition(":")[2])


def _port_of(listener: anyio.abc.SocketListener) -> int:
    return int(listener.extra(anyio.abc.SocketAttribute.local_port))


def _is_local(listener: anyio.abc.SocketListener) -> bool:
    return is_loopback(str(listener.extra(anyio.abc.SocketAttribute.local_address)[0]))
