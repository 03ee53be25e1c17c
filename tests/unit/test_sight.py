"""How a database looks: whatever is written to it, its WALs or its marker makes it look different."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import pytest

from selfheald.sight import Sights, same_database, sight


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "simulation.duckdb"
    path.write_bytes(b"rows")
    return path


@pytest.mark.parametrize("suffix", ["", ".wal", ".wal.checkpoint", ".wal.recovery", ".ready"])
def test_each_file_that_appears_changes_or_goes_is_seen(database: Path, suffix: str) -> None:
    file = database.with_name(database.name + suffix)
    seen = [sight(database)]
    file.write_bytes(b"more rows")
    seen.append(sight(database))
    os.utime(file, ns=(1, 1))
    seen.append(sight(database))
    file.unlink()
    seen.append(sight(database))
    assert all(one != other for one, other in pairwise(seen))
    assert all(same_database(one, other) is (suffix == ".ready") for one, other in pairwise(seen))


def test_a_file_that_takes_its_place_with_the_same_size_and_times_is_seen(database: Path) -> None:
    before, seen = database.stat(), sight(database)
    draft = database.with_name("draft")
    draft.write_bytes(b"ROWS")
    os.utime(draft, ns=(before.st_atime_ns, before.st_mtime_ns))
    draft.rename(database)
    assert sight(database) != seen


def test_nothing_is_followed(database: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    database.rename(elsewhere)
    database.symlink_to(elsewhere)
    seen = sight(database)
    elsewhere.write_bytes(b"more rows")
    assert sight(database) == seen
    assert sight(tmp_path / "no\0name") == (None,) * 5


def test_what_is_not_there_looks_alike_with_a_marker_or_without(tmp_path: Path) -> None:
    (tmp_path / "simulation.duckdb.ready").touch()
    assert same_database((), sight(tmp_path / "simulation.duckdb"))


def test_what_has_changed_and_what_is_gone_is_told_once() -> None:
    one, two, three = Path("/r/1/d"), Path("/r/2/d"), Path("/r/3/d")
    sights = Sights()
    assert sights.renew({one: (b"1",), two: (b"2",)}, None) == {one: (), two: ()}
    assert sights.renew({one: (b"1",), two: (b"2",)}, None) == {}
    assert sights.renew({one: (b"new",), three: (b"3",)}, [one, three]) == {one: (b"1",), three: ()}
    assert sights.renew({}, [three]) == {three: (b"3",)}
    assert sights.renew({one: (b"new",)}, None, hidden=("/r/2/",)) == {}
    assert sights.get(two) == (b"2",)
    assert sights.renew({}, None) == {one: (b"new",), two: (b"2",)}
    assert sights.get(two) is None
