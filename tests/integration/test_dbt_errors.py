"""What a user reads when dbt fails: dbt's own words in their own layout, file and line, and what to do.

Real dbt on both ends of the range: the interpreter of the tests, and the one that ``SELFHEALD_TEST_PINNED`` names.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
from child_process import CHILD, OWN_PROJECT, PYTHON, asked

from selfheald.cli.output import print_error
from selfheald.errors import InitializationError

PYTHONS = {"these": PYTHON, "pinned": os.environ.get("SELFHEALD_TEST_PINNED", "")}
DIMENSION = "models/mart/dim_regions.sql"
REGIONS = "seeds/regions.csv"
PROFILE = "own_profile: {target: t, outputs: {t: {type: duckdb, path: \"{{ env_var('DATABASE_PATH') }}\"%s}}}"
MODELS = [f"model.own_project.{name}" for name in ("stg_regions", "fct_headcount", "dim_regions")]
TYPES = "\nseeds:\n  own_project:\n    +column_types: {region_code: varchar, headcount: integer}\n"
HEADER = "region_code,region_name,headcount\n"


class Case(NamedTuple):
    """Files over the small project's own, the job, and what is told: code, file, lines in their order, the hint.

    A file's text after ``+`` is added to it. ``{project}``, ``{logs}`` and ``{python}`` stand for what they are.
    """

    files: dict[str, str]
    job: str
    code: str
    path: str
    lines: tuple[str, ...]
    hint: str
    target: str | None = None


UNBROKEN = Case({}, "plan", "", "", (), "")
CASES = {
    "a SQL error": Case(
        {DIMENSION: "\n\nselect region_code\nfrm {{ ref('stg_regions') }}\n"},
        "build",
        "dbt_failed",
        DIMENSION,
        (
            f"error[dbt_failed]: Runtime Error in model dim_regions ({DIMENSION}) ({{path}})",
            '    Parser Error: syntax error at or near ""simulation""',
        ),
        "Mend the model at line 4; the SQL that failed is in {logs}/dim_regions.sql, line 2. Log: ",
    ),
    "a missing column": Case(
        {DIMENSION: "select region_code,\n    nope\nfrom {{ ref('stg_regions') }}\n"},
        "build",
        "dbt_failed",
        DIMENSION,
        (
            f"error[dbt_failed]: Runtime Error in model dim_regions ({DIMENSION}) ({{path}})",
            '    Binder Error: Referenced column "nope" not found in FROM clause!',
        ),
        "Mend the model at line 2; the SQL that failed is in {logs}/dim_regions.sql, line 2. Log: ",
    ),
    "a missing column of an ephemeral parent": Case(
        {
            "models/staging/int_region_years.sql": "{{ config(materialized='ephemeral') }}\nselect\n"
            "    nope as plan_year, region_code, headcount\nfrom {{ ref('stg_regions') }}\n"
        },
        "build",
        "dbt_failed",
        "models/mart/fct_headcount.sql",
        ('    Binder Error: Referenced column "nope" not found in FROM clause!',),
        "Mend the model; the SQL that failed is in {logs}/fct_headcount.sql, line 4. Log: ",
    ),
    "a Jinja error": Case(
        {DIMENSION: "\nselect 1 as x,\n    {{ ref( as y\n"},
        "plan",
        "dbt_project_invalid",
        DIMENSION,
        (
            f"error[dbt_project_invalid]: Compilation Error in model dim_regions ({DIMENSION}) ({{path}})",
            "    expected token ',', got 'y'",
            "      line 2",
            "        {{ ref( as y",
        ),
        "Mend the dbt project at line 3 (`dbt parse` shows the same error), then try again. Log: ",
    ),
    "a Jinja error in a macro": Case(
        {"macros/odd.sql": "{% macro odd() %}\n{% if %}\n{% endmacro %}\n"},
        "plan",
        "dbt_project_invalid",
        "macros/odd.sql",
        ("    Expected an expression, got 'end of statement block'", "      line 2", "        {% if %}"),
        "Mend the dbt project at line 2 (`dbt parse` shows the same error), then try again. Log: ",
    ),
    "an undefined macro": Case(
        {DIMENSION: "select 1 as x,\n\n{{ nosuch('a') }} as y\n"},
        "build",
        "dbt_failed",
        DIMENSION,
        ("Compilation Error in model dim_regions", "'nosuch' is undefined. This can happen when calling a macro"),
        "Mend the model at line 3: no macro or variable is called nosuch; or let `dbt deps` install what has it. Log: ",
    ),
    "a variable that is not set": Case(
        {DIMENSION: "select 1 as x,\n '{{ var('no_such') }}' as y\n"},
        "build",
        "dbt_failed",
        DIMENSION,
        ("Compilation Error in model dim_regions", "Required var 'no_such' not found in config"),
        "Set it in selfheald.toml: dbt.vars.no_such (line 2 of the model reads it). Log: ",
    ),
    "an environment variable that is not set": Case(
        {DIMENSION: "select 1 as x,\n '{{ env_var(\"NO_SUCH\") }}' as y\n"},
        "plan",
        "dbt_project_invalid",
        DIMENSION,
        ("error[dbt_project_invalid]: Parsing Error ({path})", "    Env var required but not provided: 'NO_SUCH'"),
        "Set it: dbt.env.NO_SUCH in selfheald.toml, or NO_SUCH in the environment that selfheald runs in. Log: ",
    ),
    "a missing model": Case(
        {DIMENSION: "select 1 as x\nfrom {{ ref('nowhere') }}\n"},
        "plan",
        "dbt_project_invalid",
        DIMENSION,
        (f"    Model 'model.own_project.dim_regions' ({DIMENSION}) depends on a node named 'nowhere'",),
        "Correct the name at line 2, or add that model or seed, then try again. Log: ",
    ),
    "broken YAML": Case(
        {"models/properties.yml": "models:\n  - name: [\n"},
        "plan",
        "dbt_project_invalid",
        "models/properties.yml",
        ("Syntax error near line 3", "2  |   - name: ["),
        "Mend the dbt project (`dbt parse` shows the same error), then try again. Log: ",
    ),
    "a seed with a row that is too long": Case(
        {REGIONS: HEADER + '1,"a\nb",2\n2,b,c,d,e\n'},
        "build",
        "seed_invalid",
        REGIONS,
        ("Compilation Error in seed regions", "Row 1 has 5 values, but Table only has 3 columns."),
        "Mend line 4 of {path}, then try again. Log: ",
    ),
    "a seed with a value of another type": Case(
        {REGIONS: HEADER + "1,a,2\n2,b,c\n", "dbt_project.yml": "+" + TYPES},
        "build",
        "seed_invalid",
        REGIONS,
        ("Conversion Error: CSV Error on Line: 3", "Original Line: 2,b,c"),
        "Mend line 3 of {path}, or the type of headcount in column_types, then try again. Log: ",
    ),
    "a contract that is not kept": Case(
        {"models/mart/fct_headcount.sql": "select region_code, 'x' as plan_year\nfrom {{ ref('int_region_years') }}\n"},
        "build",
        "dbt_failed",
        "models/mart/fct_headcount.sql",
        (
            "    This model has an enforced contract that failed.",
            "    | column_name | definition_type | contract_type | mismatch_reason       |",
            "    | plan_year   | VARCHAR         | INTEGER       | data type mismatch    |",
        ),
        "Mend the model, or the columns of its contract; its SQL is in {logs}/fct_headcount.sql. Log: ",
    ),
    "a Python model": Case(
        {
            "models/mart/dim_regions.sql": "",
            "models/mart/dim_regions.py": "def model(dbt, session):\n    found = dbt.ref('stg_regions')\n"
            "    raise ValueError('not today')\n    return found\n",
        },
        "build",
        "dbt_failed",
        "models/mart/dim_regions.py",
        ("Runtime Error in model dim_regions (models/mart/dim_regions.py)", "not today"),
        "Mend the model",
    ),
    "a model's hook": Case(
        {DIMENSION: "{{ config(pre_hook='insert into nowhere values (1)') }}\nselect 1 as x\n"},
        "build",
        "dbt_failed",
        DIMENSION,
        ("    Catalog Error: Table with name nowhere does not exist!",),
        "Mend the model's hook: insert into nowhere values (1) Log: ",
    ),
    "the project's hook": Case(
        {"dbt_project.yml": "+\non-run-start:\n  - insert into nowhere values (1)\n"},
        "build",
        "dbt_failed",
        "dbt_project.yml",
        ("on-run-start", "Catalog Error: Table with name nowhere does not exist!"),
        "Mend the hook. Log: ",
    ),
    "a package that is not installed": Case(
        {"packages.yml": "packages:\n  - {package: dbt-labs/dbt_utils, version: 1.1.1}\n"},
        "plan",
        "dbt_project_invalid",
        "packages.yml",
        ("1 package(s) specified in packages.yml, but only 0 package(s) installed",),
        "Install its packages, then try again: {python} -m dbt.cli.main deps --project-dir {project} Log: ",
    ),
    "two models of one name": Case(
        {"models/staging/dim_regions.sql": "select 1 as x\n"},
        "plan",
        "dbt_project_invalid",
        "models/staging/dim_regions.sql",
        (
            '    dbt found two models with the name "dim_regions".',
            "    - model.own_project.dim_regions (models/staging/dim_regions.sql)",
            f"    - model.own_project.dim_regions ({DIMENSION})",
        ),
        "Rename or disable one of them, then try again. Log: ",
    ),
    "models that go round in a circle": Case(
        {"models/staging/stg_regions.sql": "select * from {{ ref('dim_regions') }}\n"},
        "plan",
        "dbt_project_invalid",
        "dbt_project.yml",
        ("error[dbt_project_invalid]: Found a cycle: model.own_project.",),
        "Let one model of the cycle not `ref` the next, then try again. Log: ",
    ),
    "a target that the profile does not have": Case(
        {"profiles.yml": PROFILE % ""},
        "plan",
        "profile_invalid",
        "profiles.yml",
        ("The profile 'own_profile' does not have a target named 'nowhere'.", "     - t"),
        "Correct dbt.target, or add that target to the profile, then try again. Log: ",
        target="nowhere",
    ),
    "an environment variable that the profile needs": Case(
        {"profiles.yml": PROFILE % ", threads: \"{{ env_var('NO_SUCH') }}\""},
        "plan",
        "profile_invalid",
        "profiles.yml",
        ("    Env var required but not provided: 'NO_SUCH'",),
        "Set it: dbt.env.NO_SUCH in selfheald.toml, or NO_SUCH in the environment that selfheald runs in. Log: ",
    ),
    "a profile of another name": Case(
        {"profiles.yml": (PROFILE % "").replace("own_profile", "other")},
        "plan",
        "profile_invalid",
        "profiles.yml",
        ("    Could not find profile named 'own_profile'",),
        "Let `profile` in dbt_project.yml name a profile of that file, then try again. Log: ",
    ),
    "another version of dbt": Case(
        {"dbt_project.yml": "+\nrequire-dbt-version: ['>=1.0.0', '<1.1.0']\n"},
        "plan",
        "dbt_project_invalid",
        "dbt_project.yml",
        ("This version of dbt is not supported with the 'own_project' package.",),
        "Install dbt-core ['>=1.0.0', '<1.1.0'] beside {python}, or name it in dbt.python. Log: ",
    ),
}


class Told(NamedTuple):
    """What all cases came to with one interpreter, each with its folder."""

    python: str
    folder: Path
    errors: dict[str, dict[str, str]]


@pytest.fixture(scope="module", params=PYTHONS)
def told(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Told:
    python, folder = PYTHONS[request.param], tmp_path_factory.mktemp("cases")
    if not python or (request.param == "pinned" and python == PYTHON):
        pytest.skip("SELFHEALD_TEST_PINNED names no other Python")
    jobs = [json.dumps(job_of(name, folder / str(number))) for number, name in enumerate(CASES)]
    jobs.insert(0, json.dumps(job_of("nothing", folder / "unbroken")))
    runner = Path(__file__).with_name("dbt_forks.py")
    done = subprocess.run(
        [python, str(runner), str(CHILD)],
        input="\n".join(jobs),
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"},
        timeout=110,
        check=False,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    return Told(python, folder, {answer["name"]: answer for answer in answers})


def job_of(name: str, folder: Path) -> dict[str, object]:
    """A job on a copy of the small project, broken as the case says."""
    case, project = CASES.get(name, UNBROKEN), folder / "project"
    for each in ("work", "log", "db"):
        (folder / each).mkdir(parents=True)
    shutil.copytree(OWN_PROJECT, project)
    for file, text in case.files.items():
        path = project / file
        if text.startswith("+"):
            path.write_text("\n".join([*_without(path, text), text[1:]]))
        elif text:
            path.write_text(text)
        else:
            path.unlink()
    return {
        "name": name,
        "job": case.job,
        "given": str(project),
        "project_dir": str(folder.parent / "project"),
        "profiles_dir": None,
        "target": case.target,
        "vars": {},
        "threads": 1,
        "select": ["resource_type:seed", "tag:foundation"],
        "work_dir": str(folder / "work"),
        "log_dir": str(folder / "log"),
        "log_file": str(folder / "log" / "child.log"),
        "database": str(folder / "db" / "simulation.duckdb"),
        "partial_parse": str(folder.parent / "kept"),
        "kept": str(folder.parent / "kept"),
        "seeds": asked("seed.own_project.regions"),
        "models": [] if "seed" in name else asked(*MODELS),
        "storage_version": None,
        "pre_sql": None,
    }


def _without(path: Path, text: str) -> list[str]:
    """The file's lines without the block that ``text`` has anew."""
    key = text[1:].split(":")[0].strip()
    lines = path.read_text().splitlines()
    begins = next((number for number, line in enumerate(lines) if line.startswith(f"{key}:")), len(lines))
    ends = next((n for n in range(begins + 1, len(lines)) if not lines[n].startswith((" ", "\t"))), len(lines))
    return lines[:begins] + lines[ends:]


