"""When to try again: a pure decision."""

from __future__ import annotations

from dataclasses import dataclass

from selfheald.errors import RETRYABLE


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff: at most ``attempts`` tries; ``base`` and ``maximum`` pauses in seconds."""

    attempts: int = 5
    base: float = 2.0
    maximum: float = 300.0

    def pause(self, code: str, attempt: int, jitter: float) -> float | None:
        """Seconds until the next try after the ``attempt``-th (from 1) failed with ``code``; ``None``: don't.

        ``jitter`` is a random number in [0, 1): the pause lies between half and all of ``base * 2^(attempt-1)``,
        so that databases which failed together don't come back together.
        """
        if code not in RETRYABLE or attempt >= self.attempts:
            return None
        full = min(self.maximum, self.base * 2.0 ** min(attempt - 1, 64))
        return full * (0.5 + jitter / 2)
