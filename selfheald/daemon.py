"""The daemon: claim the roots, watch, scan, heal, stop. Its life is :meth:`Daemon.run`."""

from __future__ import annotations

import signal
from pathlib import Path

import anyio

from selfheald.caretaker import Caretaker
from selfheald.config import Config
from selfheald.crash_guard import CrashGuard
from selfheald.errors import InitializationError
from selfheald.heartbeat import Heartbeat, Pulse
from selfheald.log import event_log
from selfheald.lookout import Lookout
from selfheald.notify import ServiceManager
from selfheald.presence import Presence, claim
from selfheald.standing import in_words
from selfheald.watch import only_error
from selfheald.workspace import merge_roots

#: Worker threads for checks and scans; each keeps one connection.
THREADS = 4
#: Seconds between two words to the service manager about how it goes.
STATUS_SECONDS = 1.0
#: The tasks without which the daemon is none.
HEAL, CHECK, RESCAN, WATCH = "initializations", "checks", "scans", "watch"


async def serve(config: Config, manager: ServiceManager) -> None:
    """Run the daemon until it is stopped by a signal. Raises :class:`InitializationError` if it cannot start.

    ``manager`` hears how it goes.
    """
    try:
        await Daemon(config, manager).run()
    except BaseExceptionGroup as group:
        error = only_error(group)
        if isinstance(error, InitializationError):
            raise error from None
        raise


class Daemon:
    """Watches roots and makes the databases in them ready until it is told to stop. Made inside an event loop."""

    def __init__(self, config: Config, manager: ServiceManager) -> None:
        self.config = config
        self._manager = manager
        self.roots = merge_roots(list(config.watch.roots))
        threads = anyio.CapacityLimiter(THREADS)
        self._guard = CrashGuard(config.state_dir, self.roots)
        self._caretaker = Caretaker(config, threads, self._guard)
        self._heartbeat = Heartbeat(manager, threads, self._pulse)
        self._lookout = Lookout(
            config,
            self.roots,
            threads,
            on_database=self._on_database,
            known=self._caretaker,
            on_state=self._tell,
            before_watch=self._renew_claims,
        )
        self._intake = anyio.CancelScope()
        self._state = "starting"
        self._presence: Presence | None = None

    async def run(self) -> None:
        """Live: claim, watch, scan, READY, heal; stop at the first signal, at once at the second.

        Raises :class:`InitializationError` if a root cannot be claimed.
        """
        watch, attempts = self.config.watch, self.config.retry.attempts
        with claim(self.roots, watch.database, watch.exclude, attempts) as presence, self._guard:
            self._presence = presence
            self._tell_of_crashes()
            self._tell("starting")
            async with anyio.create_task_group() as life:
                life.start_soon(self._listen_to_signals, life.cancel_scope)
                life.start_soon(self._heartbeat.beat)
                life.start_soon(self._say_how_it_goes)
                async with anyio.create_task_group() as work:
                    work.start_soon(self._caretaker.heal, name=HEAL)
                    with self._intake:
                        await self._take_in()
                    self._caretaker.stop()
                life.cancel_scope.cancel()
            self._tell("stopping")
        event_log("daemon_stopped", "stopped")

    def _tell_of_crashes(self) -> None:
        if self._guard.error is not None:
            event_log("crash_guard_off", f"cannot note which file is being read: {self._guard.error}", "WARNING")
        for path in self._guard.suspects:
            event_log(
                "check_suspect",
                "it was being read when the last daemon ended: it is read in a process apart",
                "WARNING",
                database=str(path),
            )

    async def _take_in(self) -> None:
        """See what there is and what happens, and check it, until a signal ends this."""
        async with anyio.create_task_group() as intake:
            found = await intake.start(self._lookout.keep_watch, name=WATCH)
            if self._presence is not None:
                self._presence.refuse_others(found.claimed)
            intake.start_soon(self._caretaker.check_what_is_due, name=CHECK)
            intake.start_soon(self._rescan, name=RESCAN)
            self._tell("ready")
            self._manager.ready(self._how_it_goes())
            roots = ", ".join(map(str, self.roots))
            count = f"{len(self._caretaker)} databases found"
            event_log("daemon_ready", f"ready: watching {roots} ({self._lookout.state}), {count}")

    async def _rescan(self) -> None:
        """Every ``watch.rescan`` seconds the truth, whatever events were lost."""
        while True:
            await anyio.sleep(self.config.watch.rescan)
            try:
                await self._lookout.rescan()
                await self._caretaker.follow_project()
            except (InitializationError, OSError) as error:  # a shortage of the machine, which passes
                event_log("scan_failed", f"no scan this time: {error}", "WARNING")

    async def _listen_to_signals(self, life: anyio.CancelScope) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for received in signals:
                if self._state == "stopping":
                    event_log("daemon_stopping", f"{received.name} again: stopping at once", "WARNING")
                    life.cancel()
                    return
                self._tell("stopping")
                grace = self.config.shutdown.grace
                what = f"; a running initialization has {grace:g} s to end" if self._caretaker.is_initializing() else ""
                event_log("daemon_stopping", f"{received.name}: stopping{what}")
                self._manager.stopping(self._how_it_goes())
                self._intake.cancel()
                life.deadline = anyio.current_time() + grace

    async def _say_how_it_goes(self) -> None:
        """Tell the service manager of what changes, and of nothing while nothing does."""
        said = ""
        while self._manager.listens:
            self._caretaker.news = anyio.Event()
            now = self._how_it_goes()
            if now != said and self._manager.status(now):
                said = now
            not_before = anyio.current_time() + STATUS_SECONDS
            await self._caretaker.news.wait()
            await anyio.sleep_until(not_before)

    def _how_it_goes(self) -> str:
        """``12 ready, 1 building 3/10, 1 failed``, and what else there is to know."""
        words = in_words(self._caretaker.standings(), self._caretaker.progress())
        if self._state != "ready":
            return f"{self._state}: {words}"
        return f"{words}; the watch is degraded" if self._lookout.state == "degraded" else words

    def _pulse(self, unanswered: float) -> Pulse:
        expected = {"ready": {HEAL, CHECK, RESCAN, WATCH}, "starting": {HEAL}}.get(self._state, set())
        running = {task.name for task in anyio.get_running_tasks()}
        overdue = self._caretaker.overdue(anyio.current_time()) if self._state == "ready" else 0.0
        return Pulse(unanswered, overdue, self._caretaker.longest_check(), expected - running)

    def _on_database(self, path: Path, quiet: bool) -> None:
        if self._lookout.root_of(path) is not None:
            self._caretaker.hint(path, quiet)

    def _renew_claims(self) -> None:
        if self._presence is not None:
            self._presence.renew()

    def _tell(self, state: str | None = None) -> None:
        """Write to each root who we are and how we are."""
        self._state = state or self._state
        self._caretaker.news.set()
        if self._presence is not None:
            self._presence.tell(self._state, self._lookout.state)