@pytest.mark.parametrize("name", CASES)
def test_the_user_reads_what_dbt_says_and_what_to_do(name: str, told: Told, capsys: pytest.CaptureFixture[str]) -> None:
    case = CASES[name]
    folder = told.folder / str(list(CASES).index(name))
    record = told.errors[name]
    names = {
        "{project}": shlex.quote(str(told.folder / "project")),
        "{logs}": str(folder / "log"),
        "{python}": told.python,
        "{path}": str(told.folder / "project" / case.path),
    }
    assert (record["code"], record["path"]) == (case.code, names["{path}"]), record
    details = {key: record[key] for key in ("code", "hint", "path")}
    print_error(InitializationError(record["message"], log="/w/dbt.log", **details))
    printed = capsys.readouterr().err
    *lines, hint = printed.splitlines()
    assert hint == "  " + _filled(case.hint, names) + "/w/dbt.log" or (
        not case.hint.endswith("Log: ") and hint.startswith("  " + case.hint)
    ), printed
    assert lines[0].startswith(f"error[{case.code}]: ")
    assert names["{path}"] in printed
    for wanted in case.lines:
        text = _filled(wanted, names)
        while lines and text not in lines[0]:
            lines.pop(0)
        assert lines, (wanted, printed)


def _filled(text: str, names: dict[str, str]) -> str:
    for name, value in names.items():
        text = text.replace(name, value)
    return text
