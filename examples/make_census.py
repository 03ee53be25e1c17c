"""Make a census: a workforce that is invented, plausible, and the same every time.

    python examples/make_census.py census.parquet --employees 100000 --seed 42

The ending of the file decides between parquet and CSV. The same seed, size and year give the same values on
every DuckDB: chance is read from MD5 digests, since `random()` and `hash()` differ between its versions.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import duckdb

#: Beside a checkout's examples the project is `dbt`, inside an installed package `_dbt`.
PROJECT = next(
    folder for folder in (Path(__file__).resolve().parent.parent / name for name in ("dbt", "_dbt")) if folder.is_dir()
)
JOB_LEVELS = PROJECT / "seeds" / "config_job_levels.csv"

# Digits of a digest that a DOUBLE holds exactly: 13 hexadecimal ones are 52 bits.
_DRAW = """
create or replace temp macro draw(what, person) as
    ('0x' || substr(md5('{seed}:' || what || ':' || person), 1, 13))::bigint / 4503599627370496.0::double
"""

_CENSUS = """
with people as (
    select
        person,
        draw('level', person) as level_draw,
        draw('age', person) as age_draw,
        draw('tenure', person) as tenure_draw,
        draw('new', person) as new_draw,
        -- The mean of two draws: most are paid near the middle of their range.
        (draw('pay', person) + draw('pay again', person)) / 2 as pay_draw,
        draw('saver', person) as saver_draw,
        draw('rate', person) as rate_draw,
        draw('leaver', person) as leaver_draw,
        draw('last day', person) as last_day_draw
    from (select range as person from range(1, {employees} + 1)) as numbers
),

leveled as (
    -- A pyramid: 55, 25, 13, 5.5 and 1.5 % of the workforce.
    select
        *,
        case
            when level_draw < 0.55 then 1
            when level_draw < 0.80 then 2
            when level_draw < 0.93 then 3
            when level_draw < 0.985 then 4
            else 5
        end as level_id
    from people
),

aged as (
    -- Days before the first of January: 20 to 66 years of age, the more senior not the youngest.
    select
        *,
        (7305 + 1095 * (level_id - 1) + floor(age_draw * (16800 - 1095 * (level_id - 1))))::integer
            as age_days
    from leveled
),

hired as (
    -- One in thirty joins in the course of the year; the others have served for up to 30 years, most for few.
    select
        *,
        case
            when new_draw < 0.033 then (first_day + floor(tenure_draw * 365)::integer)
            else first_day - 1 - floor(tenure_draw * tenure_draw * least(age_days - 6940, 10950))::integer
        end as hire_date
    from aged, (select make_date({year}, 1, 1) as first_day) as calendar
),

dated as (
    -- One in twenty left in the year before; one in fifty is known to leave in the year.
    select
        *,
        case
            when leaver_draw < 0.05 and hire_date < first_day - 365
                then first_day - 1 - floor(last_day_draw * 365)::integer
            when leaver_draw >= 0.05 and leaver_draw < 0.07 and hire_date < first_day
                then first_day + floor(last_day_draw * 365)::integer
        end as termination_date
    from hired
)

select
    'E' || lpad(person::varchar, 7, '0') as employee_id,
    first_day - age_days as employee_birth_date,
    hire_date as employee_hire_date,
    termination_date as employee_termination_date,
    (termination_date is null or termination_date >= first_day) as active,
    floor(
        levels.min_compensation + pay_draw * (levels.max_compensation - levels.min_compensation)
    )::decimal(18, 2) as employee_gross_compensation,
    -- One in five saves nothing; the others 1 to 15 % of pay, many the 6 % they were enrolled with.
    case
        when saver_draw < 0.20 then 0
        when saver_draw < 0.45 then 0.06
        else (1 + floor(rate_draw * 15)) / 100
    end::decimal(6, 4) as employee_deferral_rate,
    level_id::integer as level_id
from dated
inner join read_csv({job_levels}, header = true) as levels using (level_id)
order by person
"""


def make_census(path: Path, employees: int = 100_000, seed: int = 42, year: int = 2025) -> None:
    """Write a census of that many employees as of January 1 of `year`, replacing the file at `path`.

    The columns are those that the bundled dbt project reads. Pay lies within the range of the employee's
    level in `dbt/seeds/config_job_levels.csv`. The file appears whole or not at all.
    """
    is_csv = path.suffix.lower() == ".csv"
    if not is_csv and path.suffix.lower() != ".parquet":
        raise ValueError(f"{path}: the ending must be .parquet or .csv")
    query = _CENSUS.format(employees=int(employees), year=int(year), job_levels=_quoted(JOB_LEVELS))
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with duckdb.connect() as connection:
            connection.execute(_DRAW.format(seed=int(seed)))
            form = "format csv, header true" if is_csv else "format parquet"
            connection.execute(f"copy ({query}) to {_quoted(unfinished)} ({form})")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Make an invented census, the same for the same seed.")
    parser.add_argument("file", type=Path, help="what to write; .parquet or .csv")
    parser.add_argument("--employees", type=int, default=100_000, help="how many (%(default)s)")
    parser.add_argument("--seed", type=int, default=42, help="another seed, another workforce (%(default)s)")
    parser.add_argument("--year", type=int, default=2025, help="as of January 1 of this year (%(default)s)")
    options = parser.parse_args(arguments)
    try:
        make_census(options.file, options.employees, options.seed, options.year)
    except (OSError, ValueError, duckdb.Error) as error:
        print(f"make_census: {error}", file=sys.stderr)
        print("Name a .parquet or .csv file in a folder that exists and can be written to.", file=sys.stderr)
        return 1
    print(f"{options.file}: {options.employees:,} employees as of {options.year}-01-01, seed {options.seed}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
