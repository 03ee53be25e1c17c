"""Databases whose variables differ get what plain dbt gives each of them alone, whether they share a plan or not."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from fixtures.processes import pinned_python
from plain_dbt import by_hand, contents, relations
from processes import NAME, Selfheald, marker, wait_until_marked

#: One variable shows in rows alone, and one in a name, behind braces in braces.
FILES = {
    "dbt_project.yml": "name: varied\nversion: '1.0'\nprofile: varied\nmodels: {+materialized: table}\n",
    "profiles.yml": "varied: {target: t, outputs: {t: {type: duckdb, path: \"{{ env_var('DATABASE_PATH') }}\"}}}\n",
    "models/base.sql": "select 1 as id",
    "models/braces.sql": "{{ config(meta={'a': {'b': 1}}, alias='braces_' ~ var('braces')) }}"
    " select {{ var('rows') }} as n from {{ ref('base') }}",
}
FIRST: dict[str, object] = {"rows": 1, "braces": "x"}
#: What of them is another in each further database: one alone, so that nothing else tells them apart.
CHANGES: tuple[dict[str, object], ...] = (
    {},
    {"rows": 2},
    {"braces": "y"},
)


@pytest.mark.parametrize("python", ["own", pytest.param("pinned", marks=pytest.mark.pinned)])
def test_each_gets_its_own(tmp_path: Path, selfheald: Selfheald, python: str) -> None:
    project = tmp_path / "project"
    for name, text in FILES.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(text)
    interpreter = sys.executable if python == "own" else pinned_python()
    settings: dict[str, object] = {
        "DBT__PROJECT_DIR": str(project),
        "DBT__PYTHON": interpreter,
        "DBT__VARS": {},
        "DBT__VARS_COMMAND": [shutil.which("cat"), "variables.json"],
        "REQUIRED__SELECT": ["resource_type:model"],
        "STATE_DIR": str(tmp_path / "state"),
    }
    root = tmp_path / "root"
    for number, change in enumerate(CHANGES):
        database = root / str(number) / NAME
        database.parent.mkdir(parents=True)
        (database.parent / "variables.json").write_text(json.dumps(FIRST | change))
        database.touch()
    with selfheald.daemon(root, **settings) as daemon:
        for number in range(len(CHANGES)):
            wait_until_marked(root / str(number) / NAME)
        plans = len(daemon.log_lines("plan"))
    for number, change in list(enumerate(CHANGES))[1:]:
        made = root / str(number) / NAME
        plain = by_hand(
            project, tmp_path / f"plain-{number}" / NAME, ["run"], python=interpreter, variables=FIRST | change
        )
        assert relations(made) == relations(plain), change
        assert contents(made, relations(made)) == contents(plain, relations(plain)), change
        assert marker(made)["origin"] == "dbt"
    assert plans == len(CHANGES) - 1  # rows that differ need no plan of their own
