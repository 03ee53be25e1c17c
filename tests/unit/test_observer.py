"""What changes about many databases, seen by looking again and again: nothing is missed, and little is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from selfheald import observer as module
from selfheald.client import file_identity
from selfheald.config import Config
from selfheald.locks import DatabaseLock
from selfheald.observer import BUILDING_SECONDS, PAUSES, SCAN_SECONDS, Observer, Pace, has_ended
from selfheald.overview import Entry, find_places, look, read_entry
from selfheald.standing import Standing
from selfheald.workspace import Database


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path.resolve()


def database(root: Path, name: str, **status: Any) -> Database:
    """A database that is ready, or whose status record says something else."""
    found = Database(root / name / "simulation.duckdb")
    found.private.mkdir(parents=True, exist_ok=True)
    found.path.write_bytes(b"x")
    tell(found, **status) if status else mark(found)
    return found


def mark(found: Database) -> None:
    record = {"state": "ready", "database": {"name": found.path.name, **(file_identity(found.path) or {})}}
    replace(found.marker, record)


def tell(found: Database, **status: Any) -> None:
    replace(found.status, status)


def replace(file: Path, record: dict[str, Any]) -> None:
    """As records are written: another file each time."""
    draft = file.with_name("draft")
    draft.write_text(json.dumps(record))
    draft.replace(file)


def observer(root: Path, clock: Clock) -> Observer:
    return Observer(find_places([str(root)], Config()), clock)


def later(found: Observer, clock: Clock, seconds: float = 60.0) -> dict[str, str]:
    """What has changed after so many seconds, by the workspaces' names."""
    clock.now += seconds
    news = found.look()
    told = {entry.database.folder.name: entry.standing.value for entry in news.changed}
    return told | {gone.folder.name: "gone" for gone in news.gone}


def test_everything_is_new_at_first_and_nothing_after_that(root: Path, clock: Clock) -> None:
    database(root, "a")
    database(root, "b", state="failed", reason="needs_person")
    found = observer(root, clock)
    assert later(found, clock) == {"a": "ready", "b": "failed"}
    assert found.overview() == look(find_places([str(root)], Config()))
    assert later(found, clock) == {}
    assert found.counts() == {Standing.READY: 1, Standing.FAILED: 1} | dict.fromkeys(
        (Standing.WAITING, Standing.BUILDING, Standing.BUSY), 0
    )


def test_what_changes_comes_and_goes(root: Path, clock: Clock) -> None:
    one, other = database(root, "a"), database(root, "b", state="not_started", reason="queued")
    found = observer(root, clock)
    later(found, clock)
    one.path.write_bytes(b"another")
    assert later(found, clock) == {"a": "waiting"}
    with DatabaseLock(other.lock) as lock:
        assert lock.acquire(0)
        tell(other, state="in_progress", attempt_id="1")
        assert later(found, clock) == {"b": "building"}
        tell(other, state="in_progress", attempt_id="1", progress={"done": 1, "total": 2})
        assert later(found, clock, BUILDING_SECONDS) == {"b": "building"}
    tell(other, state="completed", attempt_id="1")
    mark(other)
    assert later(found, clock) == {"b": "ready"}
    database(root, "c", state="failed")
    assert later(found, clock) == {"c": "failed"}
    for file in (one.path, one.marker):
        file.unlink()
    assert later(found, clock) == {"a": "gone"}
    assert [entry.database.folder.name for entry in found.overview().entries] == ["b", "c"]


def test_whoever_builds_can_be_killed(root: Path, clock: Clock) -> None:
    """Nothing about the files changes then: the kernel frees the lock."""
    one = database(root, "a", state="in_progress", attempt_id="1")
    lock = DatabaseLock(one.lock)
    assert lock.acquire(0)
    found = observer(root, clock)
    assert later(found, clock) == {"a": "building"}
    assert later(found, clock, BUILDING_SECONDS) == {}
    lock.release()
    assert later(found, clock, BUILDING_SECONDS) == {"a": "waiting"}


def test_only_what_changed_is_read(root: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = [database(root, str(number)) for number in range(5)]
    found = observer(root, clock)
    later(found, clock)
    read: list[str] = []

    def noted(each: Database) -> Entry:
        read.append(each.folder.name)
        return read_entry(each)

    monkeypatch.setattr(module, "read_entry", noted)
    later(found, clock)
    assert read == []
    mark(ready[3])
    assert later(found, clock) == {}
    assert read == ["3"]


def test_what_is_not_ready_comes_first(root: Path, clock: Clock) -> None:
    for name, state in (("b", "failed"), ("d", "not_started"), ("a", "failed")):
        database(root, name, state=state)
    database(root, "c")
    found = observer(root, clock)
    found.look()
    assert [entry.database.folder.name for entry in found.first(9)] == ["a", "b", "d", "c"]
    assert [entry.database.folder.name for entry in found.first(2)] == ["a", "b"]


def test_rates(root: Path, clock: Clock) -> None:
    one = database(root, "a")
    other = database(root, "b", state="failed", attempt_id="1")
    found = observer(root, clock)
    found.look()
    mark(one)
    tell(other, state="failed", attempt_id="2", completed_at="later")
    later(found, clock, 30)
    assert found.initializations.count(clock()) == 1
    assert found.checks.count(clock()) == 2
    later(found, clock, 61)
    assert found.initializations.count(clock()) == 0


def test_what_was_made_between_two_looks_counts(root: Path, clock: Clock) -> None:
    database(root, "a", state="completed", attempt_id="1", completed_at="2026-01-01T00:00:00.000Z")
    found = observer(root, clock)
    found.look()
    database(root, "b", state="completed", attempt_id="2", completed_at="2100-01-01T00:00:00.000Z")
    database(root, "c", state="completed", attempt_id="3", completed_at="2026-01-01T00:00:00.000Z")  # moved in
    later(found, clock, 30)
    assert found.initializations.count(clock()) == 1


def test_has_ended() -> None:
    building, failed = {"state": "in_progress", "attempt_id": "1"}, {"state": "failed", "attempt_id": "1"}
    assert has_ended(building, failed)
    assert has_ended(None, failed)
    assert not has_ended(failed, failed)
    assert not has_ended(failed, {"state": "failed", "attempt_id": None}), "a check that failed is none"
    assert not has_ended(None, building)


def test_looking_takes_a_bounded_part_of_the_time() -> None:
    pace = Pace(SCAN_SECONDS)
    assert pace.is_due(0)
    pace.done(0, 0.001)
    assert not pace.is_due(SCAN_SECONDS - 0.1)
    assert pace.is_due(SCAN_SECONDS + 0.001)
    pace.done(10, 11)
    assert not pace.is_due(11 + PAUSES - 1)
    assert pace.is_due(11 + PAUSES)
