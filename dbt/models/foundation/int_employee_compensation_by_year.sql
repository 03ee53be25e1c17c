{%- set start_year = year('start_year') -%}
{%- set simulation_year = year('simulation_year') -%}
{%- if execute and start_year > simulation_year -%}
    {{ exceptions.raise_compiler_error(
        "variable 'start_year' (" ~ start_year ~ ") is after 'simulation_year' (" ~ simulation_year
        ~ "): set it to that year or an earlier one") }}
{%- endif -%}

with years as (

    select
        generate_series::integer as simulation_year,
        make_date(generate_series::integer, 1, 1) as first_day,
        make_date(generate_series::integer, 12, 31) as last_day
    from generate_series({{ start_year }}, {{ simulation_year }})

),

-- How pay has grown from one year to a later one: every January from the second year on, by that year's
-- cost-of-living and merit rates, compounded. In the order of the years, so that it never varies.
growth as (

    select
        levers.level_id,
        base.simulation_year as base_year,
        years.simulation_year,
        product(1 + levers.cola_rate + levers.merit_rate order by raises.simulation_year)::decimal(12, 8)
            as compensation_growth
    from years as base
    inner join years on years.simulation_year > base.simulation_year
    inner join years as raises
        on raises.simulation_year > base.simulation_year
        and raises.simulation_year <= years.simulation_year
    inner join {{ ref('stg_comp_levers') }} as levers
        on raises.simulation_year >= levers.effective_from
        and raises.simulation_year < levers.effective_to
    group by levers.level_id, base.simulation_year, years.simulation_year

),

-- Everybody once for each year in which they were employed for a day or more.
employed as (

    select
        workforce.employee_id,
        workforce.level_id,
        workforce.employee_gross_compensation,
        greatest({{ start_year }}, year(workforce.employee_hire_date))::integer as base_year,
        years.simulation_year,
        (date_diff(
            'day',
            greatest(workforce.employee_hire_date, years.first_day),
            least(coalesce(workforce.employee_termination_date, years.last_day), years.last_day)
        ) + 1)::integer as days_employed,
        (date_diff('day', years.first_day, years.last_day) + 1)::integer as days_in_year
    from {{ ref('int_baseline_workforce') }} as workforce
    inner join years
        on workforce.employee_hire_date <= years.last_day
        and (workforce.employee_termination_date >= years.first_day
            or (workforce.employee_termination_date is null and workforce.is_active))

),

paid as (

    select
        employed.*,
        coalesce(growth.compensation_growth, 1)::decimal(12, 8) as compensation_growth,
        round(employed.employee_gross_compensation * coalesce(growth.compensation_growth, 1), 2)::decimal(18, 2)
            as annual_compensation
    from employed
    left join growth
        on employed.level_id = growth.level_id
        and employed.base_year = growth.base_year
        and employed.simulation_year = growth.simulation_year
    where employed.days_employed > 0

)

select
    employee_id,
    simulation_year,
    level_id,
    compensation_growth,
    annual_compensation,
    days_employed,
    days_in_year,
    -- In whole cents, half up: exact where floating point would not be.
    (
        (2 * (annual_compensation * 100)::bigint * days_employed + days_in_year) // (2 * days_in_year)
        * 0.01::decimal(3, 2)
    )::decimal(18, 2) as prorated_compensation
from paid
order by employee_id, simulation_year
