"""The example programs: an invented census, and a simulation over the tables that dbt built from it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import duckdb
import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = ROOT / "dbt"

EVENTS = "select count(*), md5(string_agg(t::varchar, '|' order by t::varchar)) from fct_yearly_events as t"


def _load(name: str) -> ModuleType:
    specification = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    specification.loader.exec_module(module)
    return module


make_census = _load("make_census")
simulator = _load("simulator")


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database that dbt built from a census of 2,000."""
    folder = tmp_path_factory.mktemp("examples")
    census, database = folder / "census.parquet", folder / "simulation.duckdb"
    make_census.make_census(census, employees=2_000)
    options = {
        "--exclude-resource-type": "unit_test",
        "--project-dir": PROJECT,
        "--profiles-dir": PROJECT,
        "--vars": f'{{"census_parquet_path": "{census}"}}',
        "--target-path": folder / "target",
        "--log-path": folder / "logs",
    }
    subprocess.run(
        [sys.executable, "-c", "from dbt.cli.main import cli; cli()", "build"]
        + [str(word) for option in options.items() for word in option],
        cwd=folder,
        env=os.environ | {"DATABASE_PATH": str(database), "DBT_SEND_ANONYMOUS_USAGE_STATS": "false"},
        stdout=subprocess.DEVNULL,
        check=True,
        timeout=100,
    )
    return database


@pytest.fixture
def database(built: Path, tmp_path: Path) -> Path:
    """A copy of it for one test."""
    return Path(shutil.copy(built, tmp_path / "simulation.duckdb"))


def _query(database: Path, query: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(database)) as connection:
        return connection.execute(query).fetchall()


def _simulate(database: Path, **arguments: int) -> list[Any]:
    with duckdb.connect(str(database)) as connection:
        figures: list[Any] = simulator.simulate(connection, **arguments)
        return figures


def _digest(file: Path) -> tuple[Any, ...]:
    with duckdb.connect() as connection:
        row = connection.execute(f"select count(*), md5(string_agg(t::varchar, '|')) from '{file}' as t").fetchone()
    assert row is not None
    return row


def test_a_seed_always_gives_the_same_census_and_another_seed_another(tmp_path: Path) -> None:
    files = [tmp_path / f"{name}.parquet" for name in ("one", "two", "three")]
    for file, seed in zip(files, (42, 42, 43), strict=True):
        make_census.make_census(file, employees=500, seed=seed)
    first, second, other = map(_digest, files)
    assert first[0] == 500
    assert first == second
    assert first != other


def test_the_census_is_the_same_on_every_version_of_duckdb(tmp_path: Path) -> None:
    # Written down from DuckDB 1.0.0 and 2.0.0, which agree.
    file = tmp_path / "census.csv"
    make_census.make_census(file, employees=3, seed=42)
    assert file.read_text() == (
        "employee_id,employee_birth_date,employee_hire_date,employee_termination_date,active,"
        "employee_gross_compensation,employee_deferral_rate,level_id\n"
        "E0000001,1996-12-17,2020-03-28,,true,61397.00,0.0600,1\n"
        "E0000002,1964-08-08,2024-08-16,,true,155845.00,0.0600,3\n"
        "E0000003,1983-03-14,2011-05-12,,true,94122.00,0.0800,2\n"
    )


def test_the_census_is_plausible(tmp_path: Path) -> None:
    census = tmp_path / "it's a census.parquet"
    make_census.make_census(census, employees=20_000)
    with duckdb.connect() as connection:
        connection.read_parquet(str(census)).create_view("census")
        levels = connection.execute(
            "select level_id, count(*) from census group by level_id order by level_id"
        ).fetchall()
        implausible = connection.execute(
            f"""
            select count(*)
            from census
            left join read_csv('{PROJECT / "seeds" / "config_job_levels.csv"}') as levels using (level_id)
            where employee_gross_compensation not between min_compensation and max_compensation
                or date_sub('year', employee_birth_date, employee_hire_date) not between 18 and 67
                or employee_termination_date < employee_hire_date
                or employee_deferral_rate not between 0 and 0.15
                or levels.level_id is null
            """
        ).fetchone()
        shares = connection.execute(
            "select avg((not active)::integer), avg((employee_deferral_rate = 0)::integer),"
            " avg((employee_hire_date >= '2025-01-01')::integer) from census"
        ).fetchone()
    assert implausible == (0,)
    assert [level for level, _ in levels] == [1, 2, 3, 4, 5]
    assert [count for _, count in levels] == sorted((count for _, count in levels), reverse=True)
    assert shares is not None
    left, saves_nothing, joins = shares
    assert 0.02 < left < 0.06
    assert 0.17 < saves_nothing < 0.23
    assert 0.02 < joins < 0.05


