"""The scan: what it finds, what it passes over."""

from __future__ import annotations

import os
import sys
import unicodedata
from pathlib import Path

import pytest
from fixtures.processes import run_python
from hypothesis import given
from hypothesis import strategies as st

from selfheald.client import drop_request
from selfheald.marker import Status, take_request
from selfheald.scan import database_of, is_ignored, is_watched, scan
from selfheald.workspace import Database

NAME = "simulation.duckdb"
EXCLUDE = frozenset({".git", "node_modules", "target"})


@pytest.mark.parametrize(
    ("path", "database"),
    [
        (f"/r/w/{NAME}", f"/r/w/{NAME}"),
        (f"/r/w/{NAME}.ready", f"/r/w/{NAME}"),
        (f"/r/w/{NAME}.wal", f"/r/w/{NAME}"),
        (f"/r/w/{NAME}.wal.checkpoint", f"/r/w/{NAME}"),
        (f"/r/w/{NAME}.wal.recovery", f"/r/w/{NAME}"),
        (f"/r/w/.selfheald/{NAME}.request", f"/r/w/{NAME}"),
        (f"/r/w/.selfheald/{NAME}.status", None),
        (f"/r/w/.selfheald/{NAME}.lock", None),
        (f"/r/w/.selfheald/.{NAME}.request.taken", None),
        (f"/r/w/{NAME}.request", None),
        (f"/r/w/.{NAME}.ready.0123.tmp", None),
        (f"/r/w/{NAME}.corrupt-20261123T160000", None),
        (f"/r/w/my_{NAME}", None),
        ("/r/w/other.duckdb", None),
        ("/r/w", None),
    ],
)
def test_database_of(path: str, database: str | None) -> None:
    assert database_of(Path(path), NAME) == (None if database is None else Path(database))


@pytest.mark.parametrize(
    ("path", "is_hint"),
    [
        ("/r/w/Größe.duckdb", True),
        (unicodedata.normalize("NFD", "/r/w/Größe.duckdb"), True),
        ("/r/w/GRÖSSE.DuckDB.wal", True),
        ("/r/w/grösse.duckdb.ready", True),
        ("/r/w/.selfheald/Größe.duckdb.request", True),
        ("/r/w/.selfheald/.Größe.duckdb.request.0123456789abcdef", True),
        ("/r/w/.selfheald/.Größe.duckdb.request.taken", False),
        ("/r/w/.selfheald/.Größe.duckdb.status.0123.tmp", False),
        ("/r/w/Grosse.duckdb", False),
    ],
)
def test_database_of_on_macos(path: str, is_hint: bool) -> None:
    """Any spelling hints at the one name that is looked for, and a draft at the request that becomes of it."""
    name = "Größe.duckdb"
    assert database_of(Path(path), name, "darwin") == (Path("/r/w", name) if is_hint else None)
    same = path.endswith(name + ".request") or Path(path).name == name
    assert (database_of(Path(path), name, "linux") is not None) is same


def test_a_scan_on_macos_takes_any_spelling_for_a_hint(tmp_path: Path) -> None:
    """What is a database of that name is asked of the file system, by the name that is looked for."""
    for folder, spelled in (
        ("a", "größe.DUCKDB"),
        ("b", unicodedata.normalize("NFD", "Größe.duckdb")),
        ("C", "x"),
        ("c", "Größe.duckdb.READY"),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / spelled).touch()
    found = scan([tmp_path], "Größe.duckdb", EXCLUDE, platform="darwin")
    assert found.databases == {tmp_path / folder / "Größe.duckdb" for folder in "abc"}
    assert found.folders == 5  # also where two names are alike, on a volume that tells them apart
    assert scan([tmp_path], "Größe.duckdb", EXCLUDE, platform="linux").databases == set()


@given(st.lists(st.sampled_from(["a", "target", ".git", "targets"]), max_size=4))
def test_is_watched(parts: list[str]) -> None:
    root = Path("/r/target/w")
    path = root.joinpath(*parts, NAME)
    assert is_watched(path, [Path("/other"), root], EXCLUDE) is EXCLUDE.isdisjoint(parts)
    assert not is_watched(path, [Path("/other"), Path("/r/tar")], EXCLUDE)


def test_is_ignored(tmp_path: Path) -> None:
    root = tmp_path / "root"
    below = root / "a" / "b"
    below.mkdir(parents=True)
    assert not is_ignored(below, root)
    (tmp_path / ".selfheald-ignore").touch()
    assert not is_ignored(below, root)
    for folder in (below, root / "a", root):
        (folder / ".selfheald-ignore").symlink_to("nowhere")
        assert is_ignored(below, root)
        assert is_ignored(folder, root)
        assert is_ignored(below / "gone", root)
        (folder / ".selfheald-ignore").unlink()


