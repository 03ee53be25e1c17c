"""A seed's table whose columns are not those of its file: reported, or loaded anew with the old one kept."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from conftest import Copied
from fixtures.waiting import wait_for
from processes import Selfheald, change, digests, holding, marker, rows, snapshot, status, wait_until_marked

from selfheald.client import valid_marker

OLD = re.compile(r"comp_levers__before_\d{8}T\d{6}Z")
ANEW: dict[str, Any] = {"DBT__ON_SCHEMA_MISMATCH": "rebuild-seeds"}


@pytest.fixture
def outdated(complete: Copied, root: Path) -> Path:
    """A complete database whose levers an analyst has edited, and that lacks one of their columns now."""
    database = complete(root / "w")
    change(
        database,
        "update comp_levers set merit_rate = 0.5",
        "alter table comp_levers drop column source",
        "create view levers as select lever_year from comp_levers",
    )
    return database


@pytest.fixture
def expected(finished: Path) -> tuple[object, ...]:
    return digests(finished)["comp_levers"]


def others(database: Path) -> dict[str, tuple[object, ...]]:
    return {name: found for name, found in digests(database).items() if not name.startswith("comp_levers")}


def kept(database: Path) -> list[str]:
    return [name for name in digests(database) if OLD.fullmatch(name)]


def test_it_is_reported_and_made_anew_at_a_persons_word(
    selfheald: Selfheald, outdated: Path, expected: tuple[object, ...]
) -> None:
    before, rest = digests(outdated), others(outdated)
    refused = selfheald.run("ensure", outdated)
    first, second = refused.stderr.splitlines()[-2:]
    assert first.startswith("error[schema_mismatch]: comp_levers has no column source")
    command = second.split("`")[1]
    assert command == f"selfheald repair {outdated} --rebuild-seeds"
    assert digests(outdated) == before

    done = selfheald.ok(*command.split()[1:])
    [old] = kept(outdated)
    assert f"the old table is kept as {old}" in done.stderr
    now = digests(outdated)
    assert now[old] == before["comp_levers"]
    assert now["comp_levers"] == expected
    assert others(outdated) == rest
    assert marker(outdated)["origin"] == "dbt"
    assert valid_marker(outdated) is not None
    assert status(outdated)["tables_created"] == ["comp_levers"]
    assert rows(outdated, "select count(*) from levers") == rows(outdated, "select count(*) from comp_levers")

    again = selfheald.run("repair", outdated, "--rebuild-seeds")
    assert again.returncode == 1
    assert "nothing to rebuild" in again.stderr
    assert digests(outdated) == now


def test_a_daemon_that_is_configured_to_does_it(
    selfheald: Selfheald, root: Path, outdated: Path, expected: tuple[object, ...]
) -> None:
    before, rest = digests(outdated), others(outdated)
    with selfheald.daemon(root, **ANEW) as daemon:
        wait_until_marked(outdated)
        [old] = kept(outdated)
        assert [line["message"] for line in daemon.log_lines("table_kept", outdated)] == [
            f"comp_levers was made anew; the old table is kept as {old}"
        ]
    now = digests(outdated)
    assert (now[old], now["comp_levers"], others(outdated)) == (before["comp_levers"], expected, rest)


def test_a_daemon_that_is_not_only_reports(selfheald: Selfheald, root: Path, outdated: Path) -> None:
    before = digests(outdated)
    with selfheald.daemon(root) as daemon:
        wait_for(lambda: status(outdated).get("reason") == "needs_person", what=daemon.told)
        assert "--rebuild-seeds" in status(outdated)["error"]["hint"]
        selfheald.ok("repair", outdated, "--rebuild-seeds")
        wait_for(lambda: valid_marker(outdated), what=daemon.told)
    assert digests(outdated)[kept(outdated)[0]] == before["comp_levers"]


@pytest.mark.parametrize(
    ("statements", "reason"),
    [
        (("alter table int_employee_benefits drop column employer_match",), "int_employee_benefits has no column"),
        (("drop table int_employee_benefits", "create view int_employee_benefits as select 1 as one"), "is a view"),
        (("create index lever on comp_levers(lever_year)",), "cannot be kept under another name"),
    ],
    ids=["model", "view", "index"],
)
def test_what_only_a_person_can_mend_stays(
    selfheald: Selfheald, outdated: Path, statements: tuple[str, ...], reason: str
) -> None:
    change(outdated, *statements)
    before = digests(outdated)
    done = selfheald.run("repair", outdated, "--rebuild-seeds")
    assert done.returncode == 1
    assert reason in done.stderr
    assert "error[schema_mismatch]" in done.stderr
    assert digests(outdated) == before
    assert valid_marker(outdated) is None


def test_it_waits_for_who_has_it_open(selfheald: Selfheald, outdated: Path) -> None:
    before = digests(outdated)
    with holding(outdated) as holder:
        done = selfheald.run("repair", outdated, "--rebuild-seeds", "--timeout", "1")
        assert done.returncode == 1
        assert f"PID {holder.pid} " in done.stderr
    assert digests(outdated) == before


def test_a_missing_table_is_made_from_the_new_one(selfheald: Selfheald, outdated: Path, finished: Path) -> None:
    change(outdated, "drop table int_employee_compensation_by_year")
    selfheald.ok("ensure", outdated, **ANEW)
    made = "int_employee_compensation_by_year"
    assert digests(outdated)[made] == digests(finished)[made]
    assert len(kept(outdated)) == 1


def test_nothing_is_left_where_none_is_wanted(selfheald: Selfheald, complete: Copied, root: Path) -> None:
    database = complete(root / "w")
    selfheald.ok("ensure", database)
    before = snapshot(database.parent)
    assert selfheald.document("ensure", database, **ANEW)["outcome"] == "nothing_to_do"
    assert snapshot(database.parent) == before
