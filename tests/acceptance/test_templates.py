"""Databases made from a template: the same as those that dbt makes, and never from one that is not theirs."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fixtures.processes import pinned_python
from fixtures.waiting import DEADLINE, wait_for
from processes import (
    NAME,
    Record,
    Selfheald,
    digests,
    marker,
    snapshot,
    status,
    steps_of,
    wait_until_marked,
)
from projects import NOTES, OWN_TABLES, copy_project, own_database, staging_left, tables
from test_metrics import Port

from selfheald import AutoInitializer, templates
from selfheald.client import drop_request, valid_marker
from selfheald.config import load_config
from selfheald.marker import read_history
from selfheald.workspace import Database

MANY = 30
MODEL = "select '{{ var('place') }}' as place, count(*) as people from read_csv('{{ var('census') }}', header = true)"


@dataclass
class Site:
    """A project, a store of templates with one that was made of it, and the database that left it."""

    selfheald: Selfheald
    folder: Path
    project: Path
    store: Path
    first: Path
    count: int = 0

    def ensure(self, selfheald: Selfheald | None = None, *, before: Path | None = None) -> Path:
        """Make a new workspace's database ready, by dbt or from a template."""
        self.count += 1
        database = self.folder / f"w{self.count}" / NAME
        database.parent.mkdir()
        if before is not None:
            shutil.copyfile(before, database)
        document = (selfheald or self.selfheald).document("ensure", database)
        assert document["outcome"] == "initialized"
        assert document["error"] is None
        assert set(document["tables_created"]) == OWN_TABLES | {"people"}
        return database

    def template(self) -> Path:
        """The one template's folder."""
        (found,) = (path for path in self.store.iterdir() if len(path.name) == 64)
        return found


def origin(database: Path) -> str:
    return str(marker(database)["origin"])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Site:
    folder = tmp_path_factory.mktemp("templates")
    project = copy_project(folder / "project")
    (project / "models" / "mart" / "people.sql").write_text(MODEL)
    (project / "census.csv").write_text("id\n1\n2\n")
    selfheald = Selfheald(folder, environment).but(
        DBT__PROJECT_DIR=str(project),
        DBT__VARS={"place": "here", "census": str(project / "census.csv")},
        TEMPLATES__MODE="on",
        TEMPLATES__DIR=str(folder / "store"),
        STATE_DIR=str(folder / "state"),
    )
    site = Site(selfheald, folder, project, folder / "store", folder / "first" / NAME)
    site.first = site.ensure()
    assert origin(site.first) == "dbt"
    return site


@pytest.fixture
def site(made: Site, tmp_path: Path) -> Iterator[Site]:
    """The same for a test that may change the store, and the project for a while."""
    kept = tmp_path / "kept"
    shutil.copytree(made.store, kept / "store")
    shutil.copytree(made.project, kept / "project")
    yield made
    for name in ("store", "project"):
        shutil.rmtree(made.folder / name)
        shutil.copytree(kept / name, made.folder / name)


def test_it_is_the_same_as_what_dbt_makes(site: Site) -> None:
    database = site.ensure()
    assert origin(database) == "template"
    assert digests(database) == digests(site.first)
    assert marker(database)["fingerprint"] == marker(site.first)["fingerprint"]
    assert marker(database)["initialized_at"] is not None
    assert set(steps_of(status(database)).values()) == {"completed"}
    built = next(step for step in status(database)["steps"] if step["name"] == "build_foundation")
    assert built["duration_seconds"] is None  # nothing was built
    history = site.selfheald.document("history", database)["attempts"]
    assert [(each["outcome"], each["trigger"]) for each in history] == [("initialized", "ensure")]
    assert not list((database.parent / ".selfheald" / "logs").glob("*/dbt.log"))
    assert staging_left(database) == []


_OWN = """
import sys
from selfheald import AutoInitializer
result = AutoInitializer(sys.argv[1]).ensure_initialized()
print(result.outcome, result.error)
"""


