"""How many databases stand where, in a few words."""

from __future__ import annotations

import pytest

from selfheald.config import Config
from selfheald.overview import find_places, look
from selfheald.standing import Standing, in_words


@pytest.mark.parametrize(
    ("counts", "progress", "words"),
    [
        ({}, None, "no databases"),
        ({Standing.READY: 12}, None, "12 ready"),
        (
            {Standing.FAILED: 1, Standing.BUILDING: 1, Standing.READY: 12},
            {"done": 3, "total": 10, "node": "x"},
            "12 ready, 1 building 3/10, 1 failed",
        ),
        ({Standing.BUILDING: 1, Standing.WAITING: 0}, None, "1 building"),
        ({Standing.BUSY: 2, Standing.WAITING: 7}, {"done": 3, "total": 10}, "7 waiting, 2 busy"),
    ],
)
def test_the_words(counts: dict[Standing, int], progress: dict[str, int] | None, words: str) -> None:
    assert in_words(counts, progress) == words


def test_they_are_the_words_of_status() -> None:
    assert {standing.value for standing in Standing} == set(look(find_places([], Config())).as_dict()["summary"])
