"""What is put in first is forgotten first."""

from __future__ import annotations

from selfheald.recent import Recent


def test_the_latest_stay() -> None:
    recent: Recent[str, int] = Recent(2)
    for name in ("a", "b", "a", "c"):
        recent[name] = len(recent)
    assert list(recent) == ["a", "c"]
