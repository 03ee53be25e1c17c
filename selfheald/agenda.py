"""What is due when: each item at most once, at the time that was said last; what somebody waits for comes first."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Hashable
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)

#: So many of the first lane are taken in a row, then one of the other if any is due: nobody is starved by requests.
IN_A_ROW = 7
#: Outdated entries are swept out of a lane when there are more of them than current ones, and than this.
SWEEP = 64


class Agenda(Generic[Item]):
    """A priority queue by time (seconds, of whatever clock the caller uses). Knows neither clock nor tasks.

    Of two lanes: what is due in the first goes before whatever is due in the other, however long that has been.
    """

    def __init__(self) -> None:
        self._place: dict[Item, tuple[int, float]] = {}
        self._lanes: tuple[list[tuple[float, int, Item]], ...] = ([], [])
        self._sizes = [0, 0]
        self._order = itertools.count()
        self._in_a_row = 0

    def put(self, item: Item, due: float, *, first: bool = False) -> None:
        """Set when ``item`` is due, and whether before others, whatever was said before."""
        lane = 0 if first else 1
        if self._place.get(item) != (lane, due):
            self.discard(item)
            self._place[item] = (lane, due)
            self._sizes[lane] += 1
            heapq.heappush(self._lanes[lane], (due, next(self._order), item))
            self._sweep(lane)

    def due(self, item: Item) -> float | None:
        """When ``item`` is due, or ``None``."""
        place = self._place.get(item)
        return None if place is None else place[1]

    def next_due(self) -> float | None:
        """When the next item is due, or ``None``."""
        return min((head for head in map(self._head, (0, 1)) if head is not None), default=None)

    def pop(self, now: float) -> Item | None:
        """Take out the item that has been due for longest, if any is: of the first lane, now and then of the other."""
        waiting = [lane for lane in (0, 1) if (head := self._head(lane)) is not None and head <= now]
        if not waiting:
            return None
        lane = waiting[-1] if self._in_a_row >= IN_A_ROW else waiting[0]
        self._in_a_row = self._in_a_row + 1 if lane == 0 and len(waiting) == 2 else 0
        item = heapq.heappop(self._lanes[lane])[2]
        self.discard(item)
        return item

    def discard(self, item: Item) -> None:
        """Forget an item."""
        place = self._place.pop(item, None)
        if place is not None:
            self._sizes[place[0]] -= 1

    def _head(self, lane: int) -> float | None:
        heap = self._lanes[lane]
        while heap and self._place.get(heap[0][2]) != (lane, heap[0][0]):
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def _sweep(self, lane: int) -> None:
        """Keep the entries of what was put elsewhere since from piling up behind one that is due much later."""
        heap = self._lanes[lane]
        if len(heap) > 2 * self._sizes[lane] + SWEEP:
            current = {entry[2]: entry for entry in heap if self._place.get(entry[2]) == (lane, entry[0])}
            heap[:] = current.values()
            heapq.heapify(heap)

    def __len__(self) -> int:
        return len(self._place)

    def __contains__(self, item: object) -> bool:
        return item in self._place
