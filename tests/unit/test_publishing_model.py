"""Publishing a new file, in every interleaving: the real ``put_in_place`` on a modelled system.

At each of its calls, simulators may do any number of their steps, another program may make, delete or rename the
database, or the process may be killed. It holds under one assumption: **a simulator's pause between its look whether
the database is there and its try to lock it is shorter than the hold** (:data:`HOLD_NEW`, :data:`HOLD_REPLACED`).
The last tests show what happens without it, and so that the model can tell.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
from fixtures.figures import Figures, scaled
from fixtures.modelled_system import (
    DATABASE,
    EMPTY,
    FINISHED,
    FOLDER,
    NEW,
    OWN,
    Explored,
    Inode,
    Over,
    Simulator,
    System,
    World,
    explore,
)

NAME = Path(DATABASE).name
CHILD = Path(__file__).parents[2] / "selfheald" / "child"
Put = Callable[[str, str], None]


@pytest.fixture
def dance(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The real module; what a test puts in the place of ``os``, ``fcntl`` and ``time`` is taken out again."""
    monkeypatch.syspath_prepend(str(CHILD))
    module = importlib.import_module("placing.file_dance")
    for name in ("os", "fcntl", "time", "keep_locked"):
        monkeypatch.setattr(module, name, getattr(module, name))
    return module


def every_way(
    dance: ModuleType,
    *,
    there: str | None,
    simulators: int = 1,
    early_headers: bool = False,
    hands: int = 0,
    put: Put | None = None,
    options: Mapping[str, bool] | None = None,
) -> Explored:
    """Publish over ``there`` (``None``: nothing) in every interleaving."""
    calls: Put = put or dance.put_in_place
    changed = failed = sys.modules["placing.refusals"]

    def run(choices: tuple[str, ...]) -> tuple[System, list[str]]:
        world = World([Simulator(f"simulator {n}", early_headers) for n in range(simulators)], hands=hands)
        world.names[NEW] = world.new_inode(Inode(FINISHED))
        if there is not None:
            world.names[DATABASE] = world.new_inode(Inode(there, synced=True))
        system = System(world, choices, **(options or {}))
        dance.os, dance.fcntl, dance.time = system.os, system.fcntl, system.time  # type: ignore[attr-defined]
        # As where the system does not tell who has a file open: the shortest time for which the lock is kept.
        dance.keep_locked = lambda _, least, most, unseen: system.time.sleep(least or unseen)  # type: ignore[attr-defined]
        published = False
        try:
            with contextlib.suppress(changed.BusyError, changed.ChangedError, failed.JobError):
                calls(NEW, DATABASE)
                published = True
        except Over:
            pass
        if system.asked is None:
            with contextlib.suppress(Over):
                system.others_end()
        return system, [] if system.asked else [*world.judge(), *_of_the_outcome(world, published, there)]

    return explore(run)


def _of_the_outcome(world: World, published: bool, there: str | None) -> list[str]:
    at_path = world.inodes[world.names[DATABASE]] if DATABASE in world.names else None
    wrong = []
    if at_path is None and there is not None and not world.hands_at_work:
        wrong.append("what was there is gone")
    if published and not world.hands_at_work and (at_path is None or at_path.base != FINISHED):
        wrong.append("it said that it published, and did not")
    if published and NEW in world.names:
        wrong.append("the file has its old name still")
    return wrong


SYSTEMS: dict[str, dict[str, bool]] = {
    "OFD locks": {},
    "POSIX locks": {"ofd_locks": False},
    "no links": {"links": False},
}
CASES = [(None, "absent"), (EMPTY, "a zero-byte file"), (OWN, "a simulator's database")]


@pytest.mark.promise(4)
@pytest.mark.soak
@pytest.mark.parametrize("early_headers", [False, True], ids=["1.0", "2.0"])
@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize(("there", "name"), CASES, ids=[name for _, name in CASES])
def test_every_interleaving(
    there: str | None, name: str, system: str, early_headers: bool, dance: ModuleType, figures: Figures
) -> None:
    options = SYSTEMS[system]
    simulators = scaled(1, 2) if options else 2
    explored = every_way(dance, there=there, simulators=simulators, early_headers=early_headers, options=options)
    tell(figures, explored, f"{name}, {system}, {simulators} x DuckDB {'2.0' if early_headers else '1.0'}")
    assert explored.wrong == {}
    assert explored.states > 40


