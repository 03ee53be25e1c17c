"""Disks that fill up, rights that are missing, limits that are reached: nothing false, nothing lost.

In each case the daemon lives on at rest, says what is the matter, and goes on by itself when it is over.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from fixtures.figures import Figures, scaled
from machine import MB, Disk, disk, limited, open_files, private_mounts
from processes import (
    NAME,
    OWN_PROJECT,
    Daemon,
    Record,
    Selfheald,
    children,
    cpu_seconds,
    rows,
    status,
    throughout,
    wait_for,
)
from projects import NOTES, OWN_TABLES, copy_project, own_database, staging_left, tables, two_lines

from selfheald.client import marker_path, request_path, valid_marker

pytestmark = [pytest.mark.promise(6), pytest.mark.soak, pytest.mark.timeout(scaled(120, 900))]

#: Quick enough for a test to see the last attempt fail, and a rescan.
QUICK: dict[str, object] = {
    "DBT__PROJECT_DIR": str(OWN_PROJECT),
    "WATCH__RESCAN": 1,
    "RETRY__BASE": 0.2,
    "RETRY__MAX": 0.4,
    "RETRY__ATTEMPTS": 3,
    "LIMITS__MIN_FREE_BYTES": 0,
}
#: Rounds of each fault.
ROUNDS = scaled(1, 4)
#: Seconds for which a daemon is looked at while a fault lasts, and what it may do in one of them: of processor time,
#: and lines in its log, where it scans each second and tells all.
LOOK_SECONDS, CALM_SECONDS, CALM_LINES = 1.5, 0.5, 15
#: A user whom nobody else is.
STRANGER = 64999


@dataclass
class Site:
    """A daemon, the folder that it watches, a folder beside it on the same disk, and the disk."""

    daemon: Daemon
    selfheald: Selfheald
    disk: Disk
    finished: Path

    @property
    def root(self) -> Path:
        return self.daemon.roots[0]

    def incomplete(self, name: str) -> Path:
        """A new workspace, not yet watched, whose database holds nothing that is required."""
        return own_database(self.disk.path / "aside" / name)

    def complete(self, name: str) -> Path:
        """A new workspace, not yet watched, whose database holds all."""
        folder = self.disk.path / "aside" / name
        folder.mkdir(parents=True)
        return Path(shutil.copyfile(self.finished, folder / NAME))

    def show(self, database: Path) -> Path:
        """Let the daemon see it. That takes no room on the disk."""
        return database.parent.rename(self.root / database.parent.name) / NAME


@pytest.fixture(scope="module")
def mounts() -> Iterator[None]:
    with private_mounts():
        yield


@pytest.fixture(scope="module")
def finished_own(shared_selfheald: Selfheald, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete database of the small project. Not to be changed."""
    database = own_database(tmp_path_factory.mktemp("finished-own"))
    shared_selfheald.ok("ensure", database, **QUICK)
    return database


