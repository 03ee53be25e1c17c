"""The queue of databases to initialize: each at most once, those that a simulator waits for first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)


class Backlog(Generic[Item]):
    """A first-in, first-out queue with two lanes and no duplicates. Knows neither clock nor tasks."""

    def __init__(self) -> None:
        self._requested: OrderedDict[Item, None] = OrderedDict()
        self._found: OrderedDict[Item, None] = OrderedDict()

    def add(self, item: Item, *, requested: bool = False) -> bool:
        """Put an item in; True if it is new. One that is found already moves up when it is requested."""
        if item in self._requested:
            return False
        if requested:
            self._found.pop(item, None)
            self._requested[item] = None
            return True
        if item in self._found:
            return False
        self._found[item] = None
        return True

    def pop(self) -> Item | None:
        """Take the next item out; ``None`` if there is none."""
        for lane in (self._requested, self._found):
            if lane:
                return lane.popitem(last=False)[0]
        return None

    def discard(self, item: Item) -> bool:
        """Take an item out of its place; False if it was not there."""
        for lane in (self._requested, self._found):
            if item in lane:
                del lane[item]
                return True
        return False

    def position(self, item: Item) -> int | None:
        """How many are before it (0: it is next); ``None`` if it does not wait.

        Of the last in a lane (whatever was just added) this is known at once; others are counted.
        """
        before = 0
        for lane in (self._requested, self._found):
            if item in lane:
                if item == next(reversed(lane)):
                    return before + len(lane) - 1
                return before + next(place for place, other in enumerate(lane) if other == item)
            before += len(lane)
        return None

    def __iter__(self) -> Iterator[Item]:
        yield from self._requested
        yield from self._found

    def __len__(self) -> int:
        return len(self._requested) + len(self._found)

    def __contains__(self, item: object) -> bool:
        return item in self._requested or item in self._found
