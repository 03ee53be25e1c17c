"""The bundled dbt project, built by the real dbt: columns, arithmetic, and what it does without a census."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = ROOT / "dbt"

SEEDS = {"comp_levers", "config_age_bands", "config_irs_limits", "config_job_levels", "config_tenure_bands"}

# What simulators rely on: name and type of each column; a question mark allows nulls.
MODELS = {
    "int_baseline_workforce": """
        employee_id VARCHAR; employee_birth_date DATE; employee_hire_date DATE;
        employee_termination_date DATE?; employee_gross_compensation DECIMAL(18,2);
        employee_deferral_rate DECIMAL(6,4); level_id INTEGER;
        current_age INTEGER; current_tenure INTEGER; age_band VARCHAR; tenure_band VARCHAR; is_active BOOLEAN;
        simulation_year INTEGER
    """,
    "int_employee_compensation_by_year": """
        employee_id VARCHAR; simulation_year INTEGER; level_id INTEGER; compensation_growth DECIMAL(12,8);
        annual_compensation DECIMAL(18,2); days_employed INTEGER; days_in_year INTEGER;
        prorated_compensation DECIMAL(18,2)
    """,
    "int_employee_benefits": """
        employee_id VARCHAR; simulation_year INTEGER; age_at_year_end INTEGER; limit_year INTEGER;
        eligible_compensation DECIMAL(18,2); employee_deferral_rate DECIMAL(6,4);
        deferral_limit DECIMAL(18,2); employee_deferral DECIMAL(18,2); catch_up_deferral DECIMAL(18,2);
        employer_match DECIMAL(18,2); annual_additions_limit DECIMAL(18,2);
        annual_additions DECIMAL(18,2)
    """,
}

# Ids with leading zeros, an earlier employment of 0001, no level and no rate for two of them.
CENSUS = """\
employee_id,employee_birth_date,employee_hire_date,employee_termination_date,active,employee_gross_compensation,employee_deferral_rate,level_id,city
0001,1966-05-05,1995-01-01,1999-12-31,false,20000,0.01,1,Bern
0001,1966-05-05,2010-01-01,,true,50000,0.10,1,Bern
0002,1963-07-01,2000-01-01,,true,500000,0.12,5,Oslo
0003,2001-01-01,2026-10-01,,true,73000,,,Rome
0004,1990-02-28,2020-05-01,2025-06-30,false,36500,0.05,,Riga
"""

Dbt = Callable[..., "Build"]


@dataclass(frozen=True)
class Build:
    """A finished dbt command: the database it wrote, what it said."""

    database: Path
    output: str

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with duckdb.connect(str(self.database), read_only=True) as connection:
            return connection.execute(query).fetchall()

    def digests(self) -> dict[str, tuple[Any, ...]]:
        """Of each required table, the number of rows and a digest over them in their stored order."""
        return {
            name: self.rows(f"select count(*), md5(string_agg(t::varchar, '|')) from {name} as t")[0]
            for name in sorted(SEEDS | MODELS.keys())
        }


@pytest.fixture(scope="session")
def dbt(tmp_path_factory: pytest.TempPathFactory) -> Dbt:
    """Run a dbt command on the bundled project in a folder of its own; `fails` if it must."""

    def run(*command: str, variables: str = "{}", database: Path | None = None, fails: bool = False) -> Build:
        folder = tmp_path_factory.mktemp("build")
        database = database or folder / "simulation.duckdb"
        options = {
            "--project-dir": PROJECT,
            "--profiles-dir": PROJECT,
            "--vars": variables,
            "--target-path": folder / "target",
            "--log-path": folder / "logs",
        }
        done = subprocess.run(
            [sys.executable, "-c", "from dbt.cli.main import cli; cli()", "--no-use-colors", *command]
            + [str(word) for option in options.items() for word in option],
            cwd=folder,
            env=os.environ | {"DATABASE_PATH": str(database), "DBT_SEND_ANONYMOUS_USAGE_STATS": "false"},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert (done.returncode != 0) is fails, done.stdout + done.stderr
        return Build(database, done.stdout)

    return run


@pytest.fixture(scope="session")
def without_census(dbt: Dbt) -> Build:
    return dbt("build", "--warn-error")


@pytest.fixture(scope="session")
def by_hand(dbt: Dbt, tmp_path_factory: pytest.TempPathFactory) -> Build:
    census = tmp_path_factory.mktemp("o'dd [folder]") / "cen sus.csv"
    census.write_text(CENSUS)
    return dbt("build", variables=_variables(census_parquet_path=str(census), start_year=2024, simulation_year=2026))


@pytest.fixture(scope="session")
def generated(dbt: Dbt, census: Path) -> Build:
    return dbt("build", variables=_variables(census_parquet_path=str(census)))


@pytest.fixture(scope="session")
def census(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("census") / "census.parquet"
    script = ROOT / "examples" / "make_census.py"
    subprocess.run([sys.executable, str(script), str(path), "--employees", "2000"], check=True, timeout=60)
    return path


def test_a_build_without_a_census_gives_full_seeds_and_empty_typed_tables(without_census: Build) -> None:
    assert {name: digest[0] for name, digest in without_census.digests().items()} == {
        "comp_levers": 15,
        "config_age_bands": 6,
        "config_irs_limits": 3,
        "config_job_levels": 5,
        "config_tenure_bands": 7,
        "int_baseline_workforce": 0,
        "int_employee_benefits": 0,
        "int_employee_compensation_by_year": 0,
    }
    assert "WARN=0 ERROR=0 SKIP=0" in without_census.output


@pytest.mark.parametrize("table", sorted(MODELS))
@pytest.mark.parametrize("build", ["without_census", "generated"])
def test_every_column_has_the_type_of_the_contract(build: str, table: str, request: pytest.FixtureRequest) -> None:
    built: Build = request.getfixturevalue(build)
    found = built.rows(
        "select column_name || ' ' || data_type || case when is_nullable then '?' else '' end"
        f" from duckdb_columns() where table_name = '{table}' order by column_index"
    )
    assert [column for (column,) in found] == [column.strip() for column in MODELS[table].split(";")]


@pytest.mark.parametrize("build", ["without_census", "generated"])
def test_no_key_and_no_index_is_made(build: str, request: pytest.FixtureRequest) -> None:
    # With one that DuckDB 2 writes, DuckDB 1.0 could not open the file at all.
    built: Build = request.getfixturevalue(build)
    assert built.rows("select distinct constraint_type from duckdb_constraints()") == [("NOT NULL",)]
    assert built.rows("select index_name from duckdb_indexes()") == []


def test_only_required_tables_are_left_in_the_database(generated: Build) -> None:
    tables = generated.rows("select table_name, table_type from information_schema.tables where table_schema = 'main'")
    assert set(tables) == {(name, "BASE TABLE") for name in SEEDS | MODELS.keys()}


def test_a_census_that_is_missing_is_warned_of_and_gives_empty_tables(dbt: Dbt) -> None:
    built = dbt("build", variables=_variables(census_parquet_path="no such place/it's.parquet"))
    assert "no such file: 'no such place/it's.parquet'" in built.output
    assert built.rows("select count(*) from int_baseline_workforce") == [(0,)]
    assert built.rows("select count(*) from config_irs_limits") == [(3,)]


def test_limits_are_those_of_the_irs_notices(without_census: Build) -> None:
    assert without_census.rows("select * from config_irs_limits order by limit_year") == [
        (2024, *_dollars(345_000, 23_000, 7_500), None, *_dollars(69_000), "IRS Notice 2023-75"),
        (2025, *_dollars(350_000, 23_500, 7_500, 11_250, 70_000), "IRS Notice 2024-80"),
        (2026, *_dollars(360_000, 24_500, 8_000, 11_250, 72_000), "IRS Notice 2025-67"),
    ]


def test_the_baseline_of_a_known_census(by_hand: Build) -> None:
    assert by_hand.rows(
        "select employee_id, year(employee_hire_date), level_id, employee_deferral_rate, current_age,"
        " age_band, current_tenure, tenure_band, is_active from int_baseline_workforce"
    ) == [
        ("0001", 2010, 1, Decimal("0.10"), 59, "55-64", 16, "15-19", True),
        ("0002", 2000, 5, Decimal("0.12"), 62, "55-64", 26, "20+", True),
        ("0003", 2026, 2, Decimal("0.00"), 25, "25-34", 0, "< 1", True),
        ("0004", 2020, 1, Decimal("0.05"), 35, "35-44", 5, "5-9", False),
    ]


def test_the_pay_of_a_known_census(by_hand: Build) -> None:
    # Level 1 rises by 2.5 + 3 % in 2025 and 2.8 + 3 % in 2026; level 5 by 2.5 + 4 % and 2.8 + 4 %.
    assert by_hand.rows(
        "select employee_id, simulation_year, annual_compensation::varchar, days_employed,"
        " prorated_compensation::varchar from int_employee_compensation_by_year"
    ) == [
        ("0001", 2024, "50000.00", 366, "50000.00"),
        ("0001", 2025, "52750.00", 365, "52750.00"),
        ("0001", 2026, "55809.50", 365, "55809.50"),
        ("0002", 2024, "500000.00", 366, "500000.00"),
        ("0002", 2025, "532500.00", 365, "532500.00"),
        ("0002", 2026, "568710.00", 365, "568710.00"),
        ("0003", 2026, "73000.00", 92, "18400.00"),
        ("0004", 2024, "36500.00", 366, "36500.00"),
        ("0004", 2025, "38507.50", 181, "19095.50"),
    ]


def test_the_benefits_of_a_known_census(by_hand: Build) -> None:
    # 0002 turns 61, 62 and 63: the higher catch-up counts from 2025 on.
    assert by_hand.rows(
        "select employee_id, simulation_year, age_at_year_end, eligible_compensation::varchar,"
        " employee_deferral::varchar, catch_up_deferral::varchar, employer_match::varchar,"
        " annual_additions::varchar from int_employee_benefits"
    ) == [
        ("0001", 2024, 58, "50000.00", "5000.00", "0.00", "2000.00", "7000.00"),
        ("0001", 2025, 59, "52750.00", "5275.00", "0.00", "2110.00", "7385.00"),
        ("0001", 2026, 60, "55809.50", "5580.95", "0.00", "2232.38", "7813.33"),
        ("0002", 2024, 61, "345000.00", "30500.00", "7500.00", "13800.00", "36800.00"),
        ("0002", 2025, 62, "350000.00", "34750.00", "11250.00", "14000.00", "37500.00"),
        ("0002", 2026, 63, "360000.00", "35750.00", "11250.00", "14400.00", "38900.00"),
        ("0003", 2026, 25, "18400.00", "0.00", "0.00", "0.00", "0.00"),
        ("0004", 2024, 34, "36500.00", "1825.00", "0.00", "1460.00", "3285.00"),
        ("0004", 2025, 35, "19095.50", "954.78", "0.00", "763.82", "1718.60"),
    ]


def test_unit_tests_and_data_tests_have_run(generated: Build) -> None:
    assert "6 unit tests" in generated.output
    assert "PASS=53 WARN=0 ERROR=0 SKIP=0" in generated.output


def test_two_builds_give_the_same_rows_in_the_same_order(dbt: Dbt, generated: Build, census: Path) -> None:
    seeded = dbt("seed")
    variables = _variables(census_parquet_path=str(census))
    again = dbt("run", "--select", *sorted(MODELS), database=seeded.database, variables=variables)
    assert generated.digests()["int_employee_benefits"][0] > 1_900
    assert again.digests() == generated.digests()


def test_one_missing_model_is_built_from_the_tables_that_are_there(
    dbt: Dbt, generated: Build, census: Path, tmp_path: Path
) -> None:
    database = tmp_path / "simulation.duckdb"
    with duckdb.connect(str(database)) as connection:
        connection.execute(f"attach '{generated.database}' as built (read_only)")
        for name in (SEEDS | MODELS.keys()) - {"int_employee_benefits"}:
            connection.execute(f"create table {name} as from built.{name}")
        # As edited by a user: the model must go by these rows, and leave them alone.
        connection.execute("update config_irs_limits set elective_deferral_limit = 1000")
        connection.execute("detach built")

    variables = _variables(census_parquet_path=str(census))
    built = dbt("run", "--select", "int_employee_benefits", database=database, variables=variables)

    assert built.rows("select max(employee_deferral - catch_up_deferral)::varchar from int_employee_benefits") == [
        ("1000.00",)
    ]
    before, after = generated.digests(), built.digests()
    assert {name for name in before if before[name] != after[name]} == {
        "config_irs_limits",
        "int_employee_benefits",
    }


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ("{start_year: 2026}", "variable 'start_year' (2026) is after 'simulation_year' (2025)"),
        ("{simulation_year: soon}", "variable 'simulation_year' is 'soon', not a year"),
    ],
)
def test_a_year_that_cannot_be_is_named(dbt: Dbt, variables: str, sentence: str) -> None:
    model = "int_employee_compensation_by_year"
    assert sentence in dbt("compile", "--select", model, variables=variables, fails=True).output


def test_every_seed_file_has_properties_and_every_figure_a_source() -> None:
    properties = (PROJECT / "seeds" / "seeds.yml").read_text()
    files = sorted((PROJECT / "seeds").glob("*.csv"))
    assert {path.stem for path in files} == SEEDS
    for path in files:
        assert f"- name: {path.stem}\n" in properties
        assert path.read_text().splitlines()[0].endswith(",source")


def test_the_project_leaves_nothing_in_its_own_folder(without_census: Build, generated: Build) -> None:
    assert {path.name for path in PROJECT.iterdir()} <= {
        *("dbt_project.yml", "profiles.yml", "README.md", "macros", "models", "seeds", "tests"),
        *(".gitignore",),
    }


def _variables(**variables: object) -> str:
    pairs = (f'"{name}": "{value}"' for name, value in variables.items())
    return "{" + ", ".join(pairs) + "}"


def _dollars(*amounts: int) -> tuple[Decimal, ...]:
    return tuple(Decimal(amount) for amount in amounts)
