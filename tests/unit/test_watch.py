"""Events: what they hint at, what they pass over, how a watch ends."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from selfheald import watch
from selfheald.client import drop_request
from selfheald.marker import Status, append_history
from selfheald.scan import scan
from selfheald.watch import RootGoneError, UnreadableNameError, Watcher, only_error
from selfheald.workspace import Database, write_atomically

NAME = "simulation.duckdb"
EXCLUDE = frozenset({".git", "node_modules", "target"})
#: Seconds within which an event has come.
LIMIT = 20.0


class Seen:
    """What a watcher has told so far."""

    def __init__(self) -> None:
        self.databases: set[Path] = set()
        self.folders: set[Path] = set()
        self.failure: BaseException | None = None
        self._news = anyio.Event()

    def add(self, hints: watch.Hints) -> None:
        self.databases |= hints.databases
        self.folders |= hints.folders | hints.added
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
async def watching(
    *roots: Path, folders: Collection[str] | None = None, platform: str = sys.platform
) -> AsyncIterator[tuple[Watcher, Seen]]:
    """A watch over the roots that stands; ``folders`` are those that a scan finds in them, unless they are given."""
    for root in roots:
        (root / ".selfheald").mkdir(exist_ok=True)
    watcher = Watcher(roots, NAME, EXCLUDE, platform)
    seen = Seen()

    async def follow() -> None:
        try:
            async with anyio.create_task_group() as group:
                await watcher.watch(group)
                for folder in scan(roots, NAME, EXCLUDE).watchable if folders is None else folders:
                    watcher.follow(folder)
                stands.set()
                while True:
                    seen.add(await watcher.hints())
        except* (RootGoneError, UnreadableNameError) as errors:
            seen.failure = only_error(errors)
            seen.tell()

    stands = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(follow)
        await stands.wait()
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

    async def test_one_watch_over_all_as_macos_has_it(self, tmp_path: Path) -> None:
        """It sees folders that nobody named, and passes over what is not looked after. Here, Linux imitates it."""
        for folder in ("old/deep", "target"):
            (tmp_path / folder).mkdir(parents=True)
        async with watching(tmp_path, folders=(), platform="darwin") as (watcher, seen):
            database, request = tmp_path / "old" / "deep" / NAME, tmp_path / "old" / NAME
            (tmp_path / "target" / NAME).touch()
            database.touch()
            await seen.until(lambda: database in seen.databases)
            (tmp_path / "new" / "deep").mkdir(parents=True)
            await seen.until(lambda: tmp_path / "new" in seen.folders)
            watcher.follow(str(tmp_path / "new"))
            assert watcher.followed() == set()
            drop_request(request)
            await seen.until(lambda: request in seen.databases or request.parent in seen.folders)
            watcher.told.clear()
            (tmp_path / "new" / f"{NAME}.ready").touch()
            await seen.until(lambda: tmp_path / "new" / NAME in seen.databases)
            assert watcher.told == {tmp_path / "new" / NAME}
            assert tmp_path / "target" / NAME not in seen.databases

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
        async with watching(root) as (watcher, seen):
            (root / "a" / "b").mkdir(parents=True)
            outside.rename(root / "moved")
            await seen.until(lambda: {root / "a", root / "moved"} <= seen.folders)
            seen.folders.clear()
            watcher.follow(str(root / "a"))
            (root / "a" / ".selfheald-ignore").touch()
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
        watcher = Watcher([tmp_path], NAME, EXCLUDE)
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

    async def test_what_happens_in_a_folder_once_it_is_added(self, tmp_path: Path) -> None:
        async with watching(tmp_path) as (watcher, seen):
            missed = set[Path]()
            for number in range(30):
                folder = tmp_path / "new" / str(number)
                folder.mkdir(parents=True)
                watcher.follow(str(folder))
                missed |= scan([folder], NAME, EXCLUDE, deep=False).databases
                (folder / NAME).touch()
            await seen.until(lambda: len(seen.databases | missed) == 30)

    async def test_many_later_folders_are_watched_with_the_first(self, tmp_path: Path) -> None:
        async with watching(tmp_path) as (watcher, seen):
            missed = set[Path]()
            for number in range(30):
                folder = tmp_path / str(number)
                folder.mkdir()
                watcher.follow(str(folder))
                missed |= scan([folder], NAME, EXCLUDE, deep=False).databases
                (folder / NAME).touch()
            await seen.until(lambda: len(seen.databases | missed) == 30)
            (tmp_path / NAME).touch()
            await seen.until(lambda: tmp_path / NAME in seen.databases)

    async def test_a_folder_that_is_gone_by_then_does_no_harm(self, tmp_path: Path) -> None:
        (tmp_path / ".selfheald").mkdir()
        folders = {str(tmp_path), str(tmp_path / ".selfheald"), str(tmp_path / "gone")}
        async with watching(tmp_path, folders=folders) as (watcher, seen):
            watcher.follow(str(tmp_path / "gone too"))
            (tmp_path / NAME).touch()
            await seen.until(lambda: seen.databases)

    @pytest.mark.skipif(sys.platform == "darwin", reason="macOS allows names in UTF-8 alone")
    async def test_a_name_that_is_not_utf_8_ends_the_watch_and_its_folder_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "w" / "x").mkdir(parents=True)
        async with watching(tmp_path) as (_, seen):
            (tmp_path / "w" / os.fsdecode(b"x\xff")).touch()
            await seen.until(lambda: seen.failure)
        assert isinstance(seen.failure, UnreadableNameError)
        assert seen.failure.folder == str(tmp_path / "w")

    async def test_folders_that_link_to_each_other_cost_nothing(self, tmp_path: Path) -> None:
        """Whoever follows links here has a million ways to go."""
        folders = [tmp_path / str(number) for number in range(10)]
        for folder in folders:
            folder.mkdir()
            for other in folders:
                (folder / f"to-{other.name}").symlink_to(other)
        async with watching(tmp_path) as (_, seen):
            (folders[0] / NAME).touch()
            await seen.until(lambda: seen.databases == {folders[0] / NAME})

    async def test_the_proof_does_not_follow_a_link(self, tmp_path: Path) -> None:
        root = tmp_path / "root"
        (root / ".selfheald").mkdir(parents=True)
        (tmp_path / "victim").write_bytes(b"precious")
        (root / ".selfheald" / watch.PROBE).symlink_to(tmp_path / "victim")
        watcher = Watcher([root], NAME, EXCLUDE)
        assert await watcher.prove(0.1) == [root]
        assert (tmp_path / "victim").read_bytes() == b"precious"
