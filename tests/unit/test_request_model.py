"""A request's life: waiters, the daemon, and a kill at any moment, in any order, on real files.

The real client and the real functions of the daemon's side; modelled are the clock, and what the daemon decides. What
must hold: every waiter gets an answer, whoever is killed when, and a failure of a check that began before a waiter
asked is never taken for an answer.
"""

from __future__ import annotations

import inspect
import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fixtures.figures import SOAK, Figures, scaled
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from selfheald import client
from selfheald.client import _Wait, file_identity, read_record, request_path
from selfheald.errors import InitializationError
from selfheald.marker import Status, finish_request, remove_marker, take_request, write_marker
from selfheald.workspace import Database, ensure_private_folder

WAITERS = 4
VERDICTS = st.sampled_from(["failed", "ready", "backoff"])


@dataclass
class Waiter:
    """A waiter: when it asked first (a count of events), and what it was told in the end."""

    wait: _Wait
    asked_at: int | None = None
    told: str | None = None


class RequestMachine(RuleBasedStateMachine):
    """Everything that can happen to a request."""

    runs = 0
    answered = 0

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="selfheald-requests-"))
        self.database = Database.at(self.folder / "simulation.duckdb")
        self.now, self.event, self.too_old = 100.0, 0, False
        self.waiters: list[Waiter] = []
        self.daemon: Generator[str, str, None] | None = None
        self.at = ""
        self.verdicts: dict[str, int] = {}
        self._patched = pytest.MonkeyPatch()
        clock = SimpleNamespace(monotonic=lambda: self.now, strftime=time.strftime, gmtime=time.gmtime)
        self._patched.setattr(client, "time", clock)
        self._patched.setattr(os, "fsync", lambda _: None)  # nothing here loses its power
        self._patched.setattr(client, "daemon_root", lambda _: self.folder if self.daemon is not None else None)

    @initialize(was_ready=st.booleans())
    def begin(self, was_ready: bool) -> None:
        """A database, perhaps one that was ready, with an old failure's status beside it."""
        self.database.path.write_bytes(b"a database")
        ensure_private_folder(self.database)
        if was_ready:
            self._certify(None)
            self.database.path.write_bytes(b"changed since")
        Status(self.database, answers="an old one").write(state="failed", error=self._error())
        self.start()

    def _certify(self, answers: str | None) -> None:
        identity = file_identity(self.database.path)
        assert identity is not None
        write_marker(self.database, identity, [], fingerprint="f", origin="dbt", answers=answers, checked_at=0.0)

    def _error(self) -> dict[str, object]:
        """Of a check that begins now."""
        name = f"verdict {len(self.verdicts)}"
        self.verdicts[name] = self.event
        return {"code": "dbt_failed", "message": name}

    # --- the daemon

    def start(self) -> None:
        self.daemon = self._live()
        self.at = next(self.daemon)

    @precondition(lambda self: self.daemon is not None)
    @rule(verdict=VERDICTS)
    def let_the_daemon_go_on(self, verdict: str) -> None:
        """To its next effect on disk; ``verdict`` counts where it has just checked."""
        self.event += 1
        assert self.daemon is not None
        self.at = self.daemon.send(verdict)

    @precondition(lambda self: self.daemon is not None)
    @rule(times=st.integers(1, 4))
    def let_it_go_on_and_fail(self, times: int) -> None:
        for _ in range(times):
            self.let_the_daemon_go_on("failed")

    def _live(self) -> Generator[str, str, None]:
        """What the caretaker does about requests: between any two of its effects others act, or it is killed."""
        requested, status = False, Status(self.database)
        while True:
            verdict = yield "idle"
            there, request_id = take_request(self.database)
            if there and (not requested or status.record["answers"] != request_id):
                yield "taken"
                requested, status = True, Status(self.database, answers=request_id)
                if not os.path.lexists(self.database.marker):
                    status.write(state="not_started")
            if not requested:
                continue
            error = self._error()
            verdict = yield "checked"
            if verdict == "ready":
                status.write(state="completed", error=None, next_attempt_at=None)
                yield "told"
                self._certify(status.record["answers"])
            else:
                if remove_marker(self.database):
                    yield "marker removed"
                later = "2026-01-01T00:00:00.000Z" if verdict == "backoff" else None
                status.write(state="failed", error=error, next_attempt_at=later)
            if verdict == "backoff":
                status = Status(self.database, answers=status.record["answers"])
                continue
            yield "verdict on disk"
            finish_request(self.database)
            requested, status = False, Status(self.database)

    # --- those who wait

    @precondition(lambda self: len(self.waiters) < WAITERS)
    @rule()
    def come(self) -> None:
        self.waiters.append(Waiter(_Wait(self.database.path, None)))
        self._look(self.waiters[-1])

    @precondition(lambda self: any(each.told is None for each in self.waiters))
    @rule(which=st.integers(0, WAITERS - 1))
    def look(self, which: int) -> None:
        waiting = [each for each in self.waiters if each.told is None]
        self._look(waiting[which % len(waiting)])

    def _look(self, waiter: Waiter) -> None:
        self.event += 1
        try:
            if waiter.wait.look() is not None:
                waiter.told = "ready"
        except InitializationError as error:
            waiter.told = error.code
            if error.code == "no_daemon":
                waiter.wait.withdraw()
            elif waiter.asked_at is not None:
                self.too_old |= self.verdicts[error.message] < waiter.asked_at
        if waiter.asked_at is None and waiter.wait.request_id is not None:
            waiter.asked_at = self.event

    @invariant()
    def no_older_failure_is_an_answer(self) -> None:
        assert not self.too_old

    @rule(what=st.sampled_from(["kill", "kill", "touch", "write", "give up", "0.6 s", "5.5 s"]))
    def something_else_happens(self, what: str) -> None:
        """Each alone is rare: the daemon is killed or started, a shell asks, a simulator writes, a waiter goes."""
        waiting = [each for each in self.waiters if each.told is None]
        if what == "kill" and self.daemon is None:
            self.start()
        elif what == "kill":
            self.daemon = None
        elif what == "touch":
            request_path(self.database.path).touch()
        elif what == "write":
            self.database.path.write_bytes(os.urandom(8))
        elif what == "give up" and waiting:
            waiting[0].told = "interrupted"  # by Ctrl-C: what it asked for stays
        elif what.endswith("s"):
            self.now += float(what.split()[0])

    def state(self) -> object:
        """All that what can follow depends on."""
        frame = inspect.getgeneratorlocals(self.daemon) if self.daemon is not None else {}
        status = read_record(self.database.status) or {}
        asked = [0 if each.asked_at is None else each.asked_at for each in self.waiters]

        def age(error: Any) -> object:
            return error and [self.verdicts[error["message"]] < moment for moment in asked]

        return repr(
            (
                [(path.name, (read_record(path) or {}).get("id")) for path in sorted(self.database.private.iterdir())],
                (status["state"], status["answers"], status["next_attempt_at"], age(status["error"])),
                [(each.told, each.wait.request_id, each.wait.taken, each.wait.older) for each in self.waiters],
                (self.at, frame.get("requested"), age(frame.get("error"))),
                frame["status"].record["answers"] if frame else None,
            )
        )

    def teardown(self) -> None:
        """From any moment on: with a daemon that lives, everybody gets an answer, and nothing is left over."""
        try:
            if self.database.path.exists():
                self._come_to_an_end()
        finally:
            self._patched.undo()
            shutil.rmtree(self.folder)

    def _come_to_an_end(self) -> None:
        if self.daemon is None:
            self.start()
        for _ in range(80):
            self.something_else_happens("0.6 s")
            for _ in [each for each in self.waiters if each.told is None]:
                self.look(0)
            self.let_the_daemon_go_on("failed")
        assert all(each.told for each in self.waiters), "somebody waits for ever"
        left = {path.name for path in self.database.private.iterdir()} - {"simulation.duckdb.status"}
        assert left == set()
        RequestMachine.runs += 1
        RequestMachine.answered += len(self.waiters)


