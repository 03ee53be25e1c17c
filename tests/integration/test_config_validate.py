"""``config validate`` asks the dbt project what ``required.select`` means."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
from child_process import OWN_PROJECT

from selfheald.cli.config_commands import validate_command


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of one's own, and a state folder that knows it after the first look."""
    folder = tmp_path_factory.mktemp("validate")
    shutil.copytree(OWN_PROJECT, folder / "project")
    return folder


def validated(place: Path, capsys: pytest.CaptureFixture[str], *lines: str) -> list[str]:
    """What it says on stderr; it must find the configuration right."""
    file = place / "own.toml"
    beginning = [f"state_dir = '{place}/state'", "watch.roots = ['.']", f"dbt.project_dir = '{place}/project'"]
    file.write_text("\n".join([*beginning, *lines]))
    validate_command(file)
    printed = capsys.readouterr()
    assert printed.out == f"OK: {file}\n"
    return printed.err.splitlines()


def test_what_the_plan_warns_of_is_a_note_and_known_the_next_time(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    select = "required.select = ['tag:foundation', 'tag:Foundation', 'stg_regions']"
    told = validated(place, capsys, select, "dbt.vars.region_prefix = '{workspace}'")
    assert told[:2] == ["Checking required.select", "Reading the dbt project…"]
    case = "tag 'foundation' differs from the selected 'Foundation' only in case: dbt's tags are case-sensitive"
    view = "model.own_project.stg_regions is selected but is view: it is no required table"
    assert {f"note: {case}", f"note: {view}"} <= set(told)
    began = time.monotonic()
    again = validated(place, capsys, select, "dbt.vars.region_prefix = '{workspace}'")
    assert [line for line in told if not line.startswith("Reading")] == again
    assert time.monotonic() - began < 2


def test_a_selection_that_gives_nothing_is_a_note_with_what_there_is(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = validated(place, capsys, "required.select = ['tag:Foundation']")
    [note] = [number for number, line in enumerate(told) if line.startswith("note: the dbt project gives no plan: ")]
    assert "selection_empty: the selection ['tag:Foundation'] matches nothing in own_project" in told[note]
    assert "its tags: foundation" in told[note]
    assert "required.select" in told[note + 1]


def test_a_plan_that_depends_on_the_workspace_is_not_made(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = validated(place, capsys, "dbt.vars_command = ['/bin/false']")
    assert len(told) == 1
    assert "`selfheald ensure WORKSPACE --dry-run` tells what is required there" in told[0]
