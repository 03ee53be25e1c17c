"""The queue of databases: each at most once, requested ones first, first in first out within a lane."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from selfheald.backlog import Backlog

ITEMS = st.integers(0, 6)


class BacklogMachine(RuleBasedStateMachine):
    """A backlog beside two plain lists."""

    def __init__(self) -> None:
        super().__init__()
        self.backlog: Backlog[int] = Backlog()
        self.requested: list[int] = []
        self.found: list[int] = []

    @rule(item=ITEMS)
    def find(self, item: int) -> None:
        new = item not in self.requested + self.found
        assert self.backlog.add(item) is new
        if new:
            self.found.append(item)

    @rule(item=ITEMS)
    def request(self, item: int) -> None:
        moved = item not in self.requested
        assert self.backlog.add(item, requested=True) is moved
        if moved:
            self.requested.append(item)
        if item in self.found:
            self.found.remove(item)

    @rule()
    def pop(self) -> None:
        lane = self.requested or self.found
        assert self.backlog.pop() == (lane.pop(0) if lane else None)

    @rule(item=ITEMS)
    def discard(self, item: int) -> None:
        there = item in self.requested + self.found
        assert self.backlog.discard(item) is there
        if there:
            (self.requested if item in self.requested else self.found).remove(item)

    @invariant()
    def same(self) -> None:
        waiting = self.requested + self.found
        assert list(self.backlog) == waiting
        assert len(self.backlog) == len(waiting)
        for item in range(7):
            assert (item in self.backlog) is (item in waiting)
            assert self.backlog.position(item) == (waiting.index(item) if item in waiting else None)


TestBacklog = BacklogMachine.TestCase
TestBacklog.settings = settings(max_examples=50, stateful_step_count=25)


def test_the_place_of_what_was_just_added_is_known_without_counting() -> None:
    compared = 0

    class Item:
        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return self is other

        __hash__ = object.__hash__

    backlog: Backlog[Item] = Backlog()
    for place in range(1000):
        item = Item()
        assert backlog.add(item)
        assert backlog.position(item) == place
    asked = Item()
    assert backlog.add(asked, requested=True)
    assert backlog.position(asked) == 0
    assert compared < 10_000
