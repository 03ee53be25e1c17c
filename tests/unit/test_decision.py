"""What to do with a database: every case, and what must never be decided."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfheald.catalog import CheckResult, Reading, Relation, judge
from selfheald.decision import Decision, decide
from selfheald.errors import InitializationError
from selfheald.initialization_state import RequiredTable, TableTier
from selfheald.locks import Holder

REQUIRED = [RequiredTable("comp_levers", TableTier.SEED)]
HEALS = ("found", "requested", "never")


def check(
    *,
    kind: Literal["table", "view"] | None = None,
    exists: bool = True,
    empty: bool = False,
    certain: bool = True,
    held: bool = False,
    error: InitializationError | None = None,
) -> CheckResult:
    """A check of a database in which the one required table is of this kind, or missing."""
    reading = Reading(
        identity=None,
        exists=exists,
        empty=empty,
        relations=() if kind is None else (Relation("main", "comp_levers", kind),),
        certain=certain,
        holder=Holder(4242, "python sim.py", "write") if held else None,
        error=error,
        duration_seconds=0.0,
        read_at=0.0,
    )
    return judge(reading, REQUIRED)


CORRUPT = InitializationError("torn", code="database_corrupt")


@pytest.mark.parametrize(
    ("found", "requested", "heal", "decision"),
    [
        (check(), False, "found", Decision.INITIALIZE),
        (check(), True, "found", Decision.INITIALIZE),
        (check(empty=True), False, "found", Decision.INITIALIZE),
        (check(), False, "requested", Decision.LEAVE),
        (check(), True, "requested", Decision.INITIALIZE),
        (check(), False, "never", Decision.LEAVE),
        (check(), True, "never", Decision.LEAVE),
        (check(held=True), True, "found", Decision.WAIT),
        (check(held=True), False, "never", Decision.LEAVE),
        (check(exists=False), False, "found", Decision.FORGET),
        (check(exists=False), True, "found", Decision.INITIALIZE),
        (check(exists=False), True, "requested", Decision.INITIALIZE),
        (check(kind="table"), False, "never", Decision.ADOPT),
        (check(kind="table", held=True), False, "found", Decision.ADOPT),
        (check(kind="view"), True, "found", Decision.FAIL),
        (check(kind="view", held=True), True, "found", Decision.FAIL),
        (check(error=CORRUPT), False, "found", Decision.FAIL),
        (check(error=CORRUPT, certain=False), False, "found", Decision.LOOK_AGAIN),
        (check(kind="table", certain=False), False, "found", Decision.LOOK_AGAIN),
        (check(certain=False, held=True), True, "found", Decision.LOOK_AGAIN),
    ],
)
def test_decisions(found: CheckResult, requested: bool, heal: str, decision: Decision) -> None:
    assert decide(found, requested=requested, heal=heal) is decision


@given(
    kind=st.sampled_from(["table", "view", None]),
    flags=st.tuples(*[st.booleans()] * 5),
    error=st.sampled_from([None, CORRUPT]),
    heal=st.sampled_from(HEALS),
)
def test_promises_about_every_decision(
    kind: Literal["table", "view"] | None,
    flags: tuple[bool, ...],
    error: InitializationError | None,
    heal: str,
) -> None:
    exists, empty, certain, held, requested = flags
    kind = kind if exists and not empty else None  # nothing is in a file that is not there, or empty
    found = check(kind=kind, exists=exists, empty=empty, certain=certain, held=held, error=error)
    decision = decide(found, requested=requested, heal=heal)
    if decision is Decision.INITIALIZE:
        assert certain
        assert error is None
        assert not held  # never in the way
        assert found.missing
        # A zero-byte file asks as a request does.
        assert heal == "found" or (heal == "requested" and (requested or empty))
    if decision is Decision.ADOPT:
        assert certain  # the marker tells the truth
        assert found.complete
    if not certain:
        assert decision is Decision.LOOK_AGAIN
    # Who holds it delays the making, and changes nothing else.
    free = decide(replace(found, reading=replace(found.reading, holder=None)), requested=requested, heal=heal)
    assert decision is free or (held and (decision, free) == (Decision.WAIT, Decision.INITIALIZE))
