"""A small HTTP server for a port that strangers may reach: one request for each connection, then it ends.

It is written here, on the event loop that is there anyway, since a library would cost more than it spares: without
kept connections, bodies, uploads, encodings or forms there is little left of HTTP, and an idle port then costs one
descriptor: no thread, no timer, no further package. Whoever is slow, silent or sends garbage takes one of few places,
for a limited time; when they are all taken, the one that has had its place for longest makes room, so that nobody can
keep others out by holding on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from http import HTTPStatus

import anyio
import anyio.abc

from selfheald.log import event_log
from selfheald.metrics.request import END, MOST_BYTES, RefusedError, Request, Response, parse

#: Connections at once.
PLACES = 32
#: Seconds in which a request has to be there, and in which all has to be over.
HEAD_SECONDS, ALL_SECONDS = 5.0, 15.0
#: Bytes that are passed over of what comes behind a request: some clients read nothing until they have sent all.
PASSED_OVER = 1 << 16
#: Seconds until connections are accepted again after that failed: the machine is short of something.
PAUSE_SECONDS = 0.5

Answer = Callable[[Request], Awaitable[Response]]
_GONE = (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream)


class Server:
    """Answers whoever connects. ``answer`` may raise :class:`RefusedError`."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._places: dict[int, anyio.CancelScope] = {}
        self._count = 0

    async def serve(self, listener: anyio.abc.SocketListener) -> None:
        """Accept connections until this is cancelled."""
        told = False
        async with anyio.create_task_group() as connections:
            while True:
                try:
                    stream = await listener.accept()
                except OSError as error:
                    if not told:
                        event_log(
                            "metrics_trouble", f"no connections to metrics.listen for a while: {error}", "WARNING"
                        )
                    told = True
                    await anyio.sleep(PAUSE_SECONDS)
                else:
                    told = False
                    connections.start_soon(self._attend, stream)

    async def _attend(self, stream: anyio.abc.SocketStream) -> None:
        self._count += 1
        number = self._count
        if len(self._places) >= PLACES:
            self._places.pop(next(iter(self._places))).cancel()
        try:
            with anyio.CancelScope(deadline=anyio.current_time() + ALL_SECONDS) as self._places[number]:
                with suppress(*_GONE):
                    await self._converse(stream)
        except Exception as error:  # noqa: BLE001 - whatever a stranger sends never stops the daemon
            event_log("metrics_error", f"unexpected: {error!r}", "ERROR", exception=error)
        finally:
            self._places.pop(number, None)
            with anyio.CancelScope(shield=True):
                await anyio.aclose_forcefully(stream)

    async def _converse(self, stream: anyio.abc.SocketStream) -> None:
        with_body = True
        try:
            request = parse(await _head(stream))
            with_body = request.method == "GET"
            response = await self._answer(request)
        except RefusedError as refused:
            response = refused.response
        await stream.send(response.encoded(with_body=with_body))
        await stream.send_eof()
        passed = 0
        while passed < PASSED_OVER:  # it is the client that ends: until then it may not have read all
            passed += len(await stream.receive())


async def _head(stream: anyio.abc.SocketStream) -> bytes:
    """What comes before the empty line."""
    head = b""
    with anyio.move_on_after(HEAD_SECONDS):
        while END not in head:
            if len(head) > MOST_BYTES:
                raise RefusedError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the request's head is too long")
            head += await stream.receive(4096)
    if END not in head:
        raise RefusedError(HTTPStatus.REQUEST_TIMEOUT, "no request came")
    return head.partition(END)[0]
