"""Events and the scan: what they find, what they pass over."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from fixtures.processes import run_python
from hypothesis import given
from hypothesis import strategies as st

from selfheald import watch
from selfheald.client import drop_request
from selfheald.marker import Status, append_history, take_request
from selfheald.watch import Watcher, database_of, file_system, is_ignored, is_watched, must_poll, scan
from selfheald.workspace import Database, write_atomically

NAME = "simulation.duckdb"
EXCLUDE = frozenset({".git", "node_modules", "target"})
#: Seconds within which an event has come.
LIMIT = 20.0


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
            "from selfheald.watch import scan\n"
            "become_nobody()\n"
            f"found = scan([pathlib.Path(sys.argv[1])], {NAME!r}, frozenset())\n"
            "print(*found.databases, *found.unreadable)\n"
        )
        try:
            assert run_python(code, open_path).split() == [str(open_path / "open" / NAME), str(open_path / "closed")]
        finally:
            (open_path / "closed").chmod(0o755)


class TestFileSystem:
    @pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
    def test_it_is_that_of_the_nearest_mount(self, tmp_path: Path) -> None:
        assert file_system(Path("/proc/self")) == "proc"
        assert file_system(tmp_path) == file_system(tmp_path / "not" / "yet")
        assert file_system(tmp_path) is not None

    @pytest.mark.parametrize("kind", ["nfs4", "cifs", "9p", "fuse.glusterfs", "fuse.sshfs"])
    def test_network_file_systems_are_polled(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
        kinds = {tmp_path: kind, Path("/local"): "ext4", Path("/mine"): "fuse.gocryptfs", Path("/mac"): None}
        monkeypatch.setattr(watch, "file_system", kinds.get)
        assert must_poll(list(kinds)) == tmp_path
        assert must_poll([Path("/local"), Path("/mine"), Path("/mac")]) is None


class Seen:
    """What a watcher has told so far."""

    def __init__(self) -> None:
        self.databases: set[Path] = set()
        self.folders: set[Path] = set()
        self.failure: Exception | None = None
        self._news = anyio.Event()

    def add(self, hints: watch.Hints) -> None:
        self.databases |= hints.databases
        self.folders |= hints.folders
        self.tell()

    def tell(self) -> None:
        self._news.set()
        self._news = anyio.Event()

    async def until(self, condition: Callable[[], object]) -> None:
        """Return as soon as the condition holds."""
        with anyio.fail_after(LIMIT):
            while not condition():
                await self._news.wait()


@asynccontextmanager
async def watching(*roots: Path, polling: bool = False) -> AsyncIterator[tuple[Watcher, Seen]]:
    """A watch over the roots that stands."""
    for root in roots:
        (root / ".selfheald").mkdir(exist_ok=True)
    watcher = Watcher(roots, NAME, EXCLUDE, polling=polling)
    seen = Seen()

    async def follow() -> None:
        try:
            async for hints in watcher.hints():
                seen.add(hints)
        except FileNotFoundError as error:
            seen.failure = error
            seen.tell()

    async with anyio.create_task_group() as group:
        group.start_soon(watcher.stop_when_cancelled)
        group.start_soon(follow)
        assert await watcher.prove(LIMIT) == []
        yield watcher, seen
        group.cancel_scope.cancel()


@pytest.mark.anyio
class TestWatcher:
    async def test_a_new_database_and_what_lies_beside_it(self, tmp_path: Path) -> None:
        paths = [tmp_path / name / NAME for name in ("database", "wal", "marker", "request")]
        for path in paths:
            path.parent.mkdir()
        database, wal, marker, request = paths
        marker.with_name(f"{NAME}.ready").touch()
        (request.parent / ".selfheald").mkdir()
        async with watching(tmp_path) as (_, seen):
            database.touch()
            await seen.until(lambda: database in seen.databases)
            wal.with_name(f"{NAME}.wal").touch()
            await seen.until(lambda: wal in seen.databases)
            marker.with_name(f"{NAME}.ready").unlink()
            await seen.until(lambda: marker in seen.databases)
            drop_request(request)
            await seen.until(lambda: request in seen.databases)
            assert seen.databases == set(paths)

    async def test_a_database_that_changes_is_replaced_or_goes(self, tmp_path: Path) -> None:
        paths = [tmp_path / name / NAME for name in ("changed", "replaced", "removed")]
        for path in paths:
            path.parent.mkdir()
            path.touch()
        changed, replaced, removed = paths
        (tmp_path / "other").touch()
        async with watching(tmp_path) as (_, seen):
            changed.write_bytes(b"x")
            (tmp_path / "other").rename(replaced)
            removed.unlink()
            await seen.until(lambda: seen.databases == set(paths))

    async def test_new_folders_are_to_be_scanned(self, tmp_path: Path) -> None:
        outside = tmp_path / "outside"
        (outside / "deep").mkdir(parents=True)
        root = tmp_path / "root"
        root.mkdir()
        async with watching(root) as (_, seen):
            (root / "a" / "b").mkdir(parents=True)
            outside.rename(root / "moved")
            await seen.until(lambda: {root / "a", root / "moved"} <= seen.folders)
            (root / "a" / ".selfheald-ignore").touch()
            seen.folders.clear()
            await seen.until(lambda: root / "a" in seen.folders)

    async def test_a_first_request_in_a_workspace_is_found_by_a_scan(self, tmp_path: Path) -> None:
        (tmp_path / "w").mkdir()
        async with watching(tmp_path) as (_, seen):
            drop_request(tmp_path / "w" / NAME)
            await seen.until(lambda: tmp_path / "w" in seen.folders or tmp_path / "w" / NAME in seen.databases)

    async def test_our_own_work_and_what_is_passed_over_are_no_hints(self, tmp_path: Path) -> None:
        database = Database.at(tmp_path / "w" / NAME)
        database.folder.mkdir()
        database.private.mkdir()
        (tmp_path / "target" / "deep").mkdir(parents=True)
        (tmp_path / "target" / ".selfheald").mkdir()
        (database.private / "staging-x").mkdir()
        async with watching(tmp_path) as (watcher, seen):
            Status(database).write(state="failed")
            append_history(database, {"attempt_id": "x"}, 5)
            write_atomically(database.private / "daemon.json", "{}")
            database.lock.touch()
            (database.private / NAME).touch()
            (database.private / "staging-x" / NAME).touch()
            (database.private / "staging-x" / f"{NAME}.wal").touch()
            (database.private / "logs").mkdir()
            (tmp_path / "target" / "deep" / NAME).touch()
            (tmp_path / "target" / "new").mkdir()
            (tmp_path / "w" / "notes.txt").touch()
            (tmp_path / "w" / "node_modules").mkdir()
            # Events come in their order: when this one has come, so have those before.
            assert await watcher.prove(LIMIT) == []
            database.path.touch()
            await seen.until(lambda: seen.databases)
            assert seen.databases == {database.path}
            assert seen.folders == set()

    async def test_all_roots_are_proven(self, tmp_path: Path) -> None:
        roots = [tmp_path / "a", tmp_path / "b"]
        for root in roots:
            root.mkdir()
        async with watching(*roots) as (watcher, seen):
            assert not watcher.is_stale()
            for root in roots:
                (root / NAME).touch()
            await seen.until(lambda: seen.databases == {root / NAME for root in roots})

    async def test_a_watch_that_does_not_run_is_dead(self, tmp_path: Path) -> None:
        (tmp_path / ".selfheald").mkdir()
        watcher = Watcher([tmp_path], NAME, EXCLUDE, polling=False)
        assert await watcher.prove(0.1) == [tmp_path]

    async def test_of_several_roots_the_one_is_named_that_cannot_be_proven(self, tmp_path: Path) -> None:
        roots = [tmp_path / "a", tmp_path / "b"]
        for root in roots:
            root.mkdir()
        async with watching(*roots) as (watcher, _):
            shutil.rmtree(roots[1] / ".selfheald")
            assert await watcher.prove(1.0) == [roots[1]]

    async def test_a_root_that_is_deleted_and_made_again_ends_the_watch(self, tmp_path: Path) -> None:
        root = tmp_path / "root"
        root.mkdir()
        async with watching(root) as (watcher, seen):
            shutil.rmtree(root)
            (root / ".selfheald").mkdir(parents=True)
            await seen.until(lambda: seen.failure)
            assert await watcher.prove(0.2) == [root]

    async def test_a_root_that_is_moved_away_is_known_to_be_stale(self, tmp_path: Path) -> None:
        root = tmp_path / "root"
        root.mkdir()
        async with watching(root) as (watcher, _):
            root.rename(tmp_path / "moved")
            assert watcher.is_stale()
            root.mkdir()
            assert watcher.is_stale()
            root.rmdir()
            (tmp_path / "moved").rename(root)
            assert not watcher.is_stale()

    async def test_polling_sees_the_same(self, tmp_path: Path) -> None:
        (tmp_path / "w").mkdir()
        async with watching(tmp_path, polling=True) as (_, seen):
            (tmp_path / "w" / NAME).touch()
            await seen.until(lambda: tmp_path / "w" / NAME in seen.databases)

    async def test_the_proof_does_not_follow_a_link(self, tmp_path: Path) -> None:
        root = tmp_path / "root"
        (root / ".selfheald").mkdir(parents=True)
        (tmp_path / "victim").write_bytes(b"precious")
        (root / ".selfheald" / watch.PROBE).symlink_to(tmp_path / "victim")
        watcher = Watcher([root], NAME, EXCLUDE, polling=False)
        assert await watcher.prove(0.1) == [root]
        assert (tmp_path / "victim").read_bytes() == b"precious"