def test_the_answer_to_an_older_request_while_ours_is_being_taken() -> None:
    """The status is the older one's still when ours has left its place: that must not look as if ours was merged."""
    machine = RequestMachine()
    machine.begin(was_ready=True)
    machine.come()
    machine.let_it_go_on_and_fail(2)  # the first request is taken, and checked
    machine.come()
    machine.let_it_go_on_and_fail(4)  # it has failed, and the second one is taken
    assert machine.database.taken_request.exists()
    machine.look(1)
    assert not machine.too_old
    machine.teardown()


#: What is tried in every order: two who wait, and a daemon that fails, is killed, and comes again.
STEPS = ("come", "go on", "look 1", "kill", *(("look 0",) if SOAK else ()))


def after(steps: tuple[str, ...]) -> tuple[object, bool]:
    """What there is after these steps, as far as it matters for what can follow, and whether a promise is broken."""
    machine = RequestMachine()
    names = (f"id {number}" for number in itertools.count())
    machine._patched.setattr(client, "_new_id", lambda: next(names))
    try:
        machine.begin(was_ready=True)  # no status tells then that a request was taken
        machine.come()
        for step in steps:
            if step == "come":
                machine.come()
            elif step == "go on":
                machine.let_the_daemon_go_on("failed")
            elif step == "kill":
                machine.something_else_happens("kill")
                machine.something_else_happens("kill")
            elif machine.waiters[int(step[-1])].told is None:
                machine._look(machine.waiters[int(step[-1])])
        return machine.state(), machine.too_old
    finally:
        machine._patched.undo()
        shutil.rmtree(machine.folder)


