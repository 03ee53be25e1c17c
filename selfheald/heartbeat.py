"""The watchdog's food: given only while the daemon really gets on with its work.

The service manager kills and restarts a daemon that it does not hear from. That must not happen to one that has a bad
file in its hands, and must happen to one that is stuck. So a beat is three proofs at once: the event loop ran this
task; a worker thread, under the limit that checks share, did what it was asked; each task that should run does, and
checks that are due begin.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass

import anyio

from selfheald.errors import InitializationError
from selfheald.log import event_log
from selfheald.notify import ServiceManager
from selfheald.threads import run_in_thread

#: Seconds that a worker thread may owe an answer. Files that block their readers occupy all threads for 10 s, and those
#: that wait behind them for 10 s more: that is what the reader's own limits are for, and no reason for an end.
WORKER_SECONDS = 60.0
#: Beats within the time that the service manager waits: one may come late, and one be lost.
BEATS = 3


@dataclass(frozen=True, slots=True)
class Pulse:
    """What a beat has found. Seconds.

    ``unanswered``: since a worker thread was asked for a sign and gave none. ``overdue``: for which a check has been
    due while none began or ended, and ``patience`` how long that may last. ``missing``: tasks that should run.
    """

    unanswered: float = 0.0
    overdue: float = 0.0
    patience: float = float("inf")
    missing: Set[str] = frozenset()


def complaint(pulse: Pulse) -> str | None:
    """What is wrong with it; ``None`` while the daemon gets on with its work."""
    if pulse.missing:
        return f"no longer at work: {', '.join(sorted(pulse.missing))}"
    if pulse.unanswered > WORKER_SECONDS:
        return f"no worker thread has answered for {pulse.unanswered:.0f} s"
    if pulse.overdue > pulse.patience:
        return f"checks are due, and none has begun or ended for {pulse.overdue:.0f} s"
    return None


class Heartbeat:
    """Feeds the watchdog. ``examine`` tells the rest of the pulse, given how long no worker thread has answered."""

    def __init__(
        self, manager: ServiceManager, threads: anyio.CapacityLimiter, examine: Callable[[float], Pulse]
    ) -> None:
        self._manager = manager
        self._threads = threads
        self._examine = examine
        self._asked: float | None = None
        self._complaint: str | None = None

    async def beat(self) -> None:
        """Beat for as long as the daemon lives; without a watchdog there is nothing to do, and it returns."""
        if self._manager.watchdog is None:
            return
        pause = self._manager.watchdog / BEATS
        async with anyio.create_task_group() as group:
            while True:
                now = anyio.current_time()
                wrong = complaint(self._examine(0.0 if self._asked is None else now - self._asked))
                if wrong is None:
                    self._manager.alive()
                self._tell(wrong)
                if self._asked is None:
                    self._asked = now
                    group.start_soon(self._ask_a_thread)
                await anyio.sleep(pause)

    async def _ask_a_thread(self) -> None:
        try:
            await run_in_thread(lambda: None, limiter=self._threads, abandon_on_cancel=True)
        except InitializationError:
            pass  # no thread can be started: the machine's shortage, which is told elsewhere and passes
        finally:
            self._asked = None

    def _tell(self, wrong: str | None) -> None:
        if wrong is not None and self._complaint is None:
            event_log("watchdog_unfed", f"the service manager is to restart this daemon: {wrong}", "ERROR")
        elif wrong is None and self._complaint is not None:
            event_log("watchdog_fed", "the daemon gets on with its work again")
        self._complaint = wrong
