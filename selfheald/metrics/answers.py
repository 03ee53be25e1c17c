"""What is to be read at the port: ``/metrics``, ``/healthz``, ``/readyz``, and a page for people at ``/``."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path

import anyio

from selfheald.errors import InitializationError
from selfheald.figures import Figures, Snapshot
from selfheald.metrics.exposition import KIND, exposition
from selfheald.metrics.page import HEADERS, page
from selfheald.metrics.request import RefusedError, Request, Response, require_own_name
from selfheald.metrics.rows import MOST_ROWS, Row, first_ones, read_rows
from selfheald.standing import Standing
from selfheald.threads import run_in_thread

#: Seconds in which the page's files have to be read, and for which a page that was made is shown again.
PAGE_SECONDS, PAGE_LASTS = 5.0, 1.0


class Answers:
    """``snapshot`` tells how the daemon stands, ``listed`` all databases and where they stand."""

    def __init__(
        self, figures: Figures, snapshot: Callable[[], Snapshot], listed: Callable[[], list[tuple[Path, Standing]]]
    ) -> None:
        self._figures = figures
        self._snapshot = snapshot
        self._listed = listed
        self._turn = anyio.Lock()
        self._reading = False
        self._page: tuple[float, Response] | None = None

    async def to(self, request: Request, *, only_own_name: bool) -> Response:
        """Answer a request. Raises :class:`RefusedError`, with ``only_own_name`` also as :func:`require_own_name`."""
        if only_own_name:
            require_own_name(request)
        if request.path == "/metrics":
            return Response(exposition(self._figures, self._snapshot()), kind=KIND)
        if request.path == "/healthz":
            return Response("ok\n")
        if request.path == "/readyz":
            why = self._snapshot().unready()
            return Response("ok\n") if why is None else Response(f"{why}\n", HTTPStatus.SERVICE_UNAVAILABLE)
        if request.path == "/":
            return await self._status_page()
        raise RefusedError(HTTPStatus.NOT_FOUND, "there are /, /metrics, /healthz and /readyz")

    async def _status_page(self) -> Response:
        """The page. It is made at most once a second, by one thread, however many look at it."""
        async with self._turn:
            if self._page is None or anyio.current_time() - self._page[0] >= PAGE_LASTS:
                try:
                    with anyio.fail_after(PAGE_SECONDS):
                        rows = await self._read()
                except TimeoutError:
                    return Response("the workspaces' file system does not answer\n", HTTPStatus.SERVICE_UNAVAILABLE)
                except InitializationError as error:  # no thread could be started
                    return Response(f"{error.message}\n", HTTPStatus.SERVICE_UNAVAILABLE)
                text = page(self._snapshot(), self._figures, rows)
                made = Response(text, kind="text/html; charset=utf-8", headers=HEADERS)
                self._page = (anyio.current_time(), made)
            return self._page[1]

    async def _read(self) -> list[Row]:
        """The rows. Raises :class:`TimeoutError` while a thread that was given up is kept by what it reads."""
        if self._reading:
            raise TimeoutError
        shown = first_ones(self._listed(), MOST_ROWS)

        def read() -> list[Row]:
            try:
                return read_rows(shown)
            finally:
                self._reading = False

        self._reading = True
        try:
            return await run_in_thread(read, abandon_on_cancel=True)
        except InitializationError:
            self._reading = False
            raise
