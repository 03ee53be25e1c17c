"""The daemon keeps dbt warm: one host makes the tables of all databases, and is gone when it should be."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from fixtures.files import write
from fixtures.processes import is_alive
from fixtures.waiting import wait_for
from processes import NAME, Daemon, Selfheald, at_work, hosts, status, wait_until_marked
from projects import tables

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is forked")

#: What a node is called, whether it is there, and what it is, depend on a variable of each workspace's own.
FILES = {
    "dbt_project.yml": "name: placed\nversion: '1.0'\nconfig-version: 2\nmodels:\n  placed:\n    +tags: [needed]\n",
    "macros/here.sql": "{% macro here() %}{{ return(var('place').split('/')[-1]) }}{% endmacro %}",
    "models/base.sql": "{{ config(materialized='ephemeral' if here() == 'south' else 'table') }} select 1 as id",
    "models/totals.sql": "{{ config(alias=here() ~ '_totals', materialized='table') }} select * from {{ ref('base') }}",
    "models/extra.sql": "{{ config(enabled=here() == 'north', materialized='table') }} select 2 as id",
}
MADE = {"north": {"base", "north_totals", "extra"}, "south": {"south_totals"}, "east": {"base", "east_totals"}}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("placed") / "project", FILES)


@pytest.fixture(scope="module")
def placed(shared_selfheald: Selfheald, project: Path) -> Selfheald:
    return shared_selfheald.but(
        DBT__PROJECT_DIR=str(project),
        DBT__VARS={"place": "{workspace}"},
        REQUIRED__SELECT=["tag:needed"],
        WATCH__RESCAN=0.5,
    )


@pytest.fixture(scope="module")
def daemon(placed: Selfheald, shared_root: Path) -> Iterator[Daemon]:
    with placed.daemon(shared_root) as daemon:
        yield daemon


def fresh(folder: Path) -> Path:
    """An empty database that a daemon will find."""
    folder.mkdir(parents=True)
    (folder / NAME).touch()
    return folder / NAME


def test_each_database_gets_its_own_tables_from_one_host(daemon: Daemon, shared_root: Path, project: Path) -> None:
    databases = {name: fresh(shared_root / name) for name in MADE}
    for name, database in databases.items():
        wait_until_marked(database)
        assert tables(database) == MADE[name], name
    [host] = hosts(daemon.pid)

    (project / "models" / "late.sql").write_text("{{ config(materialized='table') }} select '{{ here() }}' as place")
    for name, database in databases.items():
        wait_for(partial(has_late, database))
        assert tables(database) == MADE[name] | {"late"}, name
    assert hosts(daemon.pid) == [host]
    assert len(daemon.log_lines("dbt_host_started")) == 1
    assert not daemon.log_lines("dbt_host_trouble")


def has_late(database: Path) -> bool:
    record = status(database)
    return record.get("state") == "completed" and record["tables_created"] == ["late"]


def test_a_host_that_is_killed_fails_nothing(daemon: Daemon, shared_root: Path) -> None:
    """Neither idle, nor while its fork is at work, which goes on to its end."""
    first = fresh(shared_root / "before" / "east")
    wait_until_marked(first)
    [host] = hosts(daemon.pid)
    os.kill(host, signal.SIGKILL)

    second = fresh(shared_root / "while" / "east")
    child = at_work(daemon.pid, second)
    os.kill(child, signal.SIGSTOP)
    [another] = hosts(daemon.pid)
    assert another != host
    os.kill(another, signal.SIGKILL)
    os.kill(child, signal.SIGCONT)
    wait_until_marked(second)
    for database in (first, second):
        assert status(database)["attempt"] == 1
        assert tables(database) >= MADE["east"]
    assert not daemon.log_lines("initialization_failed")


def test_a_host_ends_when_it_is_idle(placed: Selfheald, root: Path) -> None:
    with placed.daemon(root, DBT__KEEP_WARM=1) as daemon:
        wait_until_marked(fresh(root / "east"))
        wait_for(lambda: daemon.log_lines("dbt_host_ended") and not hosts(daemon.pid), what=daemon.told)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_host_ends_with_its_daemon(placed: Selfheald, root: Path, number: signal.Signals) -> None:
    with placed.daemon(root) as daemon:
        wait_until_marked(fresh(root / "east"))
        [host] = hosts(daemon.pid)
        if number is signal.SIGKILL:
            daemon.kill()
            wait_for(lambda: not is_alive(host), 2.0, "the host outlives its daemon")
        else:
            daemon.stop(deadline=10)
            assert not is_alive(host)
