"""What is said to be inert is so to dbt itself: whatever the variable's value, it reads the same from the project."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from fixtures.inert_projects import INERT
from fixtures.processes import pinned_python

#: Reads a project with two values; fails unless all that dbt knows of it then is the same, and prints how much it is.
_READ = """
import json
from dbt.cli.main import dbtRunner

def known(value):
    options = ["--project-dir", ".", "--profiles-dir", ".", "--no-partial-parse"]
    done = dbtRunner().invoke(["--quiet", "parse", *options, "--vars", json.dumps({"v": value, "w": "w"})])
    assert done.success, done.exception
    return {
        uid: {key: told for key, told in node.to_dict().items() if key != "created_at"}
        for uid, node in done.result.nodes.items()
    }

one, other = known(2024), known(2025)
assert one == other, [(one[uid], other.get(uid)) for uid in one if one[uid] != other.get(uid)]
print(len(one))
"""


@pytest.mark.parametrize("python", ["own", pytest.param("pinned", marks=pytest.mark.pinned)])
def test_dbt_reads_the_same(tmp_path: Path, python: str) -> None:
    """All projects in one, each in a schema of its own."""
    cases = [files for files in INERT.values() if "dbt_project_yml" not in files]
    schemas = "".join(f"    c{number}: {{+schema: c{number}}}\n" for number in range(len(cases)))
    files = {
        "dbt_project.yml": f"name: pkg\nversion: '1.0'\nprofile: pkg\nmodels:\n  pkg:\n{schemas}",
        "profiles.yml": "pkg: {target: t, outputs: {t: {type: duckdb, path: ':memory:'}}}\n",
        "models/a.sql": "select 1 as id",
    }
    for number, case in enumerate(cases):
        files |= _renamed(case, number)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    done = subprocess.run(
        [sys.executable if python == "own" else pinned_python(), "-c", _READ],
        env=os.environ | {"DBT_SEND_ANONYMOUS_USAGE_STATS": "false"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert int(done.stdout.split()[-1]) == len(cases) + 1


def _renamed(case: dict[str, str], number: int) -> dict[str, str]:
    """The files of one, so that their models and macros have names that no other has."""
    macros = re.findall(r"macro (\w+)", case.get("a_sql", ""))
    renamed = {}
    for name, text in case.items():
        for macro in macros:
            text = re.sub(rf"\b{macro}\(", f"{macro}_{number}(", text)
        place = {"m_sql": f"models/c{number}/m{number}.sql", "a_sql": f"macros/a{number}.sql"}.get(name)
        renamed[place or f"models/c{number}/p.yml"] = text.replace("name: m,", f"name: m{number},")
    return renamed
