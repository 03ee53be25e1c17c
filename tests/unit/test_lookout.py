"""The lookout: what it tells of with events and without, and what it says of itself."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from fixtures.processes import run_python
from hypothesis import given
from hypothesis import strategies as st

from selfheald import lookout
from selfheald.config import Config
from selfheald.lookout import SCAN_SECONDS, Lookout, is_due, pause_after
from selfheald.presence import claim
from selfheald.sight import Sight, sight

NAME = "simulation.duckdb"
#: Seconds within which a thing must have been told.
LIMIT = 20.0


class Seen:
    """What a lookout has told so far."""

    def __init__(self) -> None:
        self.databases: list[Path] = []
        self.known: dict[Path, Sight] = {}
        self._news = anyio.Event()

    def add(self, path: Path, _quiet: bool) -> None:
        self.databases.append(path)
        self.tell()

    def tell(self) -> None:
        self._news.set()
        self._news = anyio.Event()

    def settled(self) -> list[Path]:
        return list(self.known)

    def was_settled(self, path: Path) -> bool:
        return path in self.known

    def is_settled(self, path: Path, seen: Sight) -> bool:
        return self.known.get(path) == seen

    async def until(self, condition: Callable[[], object]) -> None:
        """Return as soon as the condition holds."""
        with anyio.fail_after(LIMIT):
            while not condition():
                await self._news.wait()


@asynccontextmanager
async def looking(*roots: Path, mode: str = "auto", **settings: Any) -> AsyncIterator[tuple[Lookout, Seen]]:
    """A lookout that has begun."""
    config = Config.model_validate({"watch": {"roots": [str(root) for root in roots], "mode": mode, **settings}})
    seen = Seen()
    with claim(roots, NAME, []) as presence:
        watcher = Lookout(
            config,
            roots,
            anyio.CapacityLimiter(4),
            on_database=seen.add,
            known=seen,
            on_state=seen.tell,
            before_watch=presence.renew,
        )
        async with anyio.create_task_group() as group:
            await group.start(watcher.keep_watch)
            yield watcher, seen
            group.cancel_scope.cancel()


@pytest.mark.anyio
class TestLookout:
    @pytest.mark.parametrize("mode", ["auto", "native", "polling"])
    async def test_it_tells_what_there_is_and_what_comes(self, tmp_path: Path, mode: str) -> None:
        (tmp_path / "first").mkdir()
        (tmp_path / "first" / NAME).touch()
        async with looking(tmp_path, mode=mode) as (watcher, seen):
            assert watcher.state == ("polling" if mode == "polling" else "native")
            assert seen.databases[0] == tmp_path / "first" / NAME
            (tmp_path / "a" / "b").mkdir(parents=True)
            (tmp_path / "a" / "b" / NAME).touch()
            await seen.until(lambda: tmp_path / "a" / "b" / NAME in seen.databases)
            seen.databases.clear()
            (tmp_path / "first" / NAME).write_bytes(b"x")
            await seen.until(lambda: seen.databases == [tmp_path / "first" / NAME])
            seen.databases.clear()
            (tmp_path / "first" / NAME).unlink()
            await seen.until(lambda: seen.databases == [tmp_path / "first" / NAME])

    async def test_polling_tells_of_a_database_only_if_it_changes(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(lookout, "LOOK_SECONDS", 0.01)
        for number in range(3):
            (tmp_path / str(number)).mkdir()
            (tmp_path / str(number) / NAME).touch()
        async with looking(tmp_path, mode="polling") as (_, seen):
            assert len(seen.databases) == 3
            for _ in range(5):
                (tmp_path / "new").mkdir()
                (tmp_path / "new" / NAME).touch()
                await seen.until(lambda: tmp_path / "new" / NAME in seen.databases)
                assert set(seen.databases[3:]) == {tmp_path / "new" / NAME}
                (tmp_path / "new" / NAME).unlink()
                (tmp_path / "new").rmdir()
                del seen.databases[3:]
                await seen.until(lambda: tmp_path / "new" / NAME in seen.databases)
                del seen.databases[3:]

    async def test_a_marker_that_came_and_went_between_two_looks(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(lookout, "LOOK_SECONDS", 0.01)
        (tmp_path / NAME).touch()
        async with looking(tmp_path, mode="polling") as (_, seen):
            assert seen.databases == [tmp_path / NAME]
            marker = tmp_path / f"{NAME}.ready"
            marker.touch()
            with_marker = sight(tmp_path / NAME)
            marker.unlink()
            seen.known[tmp_path / NAME] = with_marker
            await seen.until(lambda: len(seen.databases) > 1)

    async def test_a_scan_that_finds_what_no_event_told_makes_the_watch_anew(self, tmp_path: Path) -> None:
        (tmp_path / "w").mkdir()
        async with looking(tmp_path) as (watcher, seen):
            first = watcher._watcher
            assert first is not None
            await watcher.rescan()
            assert watcher._watcher is first
            first.told = Forgetful()
            first._waiting = Forgetful()  # type: ignore[assignment]
            (tmp_path / "w" / NAME).touch()
            await watcher.rescan()
            await seen.until(lambda: watcher._watcher not in (first, None) and watcher.state == "native")

    async def test_an_event_costs_no_look_at_any_other_database(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Counted, not timed: what an event has looked at, and that nothing goes through all that is known."""
        listed: list[str] = []
        scandir = os.scandir

        def list_folder(folder: str | Path) -> Any:
            if isinstance(folder, str):  # a scan's
                listed.append(folder)
            return scandir(folder)

        monkeypatch.setattr(os, "scandir", list_folder)
        for number in range(50):
            (tmp_path / str(number)).mkdir()
            (tmp_path / str(number) / NAME).touch()
        async with looking(tmp_path) as (watcher, seen):
            first = watcher._watcher
            assert len(listed) == 51  # one walk, with the watches set on the way
            watcher._sights._seen = OnlyAsked(watcher._sights._seen)
            seen.databases.clear()
            (tmp_path / "7" / NAME).write_bytes(b"x")
            await seen.until(lambda: seen.databases == [tmp_path / "7" / NAME])
            del listed[:], seen.databases[:]
            (tmp_path / "new").mkdir()
            (tmp_path / "new" / NAME).touch()
            await seen.until(lambda: tmp_path / "new" / NAME in seen.databases)
            assert set(seen.databases) == {tmp_path / "new" / NAME}
            assert set(listed) == {str(tmp_path / "new")}
            assert watcher._watcher is first

    @pytest.mark.skipif(sys.platform == "darwin", reason="macOS allows names in UTF-8 alone")
    async def test_a_folder_with_an_odd_name_in_it_is_looked_at(self, tmp_path: Path) -> None:
        (tmp_path / "odd" / "below").mkdir(parents=True)
        (tmp_path / "odd" / os.fsdecode(b"\xff")).touch()
        async with looking(tmp_path) as (watcher, seen):
            assert watcher.state == "degraded"
            (tmp_path / "odd" / os.fsdecode(b"\xfe")).touch()
            for place in ("odd", "odd/below", "odd/new/deep", "beside"):
                (tmp_path / place).mkdir(parents=True, exist_ok=True)
                (tmp_path / place / NAME).touch()
                await seen.until(lambda place=place: tmp_path / place / NAME in seen.databases)  # type: ignore[misc]


