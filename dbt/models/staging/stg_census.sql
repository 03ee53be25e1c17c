with census as (

    select
        nullif(trim(employee_id::varchar), '') as employee_id,
        employee_birth_date::date as employee_birth_date,
        employee_hire_date::date as employee_hire_date,
        employee_termination_date::date as employee_termination_date,
        coalesce(active::boolean, employee_termination_date is null) as is_active_in_census,
        employee_gross_compensation::decimal(18, 2) as employee_gross_compensation,
        coalesce(employee_deferral_rate::decimal(6, 4), 0)::decimal(6, 4) as employee_deferral_rate,
        level_id::integer as level_id
    from ({{ census_rows() }}) as census_file

)

-- Somebody hired again is in the file twice: the latest employment counts. The order goes on over every
-- column, so that which row is kept never depends on the order of the file.
select *
from census
qualify row_number() over (
    partition by employee_id
    order by
        employee_hire_date desc nulls last,
        is_active_in_census desc,
        employee_termination_date desc nulls first,
        employee_gross_compensation desc nulls last,
        employee_deferral_rate desc,
        level_id desc nulls last,
        employee_birth_date desc nulls last
) = 1
