"""The words of an initialization."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfheald.errors import InitializationError
from selfheald.initialization_state import (
    STEPS,
    InitializationResult,
    InitializationState,
    InitializationStep,
    RequiredTable,
    StepStatus,
    TableTier,
    iso_time,
    new_steps,
)


@given(st.floats(min_value=0, max_value=4_000_000_000))
def test_a_time_is_utc_with_milliseconds(seconds: float) -> None:
    text = iso_time(seconds)
    assert len(text) == len("2026-11-23T16:00:00.000Z")
    read = datetime.fromisoformat(text)
    assert read.tzinfo == UTC
    assert -0.0011 < read.timestamp() - seconds < 0.00001


def test_a_time_looks_as_promised() -> None:
    assert iso_time(1_795_449_600.25) == "2026-11-23T16:00:00.250Z"


def test_the_steps_are_those_that_users_see_in_their_order() -> None:
    assert list(STEPS) == ["check_tables", "load_seeds", "build_foundation", "verify", "publish"]
    steps = new_steps()
    assert [step.name for step in steps] == list(STEPS)
    assert {step.status for step in steps} == {StepStatus.PENDING}
    assert steps[0] is not new_steps()[0]


def test_a_step_as_users_see_it() -> None:
    assert InitializationStep("load_seeds").as_dict() == {
        "name": "load_seeds",
        "display_name": "Loading seed data",
        "status": "pending",
        "started_at": None,
        "completed_at": None,
        "duration_seconds": None,
        "success": False,
        "error_message": None,
    }
    done = InitializationStep("verify", StepStatus.COMPLETED, 0.0, 1.5, 1.50004)
    assert done.success
    assert done.as_dict()["completed_at"] == "1970-01-01T00:00:01.500Z"
    assert done.as_dict()["duration_seconds"] == 1.5


@pytest.mark.parametrize("status", [status for status in StepStatus if status is not StepStatus.COMPLETED])
def test_only_a_completed_step_is_a_success(status: StepStatus) -> None:
    assert not InitializationStep("verify", status).success


def test_a_table_is_named_without_the_default_schema() -> None:
    assert RequiredTable("comp_levers", TableTier.SEED).qualified == "comp_levers"
    assert RequiredTable("comp_levers", TableTier.SEED, schema="raw").qualified == "raw.comp_levers"


def test_a_result_as_a_document() -> None:
    result = InitializationResult("/w/x", "failed", InitializationState.FAILED, error=InitializationError("no"))
    document = result.as_dict()
    assert set(document) == {
        "format", "database", "outcome", "attempt_id", "state", "steps", "missing_tables_found", "tables_created",
        "started_at", "completed_at", "error",
    }  # fmt: skip
    assert document["error"] == InitializationError("no").as_dict()
    assert document["state"] == "failed"
    assert not result.success
    assert InitializationResult("/w/x", "adopted", InitializationState.COMPLETED).success
    assert InitializationResult("/w/x", "adopted", InitializationState.COMPLETED).as_dict()["error"] is None