@given(st.floats(0, 1e6), st.floats(0.1, 86_400), st.floats(0, 1000))
def test_scans_take_a_small_share_of_a_core_but_are_never_given_up(since: float, rescan: float, cost: float) -> None:
    assert is_due(since, rescan, cost, is_told=False)
    due = is_due(since, rescan, cost, is_told=True)
    assert due or since < SCAN_SECONDS
    assert due is False or cost <= 0.001 * max(since, rescan) + 1e-9 or max(since, rescan) >= SCAN_SECONDS


@pytest.mark.anyio
@pytest.mark.parametrize("settings", [{}, {"rescan": 60}])
async def test_scans_of_many_folders_are_rare_where_events_tell_of_all_and_nobody_wants_more(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    async with looking(tmp_path, **settings) as (watcher, _):
        assert await watcher.rescan()
        watcher._cost = 5.0
        assert await watcher.rescan() is bool(settings)
        watcher._cost = 5.0
        watcher.state = "degraded"
        assert await watcher.rescan()
        watcher._cost, watcher._scanned_at = 5.0, anyio.current_time() - SCAN_SECONDS
        watcher.state = "native"
        assert await watcher.rescan()


@given(st.floats(0, 1000))
def test_looking_takes_a_small_share_of_the_time(cost: float) -> None:
    assert pause_after(cost) >= 1.0
    assert cost <= 0.05 * pause_after(cost) + 1e-9


def test_an_unreadable_folder_as_another_user(open_path: Path) -> None:
    """What lies beside it is told of by events; it is logged once, and again once it had been mended."""
    (open_path / "closed").mkdir()
    (open_path / "closed").chmod(0)
    open_path.chmod(0o777)
    code = """
import os, sys
from pathlib import Path
import anyio, anyio._backends._asyncio
from selfheald.config import Config, LogConfig
from selfheald.log import configure
from selfheald.lookout import Lookout
from selfheald.presence import claim
from selfheald.sight import Sight, sight
import selfheald.watch

root = Path(sys.argv[1])
become_nobody()
(root / "mine").mkdir()
(root / "beside").mkdir()
configure(LogConfig(json=True), stream=sys.stdout)

class Nothing:
    def settled(self):
        return []
    def was_settled(self, path):
        return False
    def is_settled(self, path, seen):
        return False

async def main():
    seen = set()
    config = Config.model_validate({"watch": {"roots": [str(root)]}})
    with claim([root], "simulation.duckdb", []) as presence:
        lookout = Lookout(
            config,
            [root],
            anyio.CapacityLimiter(4),
            on_database=lambda path, quiet: seen.add(path.parent.name),
            known=Nothing(),
            on_state=lambda: None,
            before_watch=presence.renew,
        )
        async def until(name):
            with anyio.fail_after(20):
                while name not in seen:
                    await anyio.sleep(0.01)
        async with anyio.create_task_group() as group:
            await group.start(lookout.keep_watch)
            assert lookout.state == "native", lookout.state
            (root / "beside" / "simulation.duckdb").touch()
            await until("beside")
            for _ in range(2):
                os.chmod(root / "mine", 0)
                await lookout.rescan()
                await lookout.rescan()
                (root / "mine").chmod(0o755)
                seen.clear()
                (root / "mine" / "simulation.duckdb").touch()
                await until("mine")
                (root / "mine" / "simulation.duckdb").unlink()
            with anyio.fail_after(20):  # where an event is very late, it counts as lost, and the watch is made anew
                while lookout.state != "native":
                    await anyio.sleep(0.01)
            group.cancel_scope.cancel()

anyio.run(main)
"""
    try:
        told = run_python(code, open_path)
    finally:
        (open_path / "closed").chmod(0o755)
    lines = [line for line in told.splitlines() if '"folder_unreadable"' in line]
    assert sum(f"{open_path}/closed:" in line for line in lines) == 1, told
    assert sum(f"{open_path}/mine:" in line for line in lines) == 2, told


class OnlyAsked(dict[Path, Sight]):
    """A dictionary that is asked for what is in it, but not gone through."""

    def __iter__(self) -> Iterator[Path]:
        raise AssertionError("gone through")

    keys = items = values = copy = __iter__  # type: ignore[assignment]


class Forgetful(set[Any]):
    """A set that events are told to in vain."""

    def __ior__(self, other: object) -> Forgetful:
        return self

    def append(self, item: object) -> None:
        """As of a list."""