def tell(figures: Figures, explored: Explored, what: str, *, promise: int = 4) -> None:
    """The line of one exploration."""
    lost = sum("lost" in wrong for wrong in explored.wrong)
    figures.tell(
        promise,
        f"put_in_place in every interleaving (model): {what}",
        tried=explored.ways,
        survived=explored.ways if not explored.wrong else 0,
        lost=lost,
        wrong=len(explored.wrong) - lost,
        note=f"{explored.states:,} states",
    )


@pytest.mark.promise(3)
@pytest.mark.soak
@pytest.mark.parametrize(("there", "name"), CASES, ids=[name for _, name in CASES])
def test_another_program_makes_deletes_or_renames_the_database(
    there: str | None, name: str, dance: ModuleType, figures: Figures
) -> None:
    """Once, at any moment but one, see below."""
    for links in (True, False):
        explored = every_way(dance, there=there, simulators=scaled(1, 2), hands=1, options={"links": links})
        tell(figures, explored, f"{name}{'' if links else ', no links'}, and another program's hand", promise=3)
        assert explored.wrong == {}


def plain_rename(dance: ModuleType, new: str, database: str) -> None:
    with dance._opened(new, os.O_RDWR) as fresh, dance._folder(FOLDER) as folder:
        dance.os.fsync(fresh)
        dance.look_for_room(database)
        dance.os.rename(new, NAME, dst_dir_fd=folder)


def link_without_lock(dance: ModuleType, new: str, database: str) -> None:
    with dance._opened(new, os.O_RDWR) as fresh, dance._folder(FOLDER) as folder:
        dance.os.fsync(fresh)
        with contextlib.suppress(FileExistsError):
            dance.os.link(new, NAME, dst_dir_fd=folder, follow_symlinks=False)
            dance.os.unlink(new)


def hold_after_the_rename_alone(dance: ModuleType, new: str, database: str) -> None:
    with dance._folder(FOLDER) as folder, dance._opened(new, os.O_RDWR) as fresh:
        dance.os.fsync(fresh)
        dance._lock(fresh)
        with dance._empty_file(folder, NAME):
            dance.os.rename(new, NAME, dst_dir_fd=folder)
            dance.time.sleep(dance.HOLD_REPLACED)


@pytest.mark.parametrize(
    ("way", "options", "expected"),
    [
        (None, {"holds": False}, "wrote an empty database over the finished one"),
        (None, {"holds": False, "links": False}, "commit is lost"),
        (plain_rename, {}, "commit is lost"),
        (link_without_lock, {}, "wrote an empty database over the finished one"),
        (hold_after_the_rename_alone, {}, "commit is lost"),
    ],
    ids=["no hold", "no hold, no links", "plain rename", "link without lock", "killed in a hold after the rename"],
)
def test_what_would_go_wrong(
    way: Callable[[ModuleType, str, str], None] | None, options: dict[str, bool], expected: str, dance: ModuleType
) -> None:
    """Each of the precautions is needed: without it there is a way on which something is lost."""
    put = None if way is None else partial(way, dance)
    explored = every_way(dance, there=None, put=put, options=options)
    assert any(expected in wrong for wrong in explored.wrong), explored


def test_the_moment_that_cannot_be_guarded(dance: ModuleType) -> None:
    """An empty file that somebody deletes between the last look at it and the rename, and that a simulator makes and
    fills in that moment, is replaced all the same: POSIX knows no rename that compares first."""
    explored = every_way(dance, there=EMPTY, hands=1, options={"hands_before_rename": True})
    assert list(explored.wrong) == ["simulator 0's commit is lost"]
    [way] = explored.wrong.values()
    assert {"delete", "move"} & set(way)
