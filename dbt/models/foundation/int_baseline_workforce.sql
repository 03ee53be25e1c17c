{%- set simulation_year = year('simulation_year') -%}

with employees as (

    select
        census.*,
        date_sub('year', census.employee_birth_date, make_date({{ simulation_year }}, 1, 1)) as current_age,
        -- Hired later in the year: no tenure yet, rather than a negative one.
        greatest(
            date_sub('year', census.employee_hire_date, make_date({{ simulation_year }}, 1, 1)), 0
        ) as current_tenure
    from {{ ref('stg_census') }} as census

)

select
    employees.employee_id,
    employees.employee_birth_date,
    employees.employee_hire_date,
    employees.employee_termination_date,
    employees.employee_gross_compensation,
    employees.employee_deferral_rate,
    coalesce(employees.level_id, levels.level_id)::integer as level_id,
    employees.current_age::integer as current_age,
    employees.current_tenure::integer as current_tenure,
    age_bands.age_band,
    tenure_bands.tenure_band,
    -- A known last day decides; without one, the census's word.
    coalesce(
        employees.employee_termination_date >= make_date({{ simulation_year }}, 1, 1),
        employees.is_active_in_census
    ) and employees.employee_hire_date <= make_date({{ simulation_year }}, 12, 31) as is_active,
    {{ simulation_year }}::integer as simulation_year
from employees
left join {{ ref('stg_config_job_levels') }} as levels
    on employees.employee_gross_compensation >= levels.level_from
    and employees.employee_gross_compensation < levels.level_to
left join {{ ref('stg_config_age_bands') }} as age_bands
    on employees.current_age >= age_bands.min_age
    and employees.current_age < age_bands.max_age
left join {{ ref('stg_config_tenure_bands') }} as tenure_bands
    on employees.current_tenure >= tenure_bands.min_tenure
    and employees.current_tenure < tenure_bands.max_tenure
order by employees.employee_id
