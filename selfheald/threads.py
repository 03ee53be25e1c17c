"""Worker threads: where none can be started, that is a shortage like any other, which passes."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import anyio
import anyio.to_thread

from selfheald.errors import from_os_error

Result = TypeVar("Result")


async def run_in_thread(
    function: Callable[[], Result], *, limiter: anyio.CapacityLimiter | None = None, abandon_on_cancel: bool = False
) -> Result:
    """As anyio's own; raises :class:`~selfheald.errors.InitializationError` if no thread can be started."""
    began = False

    def noted() -> Result:
        nonlocal began
        began = True
        return function()

    try:
        return await anyio.to_thread.run_sync(noted, limiter=limiter, abandon_on_cancel=abandon_on_cancel)
    except RuntimeError as error:
        if began:
            raise
        raise from_os_error(OSError(errno.EAGAIN, str(error)), None, "start a thread")  # noqa: B904 - it has its cause


async def in_stoppable_thread(function: Callable[..., Result]) -> Result:
    """Run ``function`` in a worker thread; when this is cancelled, the event that it is given as ``stop`` is set."""
    stop = threading.Event()
    try:
        return await run_in_thread(partial(function, stop=stop), abandon_on_cancel=True)
    finally:
        stop.set()
