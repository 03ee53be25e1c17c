"""When to try again."""

from __future__ import annotations

import itertools
import math

from hypothesis import assume, given
from hypothesis import strategies as st

from selfheald.errors import HINTS, RETRYABLE
from selfheald.retry import RetryPolicy

POLICIES = st.builds(
    RetryPolicy,
    attempts=st.integers(1, 50),
    base=st.floats(0.001, 1000),
    maximum=st.floats(0.001, 100_000),
)
JITTER = st.floats(0, 1, exclude_max=True)
RETRYABLE_CODES = st.sampled_from(sorted(RETRYABLE))


@given(POLICIES, st.sampled_from(sorted(set(HINTS) - RETRYABLE)), st.integers(1, 60), JITTER)
def test_what_no_retry_can_mend_is_not_tried_again(policy: RetryPolicy, code: str, attempt: int, jitter: float) -> None:
    assert policy.pause(code, attempt, jitter) is None


@given(POLICIES, RETRYABLE_CODES, st.integers(0, 10), JITTER)
def test_the_last_attempt_is_the_last(policy: RetryPolicy, code: str, beyond: int, jitter: float) -> None:
    assert policy.pause(code, policy.attempts + beyond, jitter) is None


@given(POLICIES, RETRYABLE_CODES, st.integers(1, 50), JITTER)
def test_a_pause_lies_within_its_bounds(policy: RetryPolicy, code: str, attempt: int, jitter: float) -> None:
    assume(attempt < policy.attempts)
    pause = policy.pause(code, attempt, jitter)
    assert pause is not None
    full = min(policy.maximum, policy.base * 2 ** (attempt - 1))
    assert full / 2 <= pause <= full


@given(POLICIES, RETRYABLE_CODES, JITTER)
def test_pauses_grow_until_the_maximum(policy: RetryPolicy, code: str, jitter: float) -> None:
    pauses = [policy.pause(code, attempt, jitter) for attempt in range(1, policy.attempts)]
    known = [pause for pause in pauses if pause is not None]
    assert len(known) == policy.attempts - 1
    assert known == sorted(known)
    for earlier, later in itertools.pairwise(known):
        assert later > earlier or later >= policy.maximum / 2


def test_ten_thousand_attempts_do_not_overflow() -> None:
    pause = RetryPolicy(attempts=10_000).pause("timeout", 9_999, 0.5)
    assert pause is not None
    assert math.isclose(pause, 225.0)