@pytest.fixture(scope="module")
def site(
    mounts: None, shared_selfheald: Selfheald, finished_own: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """A daemon that watches a folder on a disk of 64 MB."""
    with disk(tmp_path_factory.mktemp("disk"), 64 * MB) as small:
        root = small.path / "root"
        root.mkdir()
        with shared_selfheald.daemon(root, **QUICK) as daemon:
            yield Site(daemon, shared_selfheald, small, finished_own)


def untouched(database: Path) -> None:
    """What was there is there as it was, and nothing else: neither tables, nor a marker, nor staging."""
    assert not marker_path(database).exists()
    assert tables(database) == NOTES
    assert rows(database, "from notes") == [(42,)]
    assert not staging_left(database)


def healed(database: Path) -> None:
    """It becomes so that all is there, what was there is as it was, and status and marker say so."""
    wait_for(lambda: valid_marker(database), what=lambda: status(database))
    assert tables(database) == OWN_TABLES | NOTES
    assert rows(database, "from notes") == [(42,)]
    assert status(database).get("state", "completed") == "completed"
    assert not staging_left(database)
    assert not request_path(database).exists()


def calm(daemon: Daemon) -> None:
    """It lives, and does next to nothing."""
    process = daemon.process
    assert process is not None
    cpu, lines = cpu_seconds(daemon.pid), len(daemon.told().splitlines())
    throughout(LOOK_SECONDS, lambda: process.poll() is None, daemon.told)
    told = [json.loads(line) for line in daemon.told().splitlines()[lines:]]
    events = Counter((line["event"], line["error_code"], line["database"]) for line in told)
    assert cpu_seconds(daemon.pid) - cpu < CALM_SECONDS * LOOK_SECONDS, events
    assert len(told) < CALM_LINES * LOOK_SECONDS, events


def told(daemon: Daemon, database: Path, code: str) -> Record:
    """Wait until the log tells that this database failed with this code for the last time."""

    def last() -> Record | None:
        lines = [
            line
            for event in ("check_failed", "initialization_failed")
            for line in daemon.log_lines(event, database)
            if line["level"] == "ERROR" and line["error_code"] == code
        ]
        return lines[-1] if lines else None

    return wait_for(last, what=daemon.told)


def given_up(database: Path, code: str, *words: str) -> None:
    """Wait until the status says that no further attempt is planned, why, and what to do."""
    found = wait_for(
        lambda: status(database) if status(database).get("reason") == "needs_person" else None,
        what=lambda: status(database),
    )
    error = found["error"]
    assert (error["code"], found["next_attempt_at"]) == (code, None), found
    assert error["path"], found
    assert all(word in error["hint"] for word in words), error


# --- a full disk


def test_a_disk_that_is_full_when_a_database_comes(site: Site, figures: Figures) -> None:
    """Nothing can be written: neither marker, nor status. Once there is room, both are as they should be."""
    survived = 0
    for number in range(ROUNDS):
        databases = [site.complete(f"full-complete-{number}"), site.incomplete(f"full-incomplete-{number}")]
        with site.disk.full():
            ready, lacking = map(site.show, databases)
            for database in (ready, lacking):
                told(site.daemon, database, "disk_full")
            asked = site.selfheald.run("wait", lacking, "--timeout", "20")
            calm(site.daemon)
            untouched(lacking)
            assert not marker_path(ready).exists()
            assert asked.returncode == 1, asked.stderr
            error, hint = two_lines(asked.stderr)
            assert error.startswith("error[disk_full]"), asked.stderr
            assert str(lacking.parent) in error
            assert "Free disk space" in hint
        for database in (ready, lacking):
            healed(database)
        assert status(lacking)["state"] == "completed"
        survived += 1
    figures.tell(6, "disk full before the check", tried=ROUNDS, survived=survived)


def test_who_waits_while_the_disk_is_full_is_answered(site: Site, figures: Figures) -> None:
    """There is room for a request and a status, not for staging: the verdict names the cause, room the cure."""
    survived = 0
    for number in range(ROUNDS):
        database = site.show(site.complete(f"asked-{number}"))
        healed(database)
        database = site.incomplete(f"asked-in-vain-{number}")
        with site.disk.full(leave=40_000):
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


def test_no_inodes_left(site: Site, figures: Figures) -> None:
    survived = 0
    for number in range(ROUNDS):
        databases = [site.complete(f"inodes-complete-{number}"), site.incomplete(f"inodes-incomplete-{number}")]
        with site.disk.no_files_left():
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


def test_a_disk_that_turns_read_only(site: Site, figures: Figures) -> None:
    survived = 0
    for number in range(ROUNDS):
        ready = site.show(site.complete(f"mounted-{number}"))
        healed(ready)
        later = site.complete(f"read-only-complete-{number}")
        lacking = site.incomplete(f"read-only-{number}")
        with site.disk.read_only(site.root, (later.parent, lacking.parent)):
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
    settings = QUICK | {"DBT__PROJECT_DIR": str(project), "REQUIRED__SELECT": ["regions", "tag:foundation"]}
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


def test_no_descriptors_left(site: Site, figures: Figures) -> None:
    survived = 0
    for number in range(ROUNDS):
        ready = site.show(site.complete(f"files-ready-{number}"))
        healed(ready)
        with limited(site.daemon.pid, resource.RLIMIT_NOFILE, open_files(site.daemon.pid)):
            later = site.show(site.complete(f"files-complete-{number}"))
            lacking = site.show(site.incomplete(f"files-incomplete-{number}"))
            wait_for(lambda: site.daemon.log_lines("check_failed", lacking), what=site.daemon.told)  # noqa: B023
            calm(site.daemon)
            assert valid_marker(ready) is not None
            untouched(lacking)
            asked = site.selfheald.run("wait", lacking, "--timeout", "3")
            assert asked.returncode in (1, 3), asked.stderr
            two_lines(asked.stderr)
        lines = site.daemon.log_lines("check_failed", lacking)
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
