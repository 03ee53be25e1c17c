"""The daemon: claim the roots, watch, scan, heal, stop. Its life is :meth:`Daemon.run`."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType

import anyio
import anyio.abc

from selfheald.caretaker import Caretaker
from selfheald.case import Case
from selfheald.config import Config
from selfheald.crash_guard import CrashGuard
from selfheald.errors import InitializationError
from selfheald.figures import Figures, Snapshot
from selfheald.heartbeat import Heartbeat, Pulse
from selfheald.log import configure_daemon, event_log
from selfheald.lookout import Lookout
from selfheald.marker import installed_version
from selfheald.metrics.endpoint import Endpoint
from selfheald.notify import ServiceManager
from selfheald.presence import Presence, claim
from selfheald.reloading import Change, ReadAgain, change
from selfheald.scan import Scan, is_watched, scan
from selfheald.standing import in_words
from selfheald.terminal import Terminal
from selfheald.threads import run_in_thread
from selfheald.warm_host import WarmHost
from selfheald.watch import only_error
from selfheald.workspace import is_under, merge_roots

#: Worker threads for checks and scans; each keeps one connection.
THREADS = 4
#: Seconds between two words to the service manager about how it goes.
STATUS_SECONDS = 1.0
#: The tasks without which the daemon is none.
HEAL, CHECK, RESCAN, WATCH = "initializations", "checks", "scans", "watch"


async def serve(
    config: Config, read_again: ReadAgain, manager: ServiceManager, log: Mapping[str, str | None] = MappingProxyType({})
) -> None:
    """Run the daemon until it is stopped by a signal. Raises :class:`InitializationError` if it cannot start.

    ``read_again`` gives the configuration at a reload; ``manager`` hears how it goes; ``log`` is where it logs, for
    people who look for that.
    """
    try:
        await Daemon(config, read_again, manager, log).run()
    except BaseExceptionGroup as group:
        error = only_error(group)
        if isinstance(error, InitializationError):
            raise error from None
        raise


class Daemon:
    """Watches roots and makes the databases in them ready until it is told to stop. Made inside an event loop."""

    def __init__(
        self, config: Config, read_again: ReadAgain, manager: ServiceManager, log: Mapping[str, str | None]
    ) -> None:
        self.config = config
        self._read_again = read_again
        self._manager = manager
        self._log = log
        self.roots = merge_roots(list(config.watch.roots))
        self._threads = anyio.CapacityLimiter(THREADS)
        self._guard = CrashGuard(config.state_dir, self.roots)
        self._figures = Figures()
        self._warm_host = WarmHost(config, self._figures)
        self._caretaker = Caretaker(config, self._threads, self._guard, self._warm_host.start, self._figures)
        self._endpoint = Endpoint(self._figures, self._snapshot, self._caretaker.listed)
        self._heartbeat = Heartbeat(manager, self._threads, self._pulse)
        self._lookout = self._new_lookout()
        self._intake, self._watching = anyio.CancelScope(), anyio.CancelScope()
        self._reload_wanted = anyio.Event()
        self._reloading = self._refused = False
        self._roots_lock = anyio.Lock()  # while a reload goes on, it is open which roots are ours
        self._terminal = Terminal()
        self._state = "starting"
        self._presence: Presence | None = None

    async def run(self) -> None:
        """Live: claim, watch, scan, READY, heal; stop at the first signal, at once at the second.

        Raises :class:`InitializationError` if a root cannot be claimed.
        """
        watch, attempts = self.config.watch, self.config.retry.attempts
        with claim(self.roots, watch.database, watch.exclude, attempts) as presence, self._guard:
            self._presence = presence
            presence.log = self._log
            self._tell_of_crashes()
            self._tell("starting")
            async with self._warm_host, anyio.create_task_group() as life:
                life.start_soon(self._listen_to_signals, life.cancel_scope)
                life.start_soon(self._warm_host.end_when_idle)
                life.start_soon(self._heartbeat.beat)
                life.start_soon(self._say_how_it_goes)
                await life.start(self._endpoint.serve)
                await self._endpoint.move(self.config.metrics.listen)
                async with anyio.create_task_group() as work:
                    work.start_soon(self._caretaker.heal, name=HEAL)
                    with self._intake:
                        await self._take_in()
                    self._caretaker.stop()
                life.cancel_scope.cancel()
            self._tell("stopping")
        event_log("daemon_stopped", "stopped")

    def _new_lookout(self) -> Lookout:
        return Lookout(
            self.config,
            self.roots,
            self._threads,
            on_database=self._on_database,
            known=self._caretaker,
            on_state=self._tell,
            before_watch=self._renew_claims,
            figures=self._figures,
        )

    def _tell_of_crashes(self) -> None:
        if self._guard.error is not None:
            event_log("crash_guard_off", f"cannot note which file is being read: {self._guard.error}", "WARNING")
        self._tell_of_suspects(self._guard.suspects)

    def _tell_of_suspects(self, suspects: Iterable[Path]) -> None:
        for path in suspects:
            event_log(
                "check_suspect",
                "it was being read when the last daemon ended: it is read in a process apart",
                "WARNING",
                database=str(path),
            )

    async def _take_in(self) -> None:
        """See what there is and what happens, and check it, until a signal ends this."""
        async with anyio.create_task_group() as intake:
            found = await intake.start(self._watch)
            if self._presence is not None:
                self._presence.refuse_others(found.claimed)
            intake.start_soon(self._caretaker.check_what_is_due, name=CHECK)
            self._tell("ready")
            event_log("daemon_ready", f"ready: {self._what_is_watched()}")
            self._manager.ready(self._how_it_goes())
            while True:
                await self._reload_wanted.wait()
                self._reload_wanted = anyio.Event()
                async with self._roots_lock:
                    await self._reload(intake)

    async def _watch(self, *, task_status: anyio.abc.TaskStatus[Scan]) -> None:
        """Watch and scan, until a reload wants another watch."""
        with anyio.CancelScope() as self._watching:
            async with anyio.create_task_group() as group:
                found = await group.start(self._lookout.keep_watch, name=WATCH)
                group.start_soon(self._rescan, name=RESCAN)
                task_status.started(found)

    async def _rescan(self) -> None:
        """Every ``watch.rescan`` seconds the truth, whatever events were lost."""
        failing = False
        while True:
            await anyio.sleep(self.config.watch.rescan)
            try:
                if not await self._lookout.rescan():
                    self._caretaker.look_at_unsettled()
                await self._caretaker.follow_project()
            except (InitializationError, OSError) as error:  # a shortage of the machine, which passes
                self._figures.rescanned("failed")
                if not failing:
                    event_log("scan_failed", f"no scans until it passes: {error}", "WARNING")
                failing = True
            else:
                if failing:
                    event_log("scan_restored", "scanning again")
                failing = False

    async def _reload(self, intake: anyio.abc.TaskGroup) -> None:
        """Go on with the configuration as it is now; one that cannot be followed is refused as a whole."""
        event_log("reload_started", "reading the configuration again")
        self._reloading = True
        self._manager.reloading(self._how_it_goes())
        try:
            changed = change(self.config, self._read_again())
            await self._claim_further(changed)
        except (InitializationError, OSError) as error:
            self._refused = True
            self._figures.reloads["refused"] += 1
            for line in str(error).splitlines():
                event_log("reload_refused", line, "ERROR", error_code=getattr(error, "code", None))
            event_log("reload_refused", "the configuration stays as it was", "WARNING")
        else:
            self._refused = False
            self._figures.reloads["followed"] += 1
            await self._follow(changed, intake)
        self._reloading = False
        self._manager.ready(self._how_it_goes())

    async def _claim_further(self, changed: Change) -> None:
        """Claim the roots that are new, and the port: all of them, or none. Raises :class:`InitializationError`."""
        presence, watch = self._presence, changed.config.watch
        assert presence is not None
        new = [root for root in changed.roots if root not in presence.locks]
        presence.claim(new)
        try:
            look = partial(scan, new, watch.database, frozenset(watch.exclude))
            presence.refuse_others((await run_in_thread(look, limiter=self._threads)).claimed)
            await self._endpoint.move(changed.config.metrics.listen)
        except BaseException:
            for root in new:
                presence.let_go(root)
            raise

    async def _follow(self, changed: Change, intake: anyio.abc.TaskGroup) -> None:
        """Go on with another configuration. Nothing in here is refused any more."""
        presence, watch = self._presence, changed.config.watch
        assert presence is not None
        self.config, self.roots = changed.config, changed.roots
        if any(key.startswith("log.") for key in changed.keys):
            presence.log = configure_daemon(self.config)
        dropped = [root for root in presence.locks if root not in self.roots]
        presence.roots, presence.database = list(self.roots), watch.database
        presence.exclude, presence.attempts = sorted(watch.exclude), self.config.retry.attempts
        self._tell_of_suspects(self._guard.look_after(self.roots))
        if changed.watch_anew:
            self._lookout = self._new_lookout()
        self._warm_host.follow(self.config)
        at_work = self._caretaker.follow(self.config, self._is_ours, look_again=changed.look_again)
        if changed.watch_anew:
            self._watching.cancel()
            await intake.start(self._watch)
        for root in dropped:
            intake.start_soon(self._let_go, root, [case for case in at_work if is_under(case.database.path, root)])
        self._tell("ready")
        for key in changed.kept:
            event_log("reload_incomplete", f"{key} is another only after a restart", "WARNING")
        what = ", ".join(key for key in changed.keys if key not in changed.kept) or "nothing"
        event_log("reloaded", f"reloaded ({what} changed): {self._what_is_watched()}")

    async def _let_go(self, root: Path, at_work: Sequence[Case]) -> None:
        """Let go of a root, once what is under way there has ended: until then whoever waits for it has a daemon."""
        for case in at_work:
            async with case.turn:
                pass
        async with self._roots_lock:
            if self._presence is not None and root not in self.roots:
                self._presence.let_go(root)
                event_log("root_let_go", f"{root} is not watched any more")

    async def _listen_to_signals(self, life: anyio.CancelScope) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            # One that came earlier has waited.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
            async for received in signals:
                if received is signal.SIGHUP and not self._terminal.is_gone():
                    self._reload_wanted.set()
                    continue
                if received is signal.SIGHUP:
                    self._terminal.let_go()
                if self._state == "stopping":
                    event_log("daemon_stopping", f"{received.name} again: stopping at once", "WARNING")
                    life.cancel()
                    return
                else:
                    self._begin_to_stop(received, life)

    def _begin_to_stop(self, received: signal.Signals, life: anyio.CancelScope) -> None:
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
        if self._reloading:
            return f"reloading: {words}"
        words += "; the watch is degraded" if self._lookout.state == "degraded" else ""
        return f"{words}; the last reload was refused, see the log" if self._refused else words

    def _snapshot(self) -> Snapshot:
        now = anyio.current_time()
        queue, oldest = self._caretaker.queue(now)
        return Snapshot(
            state=self._state,
            watcher=self._lookout.state,
            version=installed_version(),
            roots=tuple(map(str, self.roots)),
            standings=self._caretaker.standings(),
            queue=queue,
            oldest=oldest,
            running=self._caretaker.running_for(now),
            overdue=self._caretaker.overdue(now),
            reload_refused=self._refused,
        )

    def _pulse(self, unanswered: float) -> Pulse:
        expected = {"ready": {HEAL, CHECK, RESCAN, WATCH}, "starting": {HEAL}}.get(self._state, set[str]())
        if self._reloading:
            expected -= {RESCAN, WATCH}
        running = {task.name for task in anyio.get_running_tasks()}
        overdue = self._caretaker.overdue(anyio.current_time()) if self._state == "ready" else 0.0
        return Pulse(unanswered, overdue, self._caretaker.longest_check(), expected - running)

    def _on_database(self, path: Path, quiet: bool) -> None:
        # While a reload goes on, the lookout may still be one of before. What is ignored it has left out.
        if path.name == self.config.watch.database and is_watched(path, self.roots, self._lookout.exclude):
            self._caretaker.hint(path, quiet)

    def _is_ours(self, path: Path) -> bool:
        return path.name == self.config.watch.database and self._lookout.root_of(path) is not None

    def _what_is_watched(self) -> str:
        roots = ", ".join(map(str, self.roots))
        return f"watching {roots} ({self._lookout.state}), {len(self._caretaker)} databases found"

    def _renew_claims(self) -> None:
        if self._presence is not None:
            self._presence.renew()

    def _tell(self, state: str | None = None) -> None:
        """Write to each root who we are and how we are."""
        self._state = state or self._state
        self._caretaker.news.set()
        if self._presence is not None:
            self._presence.tell(self._state, self._lookout.state)
