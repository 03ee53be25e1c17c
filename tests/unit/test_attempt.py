"""What an attempt writes down while it goes on, and what it leaves out since it is over in a moment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from selfheald import attempt as module
from selfheald.attempt import Attempt
from selfheald.marker import Status, read_status
from selfheald.workspace import Database

Written = list[dict[str, Any]]


@pytest.fixture
def begun(tmp_path: Path) -> tuple[Attempt, Written]:
    written: Written = []
    database = Database(tmp_path / "simulation.duckdb")
    attempted = Attempt(database, Status(database, on_write=written.append), "event", 1, lambda error: None, 5)
    attempted.start(["regions"], 1, 1.0)
    return attempted, written


def running(record: dict[str, Any] | None) -> list[str]:
    assert record is not None
    return [step["name"] for step in record["steps"] if step["status"] == "running"]


def test_each_step_is_shown(begun: tuple[Attempt, Written]) -> None:
    attempted, written = begun
    for name in ("load_seeds", "verify"):
        attempted.begin(name)
        assert running(read_status(attempted.database)) == [name]
        attempted.end(name)
    assert len(written) == 5


def test_in_a_hurry_only_what_lasts_is_shown(begun: tuple[Attempt, Written], monkeypatch: pytest.MonkeyPatch) -> None:
    attempted, written = begun
    attempted.hurried = True
    attempted.begin("load_seeds")
    attempted.end("load_seeds")
    assert len(written) == 1
    monkeypatch.setattr(module, "SHOW_SECONDS", 0.0)  # it has lasted for a while
    attempted.begin("verify")
    assert running(written[-1]) == ["verify"]
    monkeypatch.undo()
    attempted.end("verify")
    attempted.completed("initialized")
    assert written[-1]["state"] == "completed"
    assert len(written) == 3
    assert all(step["started_at"] for step in written[-1]["steps"] if step["name"] in ("load_seeds", "verify"))


def test_what_is_not_over_in_a_moment_after_all(begun: tuple[Attempt, Written]) -> None:
    attempted, _ = begun
    attempted.hurried = True
    attempted.begin("load_seeds")
    attempted.end("load_seeds")
    attempted.begin("verify")
    attempted.begin_again("load_seeds")
    assert running(read_status(attempted.database)) == []
    attempted.take_time()
    shown = read_status(attempted.database)
    assert running(shown) == ["load_seeds"]
    assert shown is not None
    assert {step["status"] for step in shown["steps"]} == {"running", "pending"}
