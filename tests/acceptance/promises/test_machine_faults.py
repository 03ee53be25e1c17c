"""Disks that fill up, rights that are missing, limits that are reached: nothing false, nothing lost.

In each case the daemon lives on at rest, says what is the matter, and goes on by itself when it is over.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faults import QUICK, ROUNDS, Site, calm, finished_in, healed, told, untouched
from fixtures.figures import Figures, scaled
from fixtures.waiting import wait_for
from machine import MB, Disk, disk, limited, open_files, private_mounts
from processes import NAME, Selfheald, children, rows, status
from projects import NOTES, OWN_TABLES, copy_project, own_database, staging_left, tables, two_lines

from selfheald.client import marker_path, valid_marker

pytestmark = [pytest.mark.promise(6), pytest.mark.soak, pytest.mark.timeout(scaled(120, 900))]


@pytest.fixture(scope="module")
def mounts() -> Iterator[None]:
    with private_mounts():
        yield


@pytest.fixture(scope="module")
def finished_own(shared_selfheald: Selfheald, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete database of the small project. Not to be changed."""
    return finished_in(tmp_path_factory.mktemp("finished-own"), shared_selfheald)


@pytest.fixture(scope="module")
def both(
    mounts: None, shared_selfheald: Selfheald, finished_own: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Site, Disk]]:
    """A daemon that watches a folder on a disk of 64 MB, and the disk."""
    with disk(tmp_path_factory.mktemp("disk"), 64 * MB) as small:
        root = small.path / "root"
        root.mkdir()
        with shared_selfheald.daemon(root, **QUICK) as daemon:
            yield Site(daemon, shared_selfheald, small.path, finished_own), small


@pytest.fixture
def site(both: tuple[Site, Disk]) -> Site:
    return both[0]


@pytest.fixture
def small(both: tuple[Site, Disk]) -> Disk:
    return both[1]


# --- a full disk


def test_a_disk_that_is_full_when_a_database_comes(site: Site, small: Disk, figures: Figures) -> None:
    """Nothing can be written: neither marker, nor status. Once there is room, both are as they should be."""
    survived = 0
    for number in range(ROUNDS):
        databases = [site.complete(f"full-complete-{number}"), site.incomplete(f"full-incomplete-{number}")]
        with small.full():
            ready, lacking = map(site.show, databases)
            for database in (ready, lacking):
                told(site.daemon, database, "disk_full")
            asked = site.selfheald.run("wait", lacking, "--timeout", "20")
            explained = site.selfheald.ok("status", lacking).stdout
            calm(site.daemon)
            untouched(lacking)
            assert not marker_path(ready).exists()
            assert asked.returncode == 1, asked.stderr
            error, hint = two_lines(asked.stderr)
            assert error.startswith("error[disk_full]"), asked.stderr
            assert str(lacking.parent) in error
            assert "Free disk space" in hint
            assert "not ready: nothing can be written: the file system of " in explained
            assert "→ Free disk space" in explained
        for database in (ready, lacking):
            healed(database)
        assert status(lacking)["state"] == "completed"
        survived += 1
    figures.tell(6, "disk full before the check", tried=ROUNDS, survived=survived)


def test_who_waits_while_the_disk_is_full_is_answered(site: Site, small: Disk, figures: Figures) -> None:
    """There is room for a request and a status, not for staging: the verdict names the cause, room the cure."""
    survived = 0
    for number in range(ROUNDS):
        database = site.show(site.complete(f"asked-{number}"))
        healed(database)
        database = site.incomplete(f"asked-in-vain-{number}")
        with small.full(leave=40_000):
            database = site.show(database)
            asked = site.selfheald.run("wait", database, "--timeout", "40")
            assert asked.returncode == 1, asked.stderr
            error, hint = two_lines(asked.stderr)
            assert error.startswith("error[disk_full]"), asked.stderr
            assert "ree disk space" in hint
            calm(site.daemon)
            untouched(database)
        healed(database)
        survived += 1
    figures.tell(6, "disk full while a simulation waits", tried=ROUNDS, survived=survived)


def test_no_inodes_left(site: Site, small: Disk, figures: Figures) -> None:
    survived = 0
    for number in range(ROUNDS):
        databases = [site.complete(f"inodes-complete-{number}"), site.incomplete(f"inodes-incomplete-{number}")]
        with small.no_files_left():
            ready, lacking = map(site.show, databases)
            for database in (ready, lacking):
                told(site.daemon, database, "disk_full")
            asked = site.selfheald.run("wait", lacking, "--timeout", "20")
            assert asked.returncode == 1, asked.stderr
            assert "inodes" in two_lines(asked.stderr)[1]
            calm(site.daemon)
            untouched(lacking)
            assert not marker_path(ready).exists()
        for database in (ready, lacking):
            healed(database)
        survived += 1
    figures.tell(6, "no inodes left", tried=ROUNDS, survived=survived)


