"""Errors: a code, a path, a cause, a cure; and back from what was written to disk."""

from __future__ import annotations

import copy
import errno
import os
import pickle
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfheald.errors import (
    HINTS,
    RETRYABLE,
    ConcurrentInitializationError,
    DatabaseCorruptionError,
    InitializationError,
    InitializationTimeoutError,
    access_hint,
    from_dict,
    from_os_error,
)

CODES = sorted(HINTS)
ROOT = Path(__file__).parents[2]


def test_the_codes_are_those_that_users_rely_on() -> None:
    assert set(CODES) == {
        "missing_seed_file", "seed_invalid", "dbt_project_missing", "dbt_project_invalid", "profile_invalid",
        "selection_empty", "dbt_failed", "dbt_unavailable", "timeout", "database_corrupt", "database_newer",
        "database_encrypted", "not_a_database", "schema_mismatch", "disk_full", "permission_denied", "unsafe_path",
        "locked", "concurrent_initialization", "verification_failed", "interrupted", "check_crashed",
        "config_invalid", "no_daemon",
    }  # fmt: skip
    assert {"timeout", "disk_full", "locked", "interrupted", "concurrent_initialization"} == RETRYABLE


def test_every_code_that_the_code_names_has_a_hint() -> None:
    named = set()
    for source in (ROOT / "selfheald").rglob("*.py"):
        text = source.read_text(encoding="utf-8")
        named |= set(re.findall(r"""\bcode\s*=\s*"([a-z_]+)\"""", text))
        named |= set(re.findall(r"""\b(?:JobError|_fault)\(\s*"([a-z_]+)\"""", text))
    assert len(named) > 15
    assert named <= set(CODES)


@pytest.mark.parametrize("code", CODES)
def test_a_hint_is_a_sentence(code: str) -> None:
    assert re.fullmatch(r"[A-Zs].+\.", HINTS[code])
    assert InitializationError("x", code=code).hint == HINTS[code]


def test_the_record_has_all_keys() -> None:
    error = InitializationError("no room", code="disk_full", path=Path("/w"), step="publish", log=Path("/w/log"))
    assert error.as_dict() == {
        "code": "disk_full",
        "message": "no room",
        "hint": HINTS["disk_full"],
        "path": "/w",
        "step": "publish",
        "log": "/w/log",
        "retryable": True,
    }
    assert set(InitializationError("x").as_dict()) == set(error.as_dict())
    assert not InitializationError("x").retryable


@given(
    code=st.sampled_from(CODES),
    message=st.text(min_size=1),
    hint=st.none() | st.text(min_size=1),
    path=st.none() | st.text(min_size=1),
    step=st.none() | st.text(),
    log=st.none() | st.text(),
)
def test_an_error_comes_back_from_its_record(
    code: str, message: str, hint: str | None, path: str | None, step: str | None, log: str | None
) -> None:
    error = InitializationError(message, code=code, hint=hint, path=path, step=step, log=log)
    again = from_dict(error.as_dict())
    assert again.as_dict() == error.as_dict()
    classes = {
        "timeout": InitializationTimeoutError,
        "concurrent_initialization": ConcurrentInitializationError,
        "database_corrupt": DatabaseCorruptionError,
    }
    assert type(again) is classes.get(code, InitializationError)


def test_a_record_without_keys_is_forgiven() -> None:
    assert from_dict({}).as_dict()["code"] == "dbt_failed"
    assert from_dict({"message": "m", "code": "no_such_code"}).as_dict()["hint"] == ""


def test_the_classes_carry_their_own_fields() -> None:
    timed_out = InitializationTimeoutError("late", timeout_seconds=60.0, elapsed_seconds=61.5, step="publish")
    assert (timed_out.code, timed_out.timeout_seconds, timed_out.elapsed_seconds) == ("timeout", 60.0, 61.5)
    concurrent = ConcurrentInitializationError("busy", lock_file=Path("/w/.selfheald/x.lock"))
    assert concurrent.lock_file == concurrent.path == "/w/.selfheald/x.lock"
    corrupt = DatabaseCorruptionError("torn", db_path=Path("/w/x.duckdb"))
    assert corrupt.db_path == corrupt.path == "/w/x.duckdb"
    assert str(corrupt) == "torn"
    for error in (timed_out, concurrent, corrupt):
        assert isinstance(error, InitializationError)


@pytest.mark.parametrize(
    "error",
    [
        InitializationError("m", code="locked", missing_tables=["a", "b"], hint="h"),
        InitializationTimeoutError("m", timeout_seconds=1.0, elapsed_seconds=2.0),
        ConcurrentInitializationError("m", lock_file="/l"),
        DatabaseCorruptionError("m", db_path="/d"),
    ],
)
def test_errors_survive_copying_and_pickling(error: InitializationError) -> None:
    for again in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert type(again) is type(error)
        assert again.__dict__ == error.__dict__
        assert str(again) == str(error)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, "disk_full"),
        (errno.EDQUOT, "disk_full"),
        (errno.EACCES, "permission_denied"),
        (errno.EPERM, "permission_denied"),
        (errno.EROFS, "permission_denied"),
        (errno.ELOOP, "unsafe_path"),
        (errno.ENOTDIR, "unsafe_path"),
        (errno.EISDIR, "unsafe_path"),
        (errno.ENOENT, "interrupted"),
        (errno.EIO, "interrupted"),
    ],
)
def test_what_the_system_refuses_has_a_code(number: int, code: str) -> None:
    error = from_os_error(OSError(number, os.strerror(number)), "/w/x", "write")
    assert error.code == code
    assert error.message == f"cannot write /w/x: {os.strerror(number)}"
    assert error.path == "/w/x"


def test_who_is_known_to_be_in_a_folder_is_not_kept_out_above_it(tmp_path: Path) -> None:
    stranger, home, root = os.geteuid() + 1, tmp_path / "home", tmp_path / "home" / "root"
    workspace = root / "workspace"
    workspace.mkdir(parents=True)
    for folder in (tmp_path, root, workspace):
        folder.chmod(0o777)
    home.chmod(0o700)
    group = home.stat().st_gid + 1
    assert str(access_hint(str(workspace), stranger, [group], reached=tmp_path)).endswith(f" {home}")
    assert access_hint(str(workspace), stranger, [group], reached=root) is None
    workspace.chmod(0o700)
    assert str(access_hint(str(workspace), stranger, [group], reached=root)).endswith(f" {workspace}")
