"""A small multi-year workforce simulation: raises, promotions, terminations, hires.

    python examples/simulator.py workspace/dbt/simulation.duckdb --years 5 --seed 42

It waits until the database is ready, opens it only then, and writes every event into `fct_yearly_events`. The
same tables, years and seed give the same events. A year that is simulated again replaces its own events;
nothing else in the database is touched, and a simulation that fails leaves it as it was.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb

#: By how much the workforce grows in a year, as a fraction. An assumption.
GROWTH = Decimal("0.02")


@dataclass(frozen=True)
class YearFigures:
    """A simulated year, counted at its end. Pay is the sum of annual rates, in US dollars."""

    year: int
    headcount: int
    hires: int
    terminations: int
    promotions: int
    total_compensation: Decimal
    average_deferral_rate: float


def simulate(
    connection: duckdb.DuckDBPyConnection, start_year: int | None = None, years: int = 5, seed: int = 42
) -> list[YearFigures]:
    """Simulate `years` years from `start_year` on (the baseline's own year if None) in one transaction.

    Writes `fct_yearly_events`, also where the baseline is empty: then without rows. Raises `ValueError` for
    years that the baseline cannot serve, and `duckdb.Error` after everything was rolled back.
    """
    baseline_year = _baseline_year(connection)
    first = start_year or baseline_year or 2025
    if years < 1:
        raise ValueError(f"cannot simulate {years} years: at least one is needed")
    if baseline_year is not None and first < baseline_year:
        raise ValueError(f"cannot start in {first}: the baseline workforce is that of {baseline_year}")

    connection.execute("begin transaction")
    try:
        connection.execute(_DRAW.format(seed=int(seed)))
        connection.execute(_EVENTS_TABLE)
        connection.execute(
            "delete from fct_yearly_events where simulation_year between ? and ?", [first, first + years - 1]
        )
        connection.execute(_OPENING_WORKFORCE.format(first=first))
        figures = [_simulate_year(connection, year, baseline_year or first) for year in range(first, first + years)]
        connection.execute("commit")
    except BaseException:
        connection.execute("rollback")
        raise
    return figures


def _simulate_year(connection: duckdb.DuckDBPyConnection, year: int, baseline_year: int) -> YearFigures:
    # The pay of the baseline holds the raises of its own year already.
    raises = 1 if year > baseline_year else 0
    connection.execute(_LEVELS.format(year=year))
    connection.execute(_PLAN.format(year=year, raises=raises))
    opening, joining, leaving = _row(connection, _MOVEMENTS.format(year=year))
    wanted = round(opening * (1 + GROWTH))
    connection.execute(_HIRES.format(year=year, number=max(0, wanted - (opening + joining - leaving))))
    connection.execute(_EVENTS.format(year=year))
    connection.execute(_CLOSING_WORKFORCE)
    return YearFigures(year, *_row(connection, _FIGURES.format(year=year)))


def _baseline_year(connection: duckdb.DuckDBPyConnection) -> int | None:
    (year,) = _row(connection, "select max(simulation_year) from int_baseline_workforce")
    return None if year is None else int(year)


def _row(connection: duckdb.DuckDBPyConnection, query: str) -> tuple[Any, ...]:
    row: tuple[Any, ...] | None = connection.execute(query).fetchone()
    assert row is not None  # an aggregate always has a row
    return row


# A number in [0, 1) for a purpose, a year and a person. From a digest, since `random()` and `hash()` differ
# between DuckDB's versions and threads; 13 hexadecimal digits are what a DOUBLE holds exactly.
_DRAW = """
create or replace temp macro draw(what, yr, person) as (
    ('0x' || substr(md5('{seed}:' || what || ':' || yr || ':' || person), 1, 13))::bigint
    / 4503599627370496.0::double
)
"""

_EVENTS_TABLE = """
create table if not exists fct_yearly_events (
    simulation_year integer not null,
    employee_id varchar not null,
    event_type varchar not null,
    event_date date not null,
    level_id integer not null,
    from_compensation decimal(18, 2),
    to_compensation decimal(18, 2)
)
"""

_OPENING_WORKFORCE = """
create or replace temp table simulated_workforce as
select
    baseline.employee_id,
    baseline.employee_birth_date as birth_date,
    baseline.employee_hire_date as hire_date,
    baseline.employee_termination_date as termination_date,
    baseline.level_id,
    pay.annual_compensation as compensation,
    baseline.employee_deferral_rate as deferral_rate
from int_baseline_workforce as baseline
inner join int_employee_compensation_by_year as pay
    on baseline.employee_id = pay.employee_id and baseline.simulation_year = pay.simulation_year
where baseline.is_active
    and coalesce(baseline.employee_termination_date >= make_date({first}, 1, 1), true)
"""

# Each level with its pay, the level above it, and the levers of the latest known year up to this one, or else
# of the earliest.
_LEVELS = """
create or replace temp table simulated_levels as
with levers as (
    select *
    from comp_levers
    qualify row_number() over (
        partition by level_id order by lever_year <= {year} desc, abs({year} - lever_year)
    ) = 1
)

select
    levels.*,
    lead(levels.level_id) over rungs as next_level,
    lead(levels.min_compensation) over rungs as next_minimum,
    levers.cola_rate + levers.merit_rate as raise_rate,
    levers.promotion_rate,
    levers.promotion_raise,
    levers.new_hire_position
from config_job_levels as levels
left join levers on levels.level_id = levers.level_id
window rungs as (order by levels.level_id)
"""

# What the year holds for everybody: the pay after January's raise, a promotion, a last day.
_PLAN = """
create or replace temp table simulated_plan as
with drawn as (
    select
        workforce.*,
        levels.next_level,
        levels.next_minimum,
        levels.promotion_rate,
        levels.promotion_raise,
        workforce.hire_date >= make_date({year}, 1, 1) as is_joining,
        case
            when workforce.hire_date >= make_date({year}, 1, 1) then workforce.compensation
            else round(workforce.compensation * (1 + {raises} * coalesce(levels.raise_rate, 0)), 2)
        end::decimal(18, 2) as raised,
        -- The risk of leaving falls with service and rises at retirement. Assumptions.
        case
            when {year} - year(workforce.birth_date) >= 65 then 0.30
            when {year} - year(workforce.hire_date) <= 1 then 0.18
            when {year} - year(workforce.hire_date) <= 3 then 0.12
            when {year} - year(workforce.hire_date) <= 9 then 0.08
            else 0.05
        end as risk,
        draw('leaves', {year}, workforce.employee_id) as leaving_draw,
        draw('last day', {year}, workforce.employee_id) as last_day_draw,
        draw('promotion', {year}, workforce.employee_id) as promotion_draw
    from simulated_workforce as workforce
    left join simulated_levels as levels on workforce.level_id = levels.level_id
),

leaving as (
    select
        *,
        case
            when year(termination_date) = {year} then termination_date
            when not is_joining and leaving_draw < risk
                then make_date({year}, 1, 1) + floor(last_day_draw * 365)::integer
        end as last_day
    from drawn
)

select
    *,
    coalesce(
        last_day is null and not is_joining and next_level is not null and promotion_draw < promotion_rate,
        false
    ) as is_promoted,
    case
        when round(raised * (1 + promotion_raise), 2) < next_minimum then next_minimum
        else round(raised * (1 + promotion_raise), 2)
    end::decimal(18, 2) as promoted
from leaving
"""

_MOVEMENTS = """
select
    count(*) filter (not is_joining),
    count(*) filter (is_joining and year(hire_date) = {year}),
    count(last_day)
from simulated_plan
"""

# New people in the proportions of the levels that are there.
_HIRES = """
create or replace temp table simulated_hires as
with shares as (
    select
        level_id,
        (sum(count(*)) over (order by level_id) - count(*)) / sum(count(*)) over ()::double as share_from,
        sum(count(*)) over (order by level_id) / sum(count(*)) over ()::double as share_to
    from simulated_plan
    group by level_id
),

people as (
    select
        range as number,
        draw('level', {year}, range) as level_draw,
        draw('age', {year}, range) as age_draw,
        draw('first day', {year}, range) as first_day_draw,
        draw('pay', {year}, range) as pay_draw,
        draw('saver', {year}, range) as saver_draw
    from range(1, {number} + 1)
)

select
    'H{year}-' || lpad(people.number::varchar, 6, '0') as employee_id,
    make_date({year}, 1, 1) - (7670 + floor(people.age_draw * 11000))::integer as birth_date,
    make_date({year}, 1, 1) + floor(people.first_day_draw * 365)::integer as hire_date,
    null::date as termination_date,
    levels.level_id,
    -- From where the levers let a new hire start, up to a fifth of the level's range above it.
    floor(
        levels.min_compensation
        + (levels.max_compensation - levels.min_compensation)
        * (coalesce(levels.new_hire_position, 0) + people.pay_draw / 5)
    )::decimal(18, 2) as compensation,
    case when people.saver_draw < 0.80 then 0.06 else 0 end::decimal(6, 4) as deferral_rate
from people
inner join shares on people.level_draw >= shares.share_from and people.level_draw < shares.share_to
inner join simulated_levels as levels on shares.level_id = levels.level_id
"""

_EVENTS = """
insert into fct_yearly_events
select {year}, events.*
from (
    select employee_id, 'raise', make_date({year}, 1, 1) as event_date, level_id, compensation, raised
    from simulated_plan
    where raised != compensation
    union all
    select employee_id, 'promotion', make_date({year}, 7, 1), next_level, raised, promoted
    from simulated_plan
    where is_promoted
    union all
    select employee_id, 'termination', last_day, level_id, raised, null
    from simulated_plan
    where last_day is not null
    union all
    select employee_id, 'hire', hire_date, level_id, null, compensation
    from simulated_plan
    where year(hire_date) = {year}
    union all
    select employee_id, 'hire', hire_date, level_id, null, compensation
    from simulated_hires
) as events
order by event_date, employee_id
"""

_CLOSING_WORKFORCE = """
create or replace temp table simulated_workforce as
select
    employee_id,
    birth_date,
    hire_date,
    termination_date,
    case when is_promoted then next_level else level_id end as level_id,
    case when is_promoted then promoted else raised end as compensation,
    deferral_rate
from simulated_plan
where last_day is null
union all
select employee_id, birth_date, hire_date, termination_date, level_id, compensation, deferral_rate
from simulated_hires
"""

_FIGURES = """
select people.*, events.*, pay.*
from (select count(*) from simulated_workforce) as people,
    (
        select
            count(*) filter (event_type = 'hire'),
            count(*) filter (event_type = 'termination'),
            count(*) filter (event_type = 'promotion')
        from fct_yearly_events
        where simulation_year = {year}
    ) as events,
    (
        select
            coalesce(sum(compensation), 0)::decimal(18, 2),
            coalesce(sum(deferral_rate) / count(*), 0)::double
        from simulated_workforce
    ) as pay
"""


def _print_figures(figures: list[YearFigures]) -> None:
    print("year  headcount    hires  terminations  promotions        total pay, $  average deferral")
    for year in figures:
        print(
            f"{year.year:>4} {year.headcount:>10,} {year.hires:>8,} {year.terminations:>13,}"
            f" {year.promotions:>11,} {year.total_compensation:>18,.2f} {year.average_deferral_rate:>17.2%}"
        )


class _Progress:
    """Prints what is waited for, each time that it is something else."""

    def __init__(self) -> None:
        self._shown = ""

    def __call__(self, status: Mapping[str, Any]) -> None:
        running = [step["display_name"] for step in status.get("steps") or () if step["status"] == "running"]
        text = running[0] if running else str(status.get("reason") or status.get("state")).replace("_", " ")
        if text != self._shown:
            self._shown = text
            print(f"the simulator waits: {text}…", file=sys.stderr, flush=True)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _fail(what: str, next_step: str) -> int:
    print(what, next_step, sep="\n", file=sys.stderr)
    return 1


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Simulate a workforce once its tables are ready.")
    default = os.environ.get("DATABASE_PATH") or "dbt/simulation.duckdb"
    parser.add_argument("database", type=Path, nargs="?", default=Path(default), help="(%(default)s)")
    parser.add_argument("--start-year", type=int, help="the first year (the baseline's own)")
    parser.add_argument("--years", type=int, default=5, help="how many (%(default)s)")
    parser.add_argument("--seed", type=int, default=42, help="another seed, another future (%(default)s)")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds to wait at most (%(default)s)")
    options = parser.parse_args(arguments)

    from selfheald.client import wait_until_ready
    from selfheald.errors import InitializationError

    try:
        wait_until_ready(options.database, timeout=options.timeout, on_progress=_Progress())
    except InitializationError as error:
        return _fail(f"{options.database}: {error}", error.hint)
    try:
        connection = duckdb.connect(str(options.database))
    except duckdb.Error as error:
        return _fail(
            f"{options.database}: it cannot be opened: {_first_line(error)}",
            "Close other programs that have it open, then start the simulation again.",
        )
    try:
        figures = simulate(connection, options.start_year, options.years, options.seed)
    except ValueError as error:
        return _fail(f"{options.database}: {error}", "Give other values for --start-year and --years.")
    except duckdb.Error as error:
        return _fail(
            f"{options.database}: nothing was simulated: {_first_line(error)}",
            "Mend or drop the table that is named, then start the simulation again.",
        )
    finally:
        connection.close()
    if figures[0].headcount == 0 and figures[0].terminations == 0:
        print(
            "The baseline workforce is empty, so no events were written. "
            "Set the dbt variable census_parquet_path to a census to simulate people."
        )
    _print_figures(figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