def test_a_disk_that_turns_read_only(site: Site, small: Disk, figures: Figures) -> None:
    survived = 0
    for number in range(ROUNDS):
        ready = site.show(site.complete(f"mounted-{number}"))
        healed(ready)
        later = site.complete(f"read-only-complete-{number}")
        lacking = site.incomplete(f"read-only-{number}")
        with small.read_only(site.root, (later.parent, lacking.parent)):
            for database in (later, lacking):
                told(site.daemon, site.root / database.parent.name / NAME, "permission_denied")
            later, lacking = (site.root / database.parent.name / NAME for database in (later, lacking))
            asked = site.selfheald.run("wait", lacking, "--timeout", "20")
            assert asked.returncode == 1, asked.stderr
            error, hint = two_lines(asked.stderr)
            assert error.startswith("error[permission_denied]"), asked.stderr
            assert "read-only" in hint
            calm(site.daemon)
            assert tables(lacking) == NOTES
            assert not marker_path(lacking).exists()
            assert not marker_path(later).exists()
            assert valid_marker(ready) is not None  # what is ready stays so
        for database in (ready, later, lacking):
            healed(database)
        survived += 1
    figures.tell(6, "file system turned read-only, and back", tried=ROUNDS, survived=survived)


def test_a_disk_that_fills_up_meanwhile(mounts: None, selfheald: Selfheald, tmp_path: Path, figures: Figures) -> None:
    """From too little room for the models to nearly enough for all: none or all, and then all by the next try."""
    project = copy_project(tmp_path / "project")
    (project / "models" / "mart" / "dim_regions.sql").write_text(
        "select i as region_code, hash(i) as a, hash(i + 1) as b, hash(i + 2) as c from range(400000) as t (i)"
    )
    settings: dict[str, Any] = QUICK | {
        "DBT__PROJECT_DIR": str(project),
        "REQUIRED__SELECT": ["regions", "tag:foundation"],
    }
    steps: dict[str, int] = {}
    wrong = tried = 0
    with disk(tmp_path / "disk", 200 * MB) as small:
        workspace = small.path / "workspace"
        for leave in range(2 * MB, 50 * MB, scaled(12 * MB, 2 * MB)):
            shutil.rmtree(workspace, ignore_errors=True)
            database = own_database(workspace)
            small.fill(leave)
            document = selfheald.run("ensure", database, "--json", **settings)
            tried += 1
            if document.returncode == 0:
                wrong += tables(database) != OWN_TABLES | NOTES
                steps["none"] = steps.get("none", 0) + 1
            else:
                error = status(database).get("error") or {}
                step = error.get("step") or "unwritten"
                steps[step] = steps.get(step, 0) + 1
                wrong += '"disk_full"' not in document.stdout or tables(database) != NOTES
                wrong += marker_path(database).exists() or bool(staging_left(database))
                small.make_room()
                selfheald.ok("ensure", database, **settings)
                wrong += tables(database) != OWN_TABLES | NOTES
            wrong += rows(database, "from notes") != [(42,)]
            small.make_room()
    note = ", ".join(f"{step}: {count}" for step, count in sorted(steps.items()))
    what = "disk full within an initialization"
    figures.tell(4, what, tried=tried, survived=tried - wrong, wrong=wrong, note=f"failed in {note}")
    assert wrong == 0
    assert set(steps) - {"none"}


# --- limits


def shortages(site: Site, database: Path) -> list[dict[str, Any]]:
    """What failed: the check, or, where just enough descriptors were left for that, the initialization."""
    events = ("check_failed", "initialization_failed")
    return [line for event in events for line in site.daemon.log_lines(event, database)]


def test_no_descriptors_left(site: Site, figures: Figures) -> None:
    survived = 0
    for number in range(ROUNDS):
        ready = site.show(site.complete(f"files-ready-{number}"))
        healed(ready)
        with limited(site.daemon.pid, "nofile", open_files(site.daemon.pid)):
            later = site.show(site.complete(f"files-complete-{number}"))
            lacking = site.show(site.incomplete(f"files-incomplete-{number}"))
            told(site.daemon, lacking, "interrupted")
            calm(site.daemon)
            assert valid_marker(ready) is not None
            assert tables(lacking) == NOTES
            assert not marker_path(lacking).exists()  # staging may lie there: to remove a folder takes a descriptor
            asked = site.selfheald.run("wait", lacking, "--timeout", "3")
            assert asked.returncode in (1, 3), asked.stderr
            two_lines(asked.stderr)
        lines = shortages(site, lacking)
        assert {line["error_code"] for line in lines} == {"interrupted"}
        assert "Too many open files" in lines[0]["message"]
        for database in (later, lacking):
            healed(database)
        survived += 1
    figures.tell(6, "no descriptors left", tried=ROUNDS, survived=survived)


def test_a_child_that_is_killed_for_want_of_memory(site: Site, figures: Figures) -> None:
    """As the kernel does it: SIGKILL. It is tried again by itself."""
    survived = 0
    for number in range(ROUNDS):
        database = site.show(site.incomplete(f"killed-{number}"))
        child = wait_for(lambda: children(site.daemon.pid), what=site.daemon.told)[0]
        os.kill(child, signal.SIGKILL)
        healed(database)
        failures = site.daemon.log_lines("initialization_failed", database)
        assert [line["error_code"] for line in failures] == ["interrupted"]
        assert "SIGKILL" in failures[0]["message"]
        survived += 1
    figures.tell(6, "child killed by SIGKILL", tried=ROUNDS, survived=survived)
