"""What is due when, beside a plain dictionary."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from selfheald.agenda import IN_A_ROW, SWEEP, Agenda

ITEMS = st.integers(0, 4)
TIMES = st.integers(0, 8).map(float)


class AgendaMachine(RuleBasedStateMachine):
    """An agenda beside a dictionary that is searched: whether an item goes first, and when it is due."""

    def __init__(self) -> None:
        super().__init__()
        self.agenda: Agenda[int] = Agenda()
        self.due: dict[int, tuple[bool, float]] = {}
        self.in_a_row = 0

    @rule(item=ITEMS, due=TIMES, first=st.booleans())
    def put(self, item: int, due: float, first: bool) -> None:
        self.agenda.put(item, due, first=first)
        self.due[item] = (first, due)

    @rule(item=ITEMS)
    def discard(self, item: int) -> None:
        self.agenda.discard(item)
        self.due.pop(item, None)

    @rule(now=TIMES)
    def pop(self, now: float) -> None:
        popped = self.agenda.pop(now)
        first, others = (
            sorted(due for goes_first, due in self.due.values() if goes_first is lane and due <= now)
            for lane in (True, False)
        )
        if not first and not others:
            assert popped is None
            return
        assert popped is not None
        others_turn = not first or (bool(others) and self.in_a_row >= IN_A_ROW)
        assert self.due.pop(popped) == ((False, others[0]) if others_turn else (True, first[0]))
        self.in_a_row = self.in_a_row + 1 if others and not others_turn else 0

    @invariant()
    def same(self) -> None:
        assert len(self.agenda) == len(self.due)
        assert self.agenda.next_due() == min((due for _, due in self.due.values()), default=None)
        for item in range(5):
            assert self.agenda.due(item) == self.due.get(item, (False, None))[1]
            assert (item in self.agenda) is (item in self.due)


TestAgenda = AgendaMachine.TestCase
TestAgenda.settings = settings(max_examples=80, stateful_step_count=30)


def test_what_somebody_waits_for_comes_before_a_thousand() -> None:
    agenda: Agenda[str | int] = Agenda()
    for number in range(1000):
        agenda.put(number, float(number))
    agenda.put("waited for", 1000.0, first=True)
    assert agenda.pop(2000.0) == "waited for"
    assert agenda.pop(2000.0) == 0


def test_those_that_somebody_waits_for_starve_nobody() -> None:
    agenda: Agenda[str | int] = Agenda()
    agenda.put("found", 0.0)
    for number in range(100):
        agenda.put(number, 0.0, first=True)
    taken = [agenda.pop(1.0) for _ in range(IN_A_ROW + 2)]
    assert taken.count("found") == 1


def test_what_is_put_off_again_and_again_does_not_pile_up() -> None:
    agenda: Agenda[str] = Agenda()
    agenda.put("head", 0.0)
    for now in range(10_000):
        agenda.put("never quiet", now + 0.2)
        agenda.put("other", now + 0.1, first=bool(now % 2))
    assert sum(map(len, agenda._lanes)) < 3 * SWEEP
    assert agenda.pop(0.0) == "head"
    assert len(agenda) == 2
