"""What is due when, beside a plain dictionary."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from selfheald.agenda import Agenda

ITEMS = st.integers(0, 4)
TIMES = st.integers(0, 8).map(float)


class AgendaMachine(RuleBasedStateMachine):
    """An agenda beside a dictionary that is searched."""

    def __init__(self) -> None:
        super().__init__()
        self.agenda: Agenda[int] = Agenda()
        self.due: dict[int, float] = {}

    @rule(item=ITEMS, due=TIMES)
    def put(self, item: int, due: float) -> None:
        self.agenda.put(item, due)
        self.due[item] = due

    @rule(item=ITEMS, due=TIMES)
    def put_earlier(self, item: int, due: float) -> None:
        self.agenda.put_earlier(item, due)
        self.due[item] = min(due, self.due.get(item, due))

    @rule(item=ITEMS)
    def discard(self, item: int) -> None:
        self.agenda.discard(item)
        self.due.pop(item, None)

    @rule(now=TIMES)
    def pop(self, now: float) -> None:
        popped = self.agenda.pop(now)
        earliest = min(self.due.values(), default=None)
        if earliest is None or earliest > now:
            assert popped is None
        else:
            assert popped is not None
            assert self.due.pop(popped) == earliest

    @invariant()
    def same(self) -> None:
        assert len(self.agenda) == len(self.due)
        assert self.agenda.next_due() == min(self.due.values(), default=None)
        for item in range(5):
            assert self.agenda.due(item) == self.due.get(item)
            assert (item in self.agenda) is (item in self.due)


TestAgenda = AgendaMachine.TestCase
TestAgenda.settings = settings(max_examples=80, stateful_step_count=30)


def test_what_is_put_off_again_and_again_does_not_pile_up() -> None:
    agenda: Agenda[str] = Agenda()
    for now in range(10_000):
        agenda.put("never quiet", now + 0.2)
        agenda.put("other", now + 0.1)
        assert agenda.next_due() == now + 0.1
    assert len(agenda._heap) < 10
