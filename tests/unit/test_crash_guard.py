"""The notes of checks under way: what a dead daemon leaves, and what becomes of it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from fixtures.files import names_in
from fixtures.processes import run_python

from selfheald.crash_guard import FOLDER, CrashGuard, unfinished

DIE = """
import os, sys
from pathlib import Path
from selfheald.crash_guard import CrashGuard
state, root, *names = sys.argv[1:]
guard = CrashGuard(Path(state), [Path(root)]).__enter__()
with guard.noted(Path(root, "read before"), None):
    pass
checks = [guard.noted(Path(root, name), {"inode": 1}) for name in names]
for check in checks:
    check.__enter__()
os._exit(0)
"""


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    for name in ("one", "two", "read before"):
        (root / name).touch()
    return root


def notes(state: Path) -> list[str]:
    return [name for name in names_in(state / FOLDER) if name.endswith(".notes")]


def test_what_was_being_read_at_a_crash_is_suspect_until_it_has_changed_and_been_read(state: Path, root: Path) -> None:
    run_python(DIE, state, root, "one", "two")
    with CrashGuard(state, [root]) as guard:
        assert guard.suspects == [root / "one", root / "two"]
        assert len(notes(state)) == 1, "what was taken over is gone"
        guard.was_read(root / "one", {"inode": 1})
        assert guard.is_suspect(root / "one"), "unchanged: what a child survived might kill a thread"
        guard.was_read(root / "one", {"inode": 2})
        assert guard.suspects == [root / "two"]
    with CrashGuard(state, [root]) as again:
        assert again.suspects == [root / "two"]
        again.was_read(root / "two", None)
    assert notes(state) == [], "nothing is left to be told"


def test_a_crash_in_the_middle_of_the_next_daemons_checks(state: Path, root: Path) -> None:
    """Both are known then."""
    run_python(DIE, state, root, "one")
    run_python(DIE, state, root, "two")
    with CrashGuard(state, [root]) as guard:
        assert guard.suspects == [root / "one", root / "two"]


def test_notes_of_others(state: Path, root: Path, tmp_path: Path) -> None:
    """Not those of a daemon that lives, and none about files that are not ours or gone."""
    with CrashGuard(state, [root]) as living, living.noted(root / "one", None):
        with CrashGuard(state, [root]) as other:
            assert other.suspects == []
        assert len(notes(state)) == 1
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "three").touch()
    run_python(DIE, state, elsewhere, "three", "gone")
    with CrashGuard(state, [root]) as guard:
        assert guard.suspects == []
    with CrashGuard(state, [elsewhere]) as theirs:
        assert theirs.suspects == [elsewhere / "three"]


def test_a_late_file_stays_suspect_though_its_thread_comes_to_an_end(state: Path, root: Path) -> None:
    with CrashGuard(state, [root]) as guard:
        with guard.noted(root / "one", {"inode": 1}):
            guard.suspect(root / "one", {"inode": 1})
        assert guard.suspects == [root / "one"]
    with CrashGuard(state, [root]) as again:
        assert again.suspects == [root / "one"]


def test_notes_do_not_grow_for_ever(state: Path, root: Path) -> None:
    with CrashGuard(state, [root]) as guard:
        guard.suspect(root / "two", {"inode": 2})
        for _ in range(10_000):
            with guard.noted(root / "one", {"inode": 1}):
                pass
        [file] = [state / FOLDER / name for name in notes(state)]
        assert file.stat().st_size < 300_000
        assert unfinished(file.read_bytes()) == {root / "two": {"inode": 2}}


def test_without_a_place_for_notes(tmp_path: Path, root: Path) -> None:
    """It is told, and works all the same."""
    (tmp_path / "file").touch()
    with CrashGuard(tmp_path / "file" / "state", [root]) as guard:
        assert guard.error is not None
        with guard.noted(root / "one", None):
            guard.suspect(root / "one", None)
        assert guard.is_suspect(root / "one")


def test_a_torn_line_and_a_name_that_is_no_text() -> None:
    odd = Path(os.fsdecode(b"/r/\xff\n"))
    lines = b"".join(json.dumps([sign, os.fspath(path), None]).encode() + b"\n" for sign, path in [("+", odd)])
    assert unfinished(lines + b'nonsense\n{}\n["+", 5, null]\n["+", "/r/to') == {odd: None}