class TestScan:
    def test_databases_in_all_folders(self, tmp_path: Path) -> None:
        found = [tmp_path / place / NAME for place in ("", "w", "w/dbt", "x/y/z")]
        for path in found:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        (tmp_path / "w" / "other.duckdb").touch()
        result = scan([tmp_path], NAME, EXCLUDE)
        assert result.databases == set(found)
        assert result.requested == set()
        assert result.unreadable == []
        assert result.folders == 6

    def test_a_marker_without_a_database_is_looked_at(self, tmp_path: Path) -> None:
        (tmp_path / f"{NAME}.ready").touch()
        assert scan([tmp_path], NAME, EXCLUDE).databases == {tmp_path / NAME}

    def test_requests_also_without_a_database(self, tmp_path: Path) -> None:
        for name in ("dropped", "taken", "linked", "other"):
            (tmp_path / name).mkdir()
        drop_request(tmp_path / "dropped" / NAME)
        drop_request(tmp_path / "taken" / NAME)
        drop_request(tmp_path / "other" / "other.duckdb")
        (tmp_path / "linked" / ".selfheald").mkdir()
        (tmp_path / "linked" / ".selfheald" / f"{NAME}.request").symlink_to("nowhere")
        take_request(Database.at(tmp_path / "taken" / NAME))
        result = scan([tmp_path], NAME, EXCLUDE)
        assert result.requested == {tmp_path / name / NAME for name in ("dropped", "taken", "linked")}
        assert result.databases == set()

    def test_attempts_also_without_a_database(self, tmp_path: Path) -> None:
        (tmp_path / "w").mkdir()
        Status(Database.at(tmp_path / "w" / NAME)).write(state="failed")
        result = scan([tmp_path], NAME, EXCLUDE)
        assert (result.tried, result.requested, result.databases) == ({tmp_path / "w" / NAME}, set(), set())
        assert scan([tmp_path], "other.duckdb", EXCLUDE).tried == set()

    def test_what_is_passed_over(self, tmp_path: Path) -> None:
        for place in ("target/w", "w/.git", "w/node_modules/x", ".selfheald", "w/.selfheald/staging-x"):
            (tmp_path / place).mkdir(parents=True)
            (tmp_path / place / NAME).touch()
        assert scan([tmp_path], NAME, EXCLUDE).databases == set()

    def test_ignored_folders(self, tmp_path: Path) -> None:
        for place in ("ignored/below", "seen"):
            (tmp_path / place).mkdir(parents=True)
            (tmp_path / place / NAME).touch()
        (tmp_path / "ignored" / ".selfheald-ignore").touch()
        (tmp_path / "ignored" / NAME).touch()
        drop_request(tmp_path / "ignored" / NAME)
        result = scan([tmp_path], NAME, EXCLUDE)
        assert result.databases == {tmp_path / "seen" / NAME}
        assert result.requested == set()

    def test_links_are_not_followed(self, tmp_path: Path) -> None:
        root, outside = tmp_path / "root", tmp_path / "outside"
        (root / "w").mkdir(parents=True)
        outside.mkdir()
        (outside / NAME).touch()
        (root / "w" / "circle").symlink_to(root)
        (root / "w" / "self").symlink_to("self")
        (root / "out").symlink_to(outside)
        (root / "w" / NAME).symlink_to(outside / NAME)
        result = scan([root], NAME, EXCLUDE)
        assert result.databases == {root / "w" / NAME}  # refused when it is checked, and told
        assert result.folders == 2

    def test_a_folder_that_is_gone_is_not_unreadable(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        result = scan([tmp_path / "gone", tmp_path / "file"], NAME, EXCLUDE)
        assert (result.databases, result.unreadable) == (set(), [tmp_path / "file"])

    @pytest.mark.skipif(sys.platform == "darwin", reason="macOS allows names in UTF-8 alone")
    def test_names_that_are_no_utf_8(self, tmp_path: Path) -> None:
        database = tmp_path / os.fsdecode(b"w\xff") / NAME
        database.parent.mkdir()
        database.touch()
        assert scan([tmp_path], NAME, EXCLUDE).databases == {database}

    def test_an_unreadable_folder_as_another_user(self, open_path: Path) -> None:
        for name in ("closed", "open"):
            (open_path / name).mkdir()
            (open_path / name / NAME).touch()
        (open_path / "closed").chmod(0)
        code = (
            "import sys, pathlib\n"
            "from selfheald.scan import scan\n"
            "become_nobody()\n"
            f"found = scan([pathlib.Path(sys.argv[1])], {NAME!r}, frozenset())\n"
            "print(*found.databases, *found.unreadable)\n"
        )
        try:
            assert run_python(code, open_path).split() == [str(open_path / "open" / NAME), str(open_path / "closed")]
        finally:
            (open_path / "closed").chmod(0o755)
