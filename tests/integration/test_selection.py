"""What a selection means is what dbt says it means: its methods, operators and YAML selectors, on a user's project."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from child_process import OWN_PROJECT, Event, run

_SELECTORS = """\
selectors:
  - name: needed
    definition:
      union:
        - {method: tag, value: FOUNDATION}
        - {method: resource_type, value: seed}
        - exclude:
            - {method: path, value: models/mart}
  - name: indexed
    definition: "tag:INDEXED"
"""
_SEEDS = {"people", "rates", "sites"}
_MART = {"dim_grade.v1", "dim_grade.v2", "dim_site", "fct_hires", "fct_staffing", "rpt_site_changes", "rpt_site_notes"}
_MART_TABLES = _MART - {"dim_grade.v1", "fct_hires"}
_NEEDED = _SEEDS | {"calendar_months", "site_history"}
#: What dbt selects, by the names that follow the package's.
SELECTIONS = {
    "tag:FOUNDATION": _MART | {"calendar_months", "site_history"},
    "tag:foundation": set(),
    "tag:[FG]*,resource_type:seed": _SEEDS,
    "resource_type:snapshot": {"site_history"},
    "package:calendar": {"calendar_months"},
    "path:models/mart": _MART,
    "path:models/mart,tag:FOUNDATION,config.materialized:table": _MART_TABLES,
    "config.materialized:incremental": {"fct_hires"},
    "fqn:staffing.mart": _MART,
    "staffing.mart.*": _MART,
    "file:rates.csv": {"rates"},
    "version:latest": {"dim_grade.v2"},
    "dim_grade.v2": {"dim_grade.v2"},
    "source:outside.wage_index+": {"fct_staffing", "dim_site"},
    "+exposure:staffing_board,resource_type:seed": {"people", "sites"},
    "+fct_staffing": {"fct_staffing", "int_person_years", "stg_people", "people"},
    "fct_staffing+": {"fct_staffing", "dim_site"},
    "1+fct_staffing": {"fct_staffing", "int_person_years", "people"},
    "people+1,config.materialized:view": {"stg_people"},
    "@fct_hires": {"fct_hires", "stg_people", "people"},
    "fct_hires rates": {"fct_hires", "rates"},
    "selector:needed": _NEEDED,
    "selector:needed tag:INDEXED selector:indexed": _NEEDED | {"person_lookup"},
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's project with two selectors; it is only read."""
    project = tmp_path_factory.mktemp("selection") / "project"
    shutil.copytree(OWN_PROJECT.with_name("staffing_project"), project)
    (project / "selectors.yml").write_text(_SELECTORS)
    return project


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> str:
    """dbt's parse of it."""
    return str(tmp_path_factory.mktemp("kept") / "parse")


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory, project: Path, kept: str) -> Event:
    """What one process makes of all selections, each apart."""
    folder = tmp_path_factory.mktemp("plan") / "job"
    job = {"project_dir": str(project), "partial_parse": kept, "select": [], "tables": list(SELECTIONS)}
    outcome = run(folder, "plan", **job)[-1]
    assert outcome["event"] == "result", outcome
    return outcome


def names(unique_ids: list[str]) -> set[str]:
    return {unique_id.split(".", 2)[2] for unique_id in unique_ids}


@pytest.mark.parametrize("selection", SELECTIONS)
def test_a_selection_means_what_dbt_says(plan: Event, selection: str) -> None:
    found = plan["tables"][list(SELECTIONS).index(selection)]
    assert names(found) == SELECTIONS[selection]
    assert found == sorted(set(found))


def test_a_selection_of_several_is_their_union(project: Path, kept: str, plan: Event, tmp_path: Path) -> None:
    select = ["selector:needed", "file:rates.csv", "tag:INDEXED"]
    job = {"project_dir": str(project), "partial_parse": kept, "select": select}
    assert names(run(tmp_path / "job", "plan", **job)[-1]["required"]) == _NEEDED | {"person_lookup"}


@pytest.mark.parametrize(
    ("selection", "said"),
    [
        ("nonsense:x", "'nonsense' is not a valid method name"),
        ("state:modified", "Got a state selector method, but no comparison manifest"),
        ("selector:none", "Could not find selector named none, expected one of ['needed', 'indexed']"),
        ("selector:needed,tag:GIVEN", "'selector' is not a valid method name"),
        ("selector:", "'selector' is not a valid method name"),
    ],
)
def test_what_dbt_refuses_is_told_as_dbt_says_it(
    project: Path, kept: str, plan: Event, tmp_path: Path, selection: str, said: str
) -> None:
    job = {"project_dir": str(project), "partial_parse": kept, "select": ["resource_type:seed", selection]}
    error = run(tmp_path / "job", "plan", **job)[-1]
    assert (error["event"], error["code"], error["hint"]) == ("error", "config_invalid", "Correct required.select.")
    assert error["message"].startswith("dbt cannot read the selection ")
    assert selection in error["message"]
    assert said in error["message"]
    assert error["path"] == str(project / "dbt_project.yml")
