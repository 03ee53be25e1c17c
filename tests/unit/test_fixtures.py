"""The databases that other tests rely on are what they are said to be."""

from __future__ import annotations

from pathlib import Path

from fixtures.databases import OWN, REQUIRED, SEEDS, tables

from selfheald.catalog_reader import read_database


def test_databases_hold_what_their_names_say(
    empty_database: Path, partial_database: Path, ready_database: Path, corrupt_database: Path
) -> None:
    assert tables(empty_database) == set()
    assert tables(partial_database) == set(SEEDS)
    assert tables(ready_database) == {*REQUIRED, OWN}
    error = read_database(corrupt_database).error
    assert error is not None
    assert error.code == "database_corrupt"