def test_another_ending_is_refused_and_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert make_census.main([str(tmp_path / "census.xlsx")]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 2
    assert list(tmp_path.iterdir()) == []


def test_headcount_adds_up_from_year_to_year(database: Path) -> None:
    figures = _simulate(database, years=5)
    assert [year.year for year in figures] == [2025, 2026, 2027, 2028, 2029]
    (opening,) = _query(
        database,
        "select count(*) from int_baseline_workforce where is_active and employee_hire_date < '2025-01-01'",
    )[0]
    assert opening > 1_500
    for year in figures:
        assert year.headcount == opening + year.hires - year.terminations
        assert year.headcount == round(opening * 1.02)
        assert min(year.hires, year.terminations, year.promotions) > 0
        opening = year.headcount
    pay = [year.total_compensation for year in figures]
    assert pay == sorted(pay)


def test_events_follow_the_levers_and_the_ranges_of_the_levels(database: Path) -> None:
    _simulate(database, years=3)
    raised_wrongly, promoted_wrongly, hired_wrongly, outside, unknown = _query(
        database,
        """
        select
            count(*) filter (event_type = 'raise' and to_compensation != round(
                -- 2026 is the last year with levers of its own.
                from_compensation * (1 + levers.cola_rate + levers.merit_rate), 2
            )),
            count(*) filter (event_type = 'promotion' and (
                to_compensation < levels.min_compensation or to_compensation <= from_compensation
            )),
            count(*) filter (event_type = 'hire' and events.employee_id like 'H%' and (
                to_compensation not between levels.min_compensation and levels.max_compensation
            )),
            count(*) filter (year(event_date) != simulation_year),
            count(*) filter (event_type not in ('raise', 'promotion', 'termination', 'hire'))
        from fct_yearly_events as events
        inner join config_job_levels as levels using (level_id)
        inner join comp_levers as levers on events.level_id = levers.level_id and levers.lever_year = 2026
        """,
    )[0]
    assert (raised_wrongly, promoted_wrongly, hired_wrongly, outside, unknown) == (0, 0, 0, 0, 0)
    assert _query(
        database,
        "select distinct simulation_year from fct_yearly_events where event_type = 'raise' order by 1",
    ) == [(2026,), (2027,)]


def test_nobody_leaves_twice_and_nothing_happens_to_people_who_are_gone(database: Path) -> None:
    _simulate(database, years=5)
    assert (
        _query(
            database,
            """
        select employee_id, count(*) from fct_yearly_events as events
        inner join (
            select employee_id, event_date as gone from fct_yearly_events where event_type = 'termination'
        ) using (employee_id)
        where event_date > gone or (event_type = 'termination' and event_date != gone)
        group by employee_id
        """,
        )
        == []
    )


def test_the_same_seed_gives_the_same_events_and_another_seed_others(database: Path) -> None:
    _simulate(database, years=2, seed=1)
    first = _query(database, EVENTS)
    _simulate(database, years=2, seed=1)
    assert _query(database, EVENTS) == first
    _simulate(database, years=2, seed=2)
    assert _query(database, EVENTS) != first


def test_a_new_run_replaces_its_own_years_and_nothing_else(database: Path) -> None:
    _simulate(database, years=2)
    _query(database, "insert into fct_yearly_events values (2031, 'X', 'hire', '2031-05-01', 1, null, 50000)")
    _query(database, "create table precious as select 42 as answer")
    before = _query(database, "select count(*) from fct_yearly_events where simulation_year = 2026")
    _simulate(database, start_year=2025, years=1, seed=7)
    assert _query(database, "select employee_id from fct_yearly_events where simulation_year = 2031") == [("X",)]
    assert _query(database, "select count(*) from fct_yearly_events where simulation_year = 2026") == before
    assert _query(database, "select * from precious") == [(42,)]


def test_a_simulation_that_fails_leaves_the_events_as_they_were(database: Path) -> None:
    _simulate(database, years=1)
    before = _query(database, EVENTS)
    _query(database, "alter table comp_levers rename column merit_rate to another_name")
    with pytest.raises(duckdb.Error, match="merit_rate"):
        _simulate(database, years=1)
    assert _query(database, EVENTS) == before


@pytest.mark.parametrize("arguments", [{"years": 0}, {"start_year": 2024}])
def test_years_that_the_baseline_cannot_serve_are_refused(database: Path, arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="cannot"):
        _simulate(database, **arguments)
    assert _query(database, "select count(*) from duckdb_tables() where table_name = 'fct_yearly_events'") == [(0,)]


def test_an_empty_baseline_gives_a_typed_table_without_events(database: Path) -> None:
    for table in ("int_baseline_workforce", "int_employee_compensation_by_year", "int_employee_benefits"):
        _query(database, f"delete from {table}")
    figures = _simulate(database, years=2)
    assert [(year.year, year.headcount, year.hires) for year in figures] == [(2025, 0, 0), (2026, 0, 0)]
    assert _query(
        database,
        "select column_name, data_type from duckdb_columns() where table_name = 'fct_yearly_events'"
        " order by column_index",
    ) == [
        ("simulation_year", "INTEGER"),
        ("employee_id", "VARCHAR"),
        ("event_type", "VARCHAR"),
        ("event_date", "DATE"),
        ("level_id", "INTEGER"),
        ("from_compensation", "DECIMAL(18,2)"),
        ("to_compensation", "DECIMAL(18,2)"),
    ]
    assert _query(database, "select count(*) from fct_yearly_events") == [(0,)]


def test_a_wait_in_vain_ends_with_what_and_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    database = tmp_path / "simulation.duckdb"
    assert simulator.main([str(database), "--timeout", "0.2"]) == 1
    what, next_step = capsys.readouterr().err.splitlines()[-2:]
    assert str(database) in what
    assert next_step
    assert not database.exists()


def test_the_figures_are_printed_once_the_database_is_ready(
    database: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("selfheald.client.wait_until_ready", lambda *_, **__: {})
    assert simulator.main([str(database), "--years", "2"]) == 0
    heading, *years = capsys.readouterr().out.splitlines()
    assert heading.split()[:2] == ["year", "headcount"]
    assert [line.split()[0] for line in years] == ["2025", "2026"]


def test_the_examples_work_where_a_wheel_puts_them(tmp_path: Path) -> None:
    """A wheel holds the project and the examples under other names; the demo runs them from there."""
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    for source, target in wheel["force-include"].items():
        (tmp_path / target).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copyfile
        copy(ROOT / source, tmp_path / target)
    script = tmp_path / "selfheald" / "_examples" / "make_census.py"
    census = tmp_path / "census.csv"
    done = subprocess.run(
        [sys.executable, str(script), str(census), "--employees", "3"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(census.read_text().splitlines()) == 4
