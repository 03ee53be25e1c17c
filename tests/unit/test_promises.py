"""Each promise has tests that name it, and docs/reliability.md lists them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HERE = Path(__file__)
PROMISES = range(1, 10)


def marked(number: int) -> set[str]:
    """The test files that try to break a promise, as the document names them."""
    mark = re.compile(rf"mark\.promise\((?:\d, )*{number}[,)]")
    files = [path for path in (ROOT / "tests").rglob("test_*.py") if mark.search(path.read_text(encoding="utf-8"))]
    return {path.name if path.parent.name == "promises" else str(path.relative_to(ROOT)) for path in files}


def listed(number: int) -> set[str]:
    """The test files that the document lists for a promise."""
    text = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    (row,) = re.findall(rf"^\| {number} [A-Z].*\|([^|]*)\|$", text, re.MULTILINE)
    return set(re.findall(r"`([^`]+)`", row))


@pytest.mark.parametrize("number", PROMISES)
def test_a_promise_has_tests_and_they_are_listed(number: int) -> None:
    assert marked(number)
    assert listed(number) == marked(number)
