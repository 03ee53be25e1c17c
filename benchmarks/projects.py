"""The dbt projects that fresh workspaces are made with, and what people do with them by hand."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
from fixtures.generated_project import write_project

from benchmarks.bench import ROOT, Bench
from benchmarks.databases import NAME

#: What a database of the bundled project is made from, and one of a generated project.
EMPLOYEES = 500


@dataclass(frozen=True, slots=True)
class Project:
    """A project as both sides use it. ``settings`` are ours; the commands are what people type, after ``dbt``."""

    what: str
    folder: Path
    settings: Mapping[str, Any]
    variables: Mapping[str, Any]
    three: Sequence[Sequence[str]]
    one: Sequence[Sequence[str]]
    models: int


def bundled(bench: Bench) -> Project:
    """A copy of the project that comes with selfheald, with a census of 500 people."""
    folder = bench.make_folder("bundled")
    shutil.copytree(ROOT / "dbt", folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("target", "logs"))
    census = bench.folder / "census.parquet"
    if not census.exists():
        script = ROOT / "examples" / "make_census.py"
        bench.run([sys.executable, script, census, "--employees", str(EMPLOYEES)])
    variables = {"census_parquet_path": str(census)}
    settings = {"DBT__PROJECT_DIR": str(folder), "DBT__VARS": variables}
    three = [["seed"], ["run", "--select", "staging"], ["run", "--select", "+tag:foundation"]]
    one = [
        ["build", "--select", "resource_type:seed", "+tag:foundation", "--exclude-resource-type", "test", "unit_test"]
    ]
    return Project(
        "bundled project", folder, settings, variables, three, one, len(list(folder.rglob("models/**/*.sql")))
    )


def generated(bench: Bench, models: int) -> Project:
    """A project of so many models in layers, of which seven tables are required, whatever its size."""
    folder = bench.make_folder("generated")
    write_project(folder, models=models, required=7)
    census = folder.with_suffix(".parquet")
    with duckdb.connect() as connection:
        connection.execute(
            f"COPY (SELECT range AS employee_id, 1 + range % 3 AS level_id, 30000 + (range * 7919) % 90000 AS pay "
            f"FROM range({EMPLOYEES})) TO '{census}' (FORMAT parquet)"
        )
    variables = {"census_path": str(census), "plan_year": 2032}
    settings = {"DBT__PROJECT_DIR": str(folder), "DBT__VARS": variables, "REQUIRED__SELECT": ["tag:needed"]}
    three = [["seed"], ["run", "--select", "staging"], ["run", "--select", "+tag:needed"]]
    one = [["build", "--select", "+tag:needed"]]
    three = one if bench.form == "tiny" else three
    return Project(f"project of {models} models", folder, settings, variables, three, one, models)


class ByHand:
    """People who use dbt's own commands on a database: always the same place, so that dbt can keep what it parsed."""

    def __init__(self, bench: Bench, project: Project) -> None:
        self._bench = bench
        self._folder = bench.make_folder("by-hand")
        self._options: list[str | Path] = [
            "--project-dir",
            project.folder,
            "--profiles-dir",
            project.folder,
            "--threads",
            "1",
        ]
        self._options += ["--vars", json.dumps(project.variables)]
        self._options += ["--target-path", self._folder / "target", "--log-path", self._folder / "logs"]
        self._environment = bench.environment() | {"DATABASE_PATH": str(self.database)}

    @property
    def database(self) -> Path:
        return self._folder / NAME

    def run(self, commands: Sequence[Sequence[str]]) -> float:
        """Make the database anew by these commands; the seconds that they took."""
        for path in self._folder.glob(f"{NAME}*"):
            path.unlink()
        dbt = [sys.executable, "-m", "dbt.cli.main", "--quiet"]
        lines: list[list[str | Path]] = [[*dbt, *command, *self._options] for command in commands]
        return sum(self._bench.run(line, environment=self._environment) for line in lines)
