"""State, log and temporary folders that are full, gone or nowhere; too little memory: no database depends on it."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faults import QUICK, calm, healed
from fixtures.figures import Figures, scaled
from fixtures.waiting import wait_for
from machine import MB, disk, private_mounts
from processes import Selfheald, marker
from projects import copy_project, own_database, tables, two_lines

from selfheald.client import valid_marker

pytestmark = [pytest.mark.promise(6), pytest.mark.soak, pytest.mark.timeout(scaled(120, 900))]


@pytest.fixture(scope="module")
def mounts() -> Iterator[None]:
    with private_mounts():
        yield


def test_no_room_for_state_and_log(
    mounts: None, selfheald: Selfheald, root: Path, tmp_path: Path, figures: Figures
) -> None:
    """Workspaces are served all the same; once there is room, both are used, and every line of the log is whole."""
    database = own_database(root / "workspace")
    with disk(tmp_path / "disk", 20 * MB) as small:
        log = small.path / "logs" / "log"
        settings = QUICK | {"STATE_DIR": str(small.path / "state"), "LOG__FILE": str(log)}
        small.fill()
        with selfheald.daemon(root, **settings) as daemon:
            healed(database)
            assert not log.exists() or not log.read_text()
            assert f"The log file {log} cannot be written: No space left on device" in daemon.told()
            calm(daemon)
            small.make_room()
            healed(own_database(root / "another"))
            lines = [json.loads(line) for line in log.read_text().splitlines()]
            assert lines[-1]["event"] == "initialization_complete"
            small.fill(leave=2_000)
            healed(own_database(root / "third"))
            small.make_room()
            healed(own_database(root / "fourth"))
            broken = [line for line in log.read_text().splitlines() if not line.endswith("}")]
            assert len(broken) <= 1  # what was being written as the disk became full
    figures.tell(6, "state and log folder on a full disk", tried=4, survived=4)


def test_folders_that_go_while_it_runs(selfheald: Selfheald, root: Path, tmp_path: Path, figures: Figures) -> None:
    """No home, no folder for temporary files; state and log folder are removed while it runs."""
    project = copy_project(tmp_path / "project")
    state, log = tmp_path / "state", tmp_path / "logs" / "log"
    settings = QUICK | {"DBT__PROJECT_DIR": str(project), "STATE_DIR": str(state), "LOG__FILE": str(log)}
    homeless = {name: value for name, value in selfheald.environment.items() if name not in ("HOME", "TMPDIR")}
    homeless = {name: value for name, value in homeless.items() if not name.startswith("XDG_")}
    nowhere = Selfheald(selfheald.folder, homeless | {"TMPDIR": str(tmp_path / "nowhere")})
    with nowhere.daemon(root, **settings) as daemon:
        before = own_database(root / "before")
        healed(before)
        shutil.rmtree(state)
        shutil.rmtree(log.parent)
        after = own_database(root / "after")
        healed(after)
        calm(daemon)
        old = marker(after)["fingerprint"]
        shutil.rmtree(state, ignore_errors=True)
        state.write_text("in the way")
        (project / "models" / "mart" / "dim_regions.sql").write_text("select 1 as region_code")
        database = own_database(root / "later")
        healed(database)
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        assert str(database) in {line["database"] for line in lines if line["event"] == "initialization_complete"}
        for each in (before, after, database):  # the edit may be seen when the database is there already
            wait_for(lambda: (valid_marker(each) or {}).get("fingerprint") not in (None, old), what=daemon.told)  # noqa: B023
        calm(daemon)
    figures.tell(6, "state, log, home and temporary folder gone", tried=3, survived=3)


def test_too_little_memory_for_the_child(selfheald: Selfheald, tmp_path: Path, figures: Figures) -> None:
    """Whatever the limit, nothing is made by halves; it is told as what it is, and the next try succeeds."""
    program = tmp_path / "python"
    limit = tmp_path / "limit"
    program.write_text(f'#!/bin/sh\nulimit -v "$(cat {limit})"\nexec {sys.executable} "$@"\n')
    program.chmod(0o755)
    database = own_database(tmp_path / "workspace")
    limit.write_text("unlimited")
    codes: dict[str, int] = {}
    wrong = 0
    settings: dict[str, Any] = QUICK | {"DBT__PYTHON": str(program)}
    limits = range(150_000, 1_000_000, scaled(250_000, 50_000))
    for kilobytes in limits:
        limit.write_text(str(kilobytes))
        done = selfheald.run("ensure", database, **settings)
        if done.returncode == 0:
            codes["none"] = codes.get("none", 0) + 1
            wrong += len(tables(database)) < 4
            shutil.rmtree(database.parent)
            own_database(database.parent)
            continue
        error, _ = two_lines(done.stderr)
        code = error.partition("[")[2].partition("]")[0]
        codes[code] = codes.get(code, 0) + 1
        wrong += tables(database) != {"notes"}
        print(kilobytes, done.stderr)
    limit.write_text("unlimited")
    selfheald.ok("ensure", database, **settings)
    healed(database)
    note = ", ".join(f"{code}: {count}" for code, count in sorted(codes.items()))
    figures.tell(
        6, "memory limit for the child", tried=len(limits), survived=len(limits) - wrong, wrong=wrong, note=note
    )
    assert wrong == 0
    assert set(codes) <= {"none", "interrupted", "dbt_unavailable"}