@pytest.mark.promise(9)
@pytest.mark.soak
@pytest.mark.timeout(scaled(120, 600))
def test_two_waiters_and_a_daemon_in_every_order(figures: Figures) -> None:
    """All sequences of a certain length, but for those that lead to what has been met on a shorter way."""
    frontier: list[tuple[str, ...]] = [()]
    met: set[object] = set()
    wrong: list[tuple[str, ...]] = []
    for _ in range(scaled(8, 9)):
        longer = []
        for steps, step in itertools.product(frontier, STEPS):
            if ("come" in steps) == (step == "come") and step in ("come", "look 1"):
                continue
            key, broken = after((*steps, step))
            if broken:
                wrong.append((*steps, step))
            if key not in met:
                met.add(key)
                longer.append((*steps, step))
        frontier = longer
    figures.tell(
        9,
        "requests: two waiters and a daemon that fails and is killed, in every order (model, real files)",
        tried=len(met),
        survived=len(met) - len(wrong),
        wrong=len(wrong),
        note="states",
    )
    assert wrong == []
    assert len(met) > 100


@pytest.fixture
def _counted() -> None:
    RequestMachine.runs = RequestMachine.answered = 0


@pytest.mark.promise(9)
@pytest.mark.soak
@pytest.mark.timeout(scaled(120, 600))
@pytest.mark.usefixtures("_counted")
def test_every_waiter_gets_its_own_answer(figures: Figures) -> None:
    survived = False
    try:
        run_state_machine_as_test(
            RequestMachine, settings=settings(max_examples=scaled(80, 1000), stateful_step_count=40, deadline=None)
        )
        survived = True
    finally:
        figures.tell(
            9,
            "requests: waiters, daemon and kills in any order (model, real files)",
            tried=RequestMachine.runs,
            survived=RequestMachine.runs,
            wrong=int(not survived),
            note=f"{RequestMachine.answered:,} waiters answered",
        )