def test_in_a_simulators_own_process(site: Site, tmp_path: Path) -> None:
    """It may have databases open: a child puts the file in its place."""
    line = [sys.executable, "-c", _OWN, str(tmp_path / NAME)]
    environment = site.selfheald.environment
    done = subprocess.run(line, env=environment, cwd=site.folder, capture_output=True, text=True, check=True)
    assert done.stdout == "initialized None\n"
    assert origin(tmp_path / NAME) == "template"
    assert digests(tmp_path / NAME) == digests(site.first)
    assert [path.name for path in (tmp_path / ".selfheald" / "logs").glob("*/*")] == ["place.log"]


def test_an_empty_file_and_one_without_the_tables(site: Site, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    database = site.ensure(before=empty)
    assert (origin(database), digests(database)) == ("template", digests(site.first))
    database = site.ensure(before=own_database(tmp_path / "own"))
    assert origin(database) == "template"
    assert tables(database) == OWN_TABLES | NOTES | {"people"}
    expected = digests(site.first)
    assert {name: found for name, found in digests(database).items() if name in expected} == expected


@pytest.mark.parametrize("what", ["seed", "file that a variable names"])
def test_what_it_depends_on_has_changed(what: str, site: Site) -> None:
    """What else there is: tests/unit/test_template_key.py, and those of the plan's fingerprint."""
    if what == "seed":
        with (site.project / "seeds" / "regions.csv").open("a") as seed:
            seed.write("04,East,7\n")
    else:
        (site.project / "census.csv").write_text("id\n1\n3\n4\n")
    database = site.ensure()
    assert origin(database) == "dbt"
    assert digests(database) != digests(site.first)
    again = site.ensure()
    assert (origin(again), digests(again)) == ("template", digests(database))


def test_one_that_is_whole_but_not_what_is_required(site: Site, tmp_path: Path) -> None:
    """As somebody who may write to the store could leave it: the copy is looked at before it is published."""
    other = own_database(tmp_path / "own")
    shutil.copyfile(other, site.template() / "database.duckdb")
    record = json.loads((site.template() / "template.json").read_text())
    size, digest = other.stat().st_size, _digest(other)
    (site.template() / "template.json").write_text(json.dumps(record | {"size": size, "digest": digest}))
    database = site.ensure()
    assert (origin(database), digests(database)) == ("dbt", digests(site.first))
    assert origin(site.ensure()) == "template"


def test_a_store_that_cannot_be_used_fails_nothing(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    database = site.ensure(site.selfheald.but(TEMPLATES__DIR=str(tmp_path / "file")))
    assert (origin(database), digests(database)) == ("dbt", digests(site.first))


def test_what_changes_while_dbt_builds_is_not_kept(site: Site, tmp_path: Path) -> None:
    """The variables are others each time that they are asked for."""
    script = tmp_path / "place.py"
    script.write_text('import json, time; print(json.dumps({"place": time.time_ns()}))')
    before = {path.name for path in site.store.iterdir()}
    database = site.ensure(site.selfheald.but(DBT__VARS_COMMAND=[sys.executable, str(script)]))
    assert origin(database) == "dbt"
    assert {path.name for path in site.store.iterdir()} == before


def test_a_disk_that_lets_the_copy_hang(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(overrides={"dbt.timeout": 1}, environ=site.selfheald.environment)
    over = threading.Event()
    monkeypatch.setattr(templates, "copy_content", lambda *arguments: over.wait(DEADLINE))
    result = AutoInitializer(tmp_path / NAME, config, in_process=True).ensure_initialized()
    over.set()
    assert result.error is not None
    assert (result.error.code, result.error.step) == ("timeout", "load_seeds")
    assert not (tmp_path / NAME).exists()
    assert staging_left(tmp_path / NAME) == []


def test_a_dry_run_tells(site: Site, tmp_path: Path) -> None:
    def told(workspace: Path, **settings: Any) -> Record:
        found: Record = site.selfheald.document("ensure", workspace, "--dry-run", **settings)["template"]
        return found

    before = snapshot(site.folder)
    assert told(tmp_path)["usable"] is True
    # One that nobody proved is none where proof is wanted.
    assert told(tmp_path, TEMPLATES__MODE="auto")["usable"] is False
    assert told(tmp_path, TEMPLATES__MODE="off") == {"usable": False, "why": "templates.mode is off"}
    none_yet = told(tmp_path, TEMPLATES__DIR=str(tmp_path / "none"))
    assert none_yet == {"usable": False, "why": "there is none yet; this initialization would leave one"}
    assert snapshot(site.folder) == before


def test_two_processes_at_once_let_dbt_build_once(site: Site) -> None:
    shutil.rmtree(site.store)
    databases = [site.folder / f"both{number}" / NAME for number in range(2)]
    with ExitStack() as stack:
        processes = []
        for database in databases:
            database.parent.mkdir()
            processes.append(stack.enter_context(site.selfheald.started("ensure", database)))
        assert [process.wait() for process in processes] == [0, 0]
    assert sorted(map(origin, databases)) == ["dbt", "template"]
    assert digests(databases[0]) == digests(databases[1]) == digests(site.first)


def test_who_waits_for_a_process_that_is_killed_builds(site: Site) -> None:
    shutil.rmtree(site.store)
    hanging, waiting = (site.folder / f"waits{number}" / NAME for number in range(2))
    for database in (hanging, waiting):
        database.parent.mkdir()
    with site.selfheald.started("ensure", hanging) as first:
        wait_for(lambda: status(hanging).get("state") == "in_progress")
        with site.selfheald.started("ensure", waiting) as second:
            wait_for(lambda: status(waiting).get("state") == "in_progress")
            first.process.send_signal(signal.SIGKILL)
            assert second.wait() == 0
    assert origin(waiting) == "dbt"


def test_many_at_once_need_dbt_once(site: Site, tmp_path: Path) -> None:
    shutil.rmtree(site.store)
    root = tmp_path / "root"
    root.mkdir()
    with site.selfheald.daemon(root, METRICS__LISTEN="127.0.0.1:0") as daemon:
        databases = [root / f"w{number:02}" / NAME for number in range(MANY)]
        for database in databases:
            database.parent.mkdir()
            drop_request(database)
        wait_for(lambda: all(map(valid_marker, databases)), what=daemon.told)
        assert sorted(map(origin, databases)) == ["dbt", *["template"] * (MANY - 1)]
        assert len(daemon.log_lines("template_used")) == MANY - 1
        assert len(daemon.log_lines("template_kept")) == 1
        # What comes later finds it too, also as an empty file, by an event alone.
        later = root / "later" / NAME
        later.parent.mkdir()
        later.touch()
        wait_until_marked(later)
        assert origin(later) == "template"
        counted = Port(daemon).figures()
        names = ("hits", "misses", "builds", "evictions")
        assert [counted[f"selfheald_template_{name}_total",] for name in names] == [MANY, 1, 1, 0]
        assert read_history(Database(later))[-1]["origin"] == "template"
    expected = digests(site.first)
    assert all(digests(database) == expected for database in databases)
    logs = [database for database in databases if list((database.parent / ".selfheald" / "logs").glob("*"))]
    assert len(logs) == 1


@pytest.mark.pinned
def test_each_duckdb_has_templates_of_its_own(site: Site) -> None:
    pinned = site.selfheald.but(DBT__PYTHON=pinned_python())
    database = site.ensure(pinned)
    assert origin(database) == "dbt"
    again = site.ensure(pinned)
    assert (origin(again), digests(again)) == ("template", digests(database))
    assert origin(site.ensure()) == "template"


def _digest(path: Path) -> str:
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
