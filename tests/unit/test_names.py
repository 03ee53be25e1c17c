"""Names as a platform's file systems compare them."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfheald.names import alike, all_alike

NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=6)


@given(NAMES)
def test_linux_tells_all_names_apart(name: str) -> None:
    assert alike(name, "linux") == name
    assert all_alike({name}, "linux") == {name}


@given(NAMES, st.sampled_from(["NFC", "NFD"]))
def test_forms_are_alike_on_macos(name: str, form: str) -> None:
    spelled = unicodedata.normalize(form, name)  # type: ignore[arg-type]
    assert alike(spelled, "darwin") == alike(name, "darwin")
    assert all_alike({name, spelled}, "darwin") == {alike(name, "darwin")}


@pytest.mark.parametrize("name", ["Simulation.DuckDB", "SIMULATION.duckdb"])
def test_letter_case_is_alike_on_macos(name: str) -> None:
    assert alike(name, "darwin") == "simulation.duckdb"


def test_different_names_are_not_alike() -> None:
    assert len(all_alike({"a", "b", "ä", "aa"}, "darwin")) == 4
