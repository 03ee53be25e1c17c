"""What of the machine was in the way, and whether that is over."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from fixtures.processes import run_python
from hypothesis import given
from hypothesis import strategies as st

from selfheald import obstacle
from selfheald.errors import SHORTAGES, InitializationError, from_os_error
from selfheald.obstacle import Room, nearest, obstacle_of

ROOMS = st.builds(Room, bytes=st.integers(0, 1 << 50), files=st.integers(0, 1 << 40))


@given(ROOMS)
def test_the_same_room_is_no_more(room: Room) -> None:
    assert not room.is_more_than(room)
    assert not Room(room.bytes + 4096, room.files + 1).is_more_than(room)


@given(ROOMS, ROOMS)
def test_either_bytes_or_files_make_more_room(room: Room, other: Room) -> None:
    assert Room(2 * room.bytes + obstacle.MORE_BYTES, 0).is_more_than(room)
    assert Room(0, 2 * room.files + obstacle.MORE_FILES).is_more_than(room)
    assert not (room.is_more_than(other) and other.bytes >= room.bytes and other.files >= room.files)


def test_a_full_disk_is_over_when_there_is_more_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rooms = {tmp_path: Room(1000, 10)}
    monkeypatch.setattr(obstacle, "room_at", rooms.get)
    full = InitializationError("full", code="disk_full", path=tmp_path / "gone" / "file")
    found = obstacle_of(full, [tmp_path / "gone" / "file"])
    assert found is not None
    assert (found.place, found.is_over()) == (tmp_path, False)
    rooms[tmp_path] = Room(10_000_000, 10)
    assert found.is_over()


def test_a_right_that_is_missing_is_over_when_it_is_given() -> None:
    """As a user who may do little: root may do all."""
    run_python(
        """
import os, tempfile
from pathlib import Path
from selfheald.errors import InitializationError
from selfheald.obstacle import obstacle_of
become_nobody()
folder = Path(tempfile.mkdtemp())
folder.chmod(0o500)
error = InitializationError("no", code="permission_denied", path=folder / "file")
found = obstacle_of(error, [folder])
assert found is not None and not found.is_over()
folder.chmod(0o700)
assert found.is_over()
assert obstacle_of(error, [folder]) is None, "all is allowed"
folder.rmdir()
"""
    )


@pytest.mark.parametrize("number", [number for number in SHORTAGES if number is not None])
def test_a_shortage_may_be_over_at_any_time(number: int, tmp_path: Path) -> None:
    error = from_os_error(OSError(number, "too little"), tmp_path, "read")
    found = obstacle_of(error, [tmp_path])
    assert (error.code, error.retryable) == ("interrupted", True)
    assert found is not None
    assert found.is_over()


def test_nothing_of_the_machine_was_in_the_way_of_anything_else(tmp_path: Path) -> None:
    for error in (
        InitializationError("a model failed", code="dbt_failed", path=tmp_path),
        InitializationError("killed", code="interrupted"),
        from_os_error(OSError(errno.EIO, "broken"), tmp_path, "read"),
    ):
        assert obstacle_of(error, [tmp_path]) is None


def test_the_nearest_path_that_is_there(tmp_path: Path) -> None:
    assert nearest(tmp_path / "a" / "b") == tmp_path
    assert nearest(tmp_path) == tmp_path


def test_hints_name_the_cause() -> None:
    assert "read-only" in from_os_error(OSError(errno.EROFS, "x"), "/x", "write").hint
    assert "quota" in from_os_error(OSError(errno.EDQUOT, "x"), "/x", "write").hint
    assert "ulimit -n" in from_os_error(OSError(errno.EMFILE, "x"), "/x", "write").hint
    assert "Free disk space" in from_os_error(OSError(errno.ENOSPC, "x"), "/proc/x", "write").hint
