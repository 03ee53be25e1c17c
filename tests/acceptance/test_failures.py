"""What is wrong with a dbt project is told with its code, its file and its cure; once it is mended, all goes on."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from fixtures.waiting import DEADLINE, wait_for
from processes import Daemon, Record, Running, Selfheald, children, members, status
from projects import NOTES, OWN_TABLES, copy_project, error_block, fixed, own_database, staging_left, tables, told

from selfheald.marker import read_history
from selfheald.workspace import Database

#: Seconds from the moment of a failure to the end of who waits for it.
SOON = 2.0

# It starts a process of its own, tells both, and does not come to its end.
_HANGING_MODEL = """
import os, subprocess, time

def model(dbt, session):
    dbt.config(materialized="table")
    sleeper = subprocess.Popen(["sleep", "600"])
    with open({file!r} + "~", "w") as file:
        file.write(f"{{os.getpid()}} {{sleeper.pid}}")
    os.replace({file!r} + "~", {file!r})
    sleeper.wait()
    found = session.sql("select 1 as number")
    return found
"""
_ENDLESS_MODEL = "select sum(a.range * b.range % 7) as n from range(10000000) as a, range(10000000) as b"


class Site:
    """A project and the environment it runs in; both can be broken, and mended."""

    def __init__(self, folder: Path, bare: Path) -> None:
        self.folder = folder
        self.bare = bare
        self.project = folder / "project"
        self.environment = folder / "environment"
        self.python = self.environment / Path(sys.executable).relative_to(sys.prefix)
        self.mend()

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "DBT__PROJECT_DIR": str(self.project),
            "DBT__PYTHON": str(self.python),
            "REQUIRED__SELECT": ["tag:given", "tag:foundation"],
        }

    def mend(self) -> None:
        """All as it should be."""
        copy_project(self.project)
        self.use(Path(sys.prefix))

    def use(self, environment: Path) -> None:
        """Run dbt in another environment."""
        self.environment.unlink(missing_ok=True)
        self.environment.symlink_to(environment)

    def write(self, file: str, text: str) -> None:
        (self.project / file).write_text(text)

    def replace(self, file: str, words: dict[str, str]) -> None:
        text = (self.project / file).read_text()
        for old, new in words.items():
            assert old in text
            text = text.replace(old, new)
        self.write(file, text)


@dataclass(frozen=True)
class Failure:
    """How a site breaks, and what must be told then: code, file (below the site's folder), step, and some words."""

    code: str
    break_: Callable[[Site], object]
    path: str
    step: str
    words: tuple[str, ...]


_ELSEWHERE = """
own_profile:
  target: dev
  outputs:
    dev: {type: duckdb, path: /nowhere/else.duckdb}
"""

FAILURES = {
    "broken seed": Failure(
        "seed_invalid",
        lambda site: site.write("seeds/regions.csv", 'region_code,region_name,headcount\n01,"No\n02,x,1,2,3\n'),
        "project/seeds/regions.csv",
        "load_seeds",
        ("regions",),
    ),
    "missing seed": Failure(
        "missing_seed_file",
        lambda site: (site.project / "seeds/regions.csv").unlink(),
        "project/seeds/regions.csv",
        "check_tables",
        ("'regions'", "does not exist", "Put regions.csv back"),
    ),
    "failing model": Failure(
        "dbt_failed",
        lambda site: site.write("models/mart/dim_regions.sql", "select error('no such region') as region_code"),
        "project/models/mart/dim_regions.sql",
        "build_foundation",
        ("dim_regions", "no such region", "Mend the model"),
    ),
    "missing project": Failure(
        "dbt_project_missing",
        lambda site: shutil.rmtree(site.project),
        "project/dbt_project.yml",
        "check_tables",
        ("no dbt project in", "dbt.project_dir"),
    ),
    "syntax error": Failure(
        "dbt_project_invalid",
        lambda site: site.write("models/mart/dim_regions.sql", "select {{ reff( as region_code"),
        "project/models/mart/dim_regions.sql",
        "check_tables",
        ("dim_regions", "Mend the dbt project"),
    ),
    "nothing selected": Failure(
        "selection_empty",
        lambda site: site.replace("dbt_project.yml", {'["given"]': '["other"]', '["foundation"]': '["Foundation"]'}),
        "project/dbt_project.yml",
        "check_tables",
        ("tag:given", "Foundation, other", "required.select"),
    ),
    "own path in the profile": Failure(
        "profile_invalid",
        lambda site: site.write("profiles.yml", _ELSEWHERE),
        "project/profiles.yml",
        "check_tables",
        ("/nowhere/else.duckdb", "env_var('DATABASE_PATH')"),
    ),
    "no dbt": Failure(
        "dbt_unavailable",
        lambda site: site.use(site.bare),
        f"environment/{Path(sys.executable).relative_to(sys.prefix)}",
        "check_tables",
        ("cannot import", "Install dbt-core and dbt-duckdb"),
    ),
    "no interpreter": Failure(
        "dbt_unavailable",
        lambda site: site.environment.unlink(),
        f"environment/{Path(sys.executable).relative_to(sys.prefix)}",
        "check_tables",
        ("cannot start", "dbt.python"),
    ),
}


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with a Python and nothing else."""
    folder = tmp_path_factory.mktemp("bare") / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=DEADLINE)
    return folder


@pytest.fixture(scope="module")
def shared_site(tmp_path_factory: pytest.TempPathFactory, bare: Path) -> Site:
    return Site(tmp_path_factory.mktemp("site"), bare)


@pytest.fixture(scope="module")
def shared_daemon(
    shared_selfheald: Selfheald, shared_site: Site, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Daemon]:
    """One daemon for all the breaking and mending."""
    root = tmp_path_factory.mktemp("root")
    with shared_selfheald.daemon(root, WATCH__HEAL="requested", **shared_site.settings) as daemon:
        yield daemon


@pytest.fixture
def broken(shared_site: Site, failure: Failure) -> Iterator[Site]:
    """The site, broken; mended in the end, if the test has not done so."""
    failure.break_(shared_site)
    yield shared_site
    shared_site.mend()


@pytest.mark.parametrize("failure", FAILURES.values(), ids=list(FAILURES))
def test_is_told_and_can_be_mended(
    failure: Failure, broken: Site, shared_daemon: Daemon, shared_selfheald: Selfheald, tmp_path: Path
) -> None:
    """Through a daemon and its waiter, and through ``ensure``, at the same time; neither is restarted or cleaned."""
    workspace = shared_daemon.roots[0] / tmp_path.name
    watched, alone = own_database(workspace), own_database(tmp_path / "alone")
    before = fixed(watched), fixed(alone)

    with ExitStack() as stack:
        waiter = _start(stack, shared_selfheald, "wait", watched)
        ensuring = _start(stack, shared_selfheald, "ensure", alone, broken)
        assert waiter.wait() == 1, waiter.stderr
        ended = time.time()
        assert ensuring.wait() == 1, ensuring.stderr

    found = status(watched)
    assert (found["state"], found["reason"], found["next_attempt_at"]) == ("failed", "needs_person", None)
    assert 0 <= ended - datetime.fromisoformat(found["completed_at"]).timestamp() < SOON
    waited, ensured = _document(waiter), _document(ensuring)
    assert (waited["outcome"], waited["error"]) == ("failed", found["error"])
    assert (ensured["outcome"], ensured["state"], ensured["tables_created"]) == ("failed", "failed", [])
    for running, document in ((waiter, waited), (ensuring, ensured)):
        _assert_told(failure, document["error"], broken, running)
    assert (fixed(watched), fixed(alone)) == before
    assert staging_left(watched) == staging_left(alone) == []

    broken.mend()
    with ExitStack() as stack:
        waiter = _start(stack, shared_selfheald, "wait", watched)
        if failure.step == "build_foundation":  # the one that came furthest
            assert shared_selfheald.document("ensure", alone, **broken.settings)["outcome"] == "initialized"
        assert waiter.wait() == 0, waiter.stderr
    assert shared_selfheald.document("ensure", watched, **broken.settings)["outcome"] == "nothing_to_do"
    assert tables(watched) == OWN_TABLES | NOTES
    assert (status(watched)["state"], status(watched)["error"]) == ("completed", None)
    assert staging_left(watched) == staging_left(alone) == []


def test_a_copy_of_a_project_is_a_project_of_its_own(
    shared_site: Site, shared_selfheald: Selfheald, tmp_path: Path
) -> None:
    """What is known of a project names its files: it doesn't hold for the same project at another place."""
    settings = dict(shared_site.settings)
    for project in (shared_site.project, copy_project(tmp_path / "project")):
        settings["DBT__PROJECT_DIR"] = str(project)
        found = shared_selfheald.document("check", tmp_path, code=1, **settings)
        assert (found["project"], found["error"]) == (str(project), None)


def test_dbt_that_hangs_is_killed_with_all_it_started(tmp_path: Path, selfheald: Selfheald) -> None:
    """``ensure`` gives up at ``dbt.timeout``; neither dbt nor what a model has started is left."""
    limit = 8.0
    project, pids = copy_project(tmp_path / "project"), tmp_path / "pids"
    (project / "models" / "hanging.py").write_text(_HANGING_MODEL.format(file=str(pids)))
    database = own_database(tmp_path / "workspace")
    before = fixed(database)

    with selfheald.started(
        "ensure", database, "--json",
        DBT__PROJECT_DIR=str(project), DBT__TIMEOUT=limit, REQUIRED__SELECT=["hanging"],
    ) as ensuring:  # fmt: skip
        wait_for(pids.exists, what=lambda: ensuring.stderr)
        child, grandchild = map(int, pids.read_text().split())
        assert {child, grandchild} <= set(members(child))
        assert ensuring.wait() == 1
        assert members(child) == []

    error = _document(ensuring)["error"]
    assert (error["code"], error["step"], error["path"]) == ("timeout", "build_foundation", str(project))
    assert status(database)["error"] == error
    _, hint = told(ensuring)
    assert "dbt.timeout" in hint
    assert Path(error["log"]).is_file()
    [attempt] = read_history(Database(database))
    seconds = [datetime.fromisoformat(attempt[key]).timestamp() for key in ("started_at", "completed_at")]
    assert limit - 1 < seconds[1] - seconds[0] < limit + 5
    assert fixed(database) == before
    assert staging_left(database) == []


def test_a_daemon_tries_again_after_a_timeout_and_gives_up(tmp_path: Path, root: Path, selfheald: Selfheald) -> None:
    """Who waits reads which attempt comes next, and fails with the last one; nothing runs on, nothing was changed."""
    project = copy_project(tmp_path / "project")
    (project / "models/mart/dim_regions.sql").write_text(_ENDLESS_MODEL)
    database = own_database(root / "workspace")
    before = fixed(database)
    settings: dict[str, Any] = {
        "DBT__PROJECT_DIR": str(project),
        "DBT__TIMEOUT": 3.0,
        "RETRY__ATTEMPTS": 2,
        "RETRY__BASE": 1.0,
    }
    groups = set[int]()

    with (
        selfheald.daemon(root, WATCH__HEAL="requested", **settings) as daemon,
        selfheald.started("wait", database, "--json") as waiter,
    ):

        def ended_meanwhile() -> bool:
            groups.update(_build_of(daemon, database))
            return waiter.process.poll() is not None

        wait_for(ended_meanwhile, what=lambda: waiter.stderr)
        assert waiter.wait() == 1
        ended = time.time()
        found = status(database)
        assert ended - datetime.fromisoformat(found["completed_at"]).timestamp() < SOON
        assert len(groups) == 2
        assert [members(group) for group in groups] == [[], []]

    assert "; attempt 2 of 2 in " in waiter.stderr, waiter.stderr
    assert (found["reason"], found["attempt"], found["next_attempt_at"]) == ("needs_person", 2, None)
    assert found["error"]["code"] == _document(waiter)["error"]["code"] == "timeout"
    assert "Raise dbt.timeout" in told(waiter)[1]
    assert [attempt["trigger"] for attempt in read_history(Database(database))] == ["request", "retry"]
    assert fixed(database) == before
    assert staging_left(database) == []


def test_backoff_ends_and_a_new_request_begins_anew(tmp_path: Path, root: Path, selfheald: Selfheald) -> None:
    """A full disk: three attempts with growing pauses, then a person is needed, whose next request counts from one."""
    settings: dict[str, Any] = {
        "DBT__PROJECT_DIR": str(copy_project(tmp_path / "project")),
        "LIMITS__MIN_FREE_BYTES": 10**18,
        "RETRY__ATTEMPTS": 3,
        "RETRY__BASE": 0.4,
    }
    database = own_database(root / "workspace")
    before = fixed(database)

    with selfheald.daemon(root, WATCH__HEAL="requested", **settings):
        for times in (1, 2):
            with selfheald.started("wait", database, "--json") as waiter:
                first = wait_for(lambda: _in_backoff(database, 1), what=lambda: status(database))
                assert first["error"]["code"] == "disk_full"
                assert first["error"]["retryable"] is True
                assert first["next_attempt_at"] > first["completed_at"]
                wait_for(lambda: _in_backoff(database, 2), what=lambda: status(database))
                assert waiter.process.poll() is None
                assert waiter.wait() == 1
            found = status(database)
            assert (found["reason"], found["attempt"], found["next_attempt_at"]) == ("needs_person", 3, None)
            assert _document(waiter)["error"] == found["error"]
            assert "attempt 2 of 3 in" in waiter.stderr
            assert "attempt 3 of 3 in" in waiter.stderr
            error, hint = told(waiter)
            assert "MB are needed" in error
            assert "Free disk space" in hint
            history = read_history(Database(database))
            assert [attempt["trigger"] for attempt in history] == ["request", "retry", "retry"] * times
        began = [datetime.fromisoformat(attempt["started_at"]).timestamp() for attempt in history[:3]]
        assert 0.2 <= began[1] - began[0]
        assert 0.4 <= began[2] - began[1]

    ensured = selfheald.document("ensure", database, code=1, **settings)
    assert ensured["error"]["code"] == "disk_full"
    assert fixed(database) == before
    assert staging_left(database) == []


def _start(stack: ExitStack, selfheald: Selfheald, name: str, database: Path, site: Site | None = None) -> Running:
    settings = {} if site is None else site.settings
    return stack.enter_context(selfheald.started(name, database, "--json", **settings))


def _document(running: Running) -> Record:
    document: Record = json.loads(running.stdout)
    return document


def _assert_told(failure: Failure, error: Record, site: Site, running: Running) -> None:
    assert (error["code"], error["path"], error["step"]) == (
        failure.code,
        str(site.folder / failure.path),
        failure.step,
    )
    assert error["retryable"] is False
    (first, *more), hint = error_block(running.stderr)
    message, *rest = error["message"].splitlines()
    assert first.startswith(f"error[{failure.code}]: {message}")
    assert more == rest
    assert error["path"] in first
    assert hint.startswith(error["hint"])
    for word in failure.words:
        assert word in f"{error['message']} {hint}"


def _build_of(daemon: Daemon, database: Path) -> list[int]:
    """The group of the child that builds a database, while it does."""
    return children(daemon.pid) if status(database).get("state") == "in_progress" else []


def _in_backoff(database: Path, attempt: int) -> Record | None:
    found = status(database)
    return found if (found.get("reason"), found.get("attempt")) == ("backoff", attempt) else None
