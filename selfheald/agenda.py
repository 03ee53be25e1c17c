"""What is due when: each item at most once, at the time that was said last."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Hashable
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)


class Agenda(Generic[Item]):
    """A priority queue by time (seconds, of whatever clock the caller uses). Knows neither clock nor tasks."""

    def __init__(self) -> None:
        self._due: dict[Item, float] = {}
        self._heap: list[tuple[float, int, Item]] = []
        self._order = itertools.count()

    def put(self, item: Item, due: float) -> None:
        """Set when ``item`` is due, whatever was said before."""
        if self._due.get(item) != due:
            self._due[item] = due
            heapq.heappush(self._heap, (due, next(self._order), item))

    def put_earlier(self, item: Item, due: float) -> None:
        """As :meth:`put`, unless it is due before that anyway."""
        self.put(item, min(due, self._due.get(item, due)))

    def due(self, item: Item) -> float | None:
        """When ``item`` is due, or ``None``."""
        return self._due.get(item)

    def next_due(self) -> float | None:
        """When the next item is due, or ``None``."""
        while self._heap and self._due.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def pop(self, now: float) -> Item | None:
        """Take out the item that has been due for longest, if any is."""
        due = self.next_due()
        if due is None or due > now:
            return None
        item = heapq.heappop(self._heap)[2]
        del self._due[item]
        return item

    def discard(self, item: Item) -> None:
        """Forget an item."""
        self._due.pop(item, None)

    def __len__(self) -> int:
        return len(self._due)

    def __contains__(self, item: object) -> bool:
        return item in self._due
