-- In the last year of the history, exactly those have pay who are active in it, each once.
with active as (
    select employee_id, simulation_year, count(*) as people
    from {{ ref('int_baseline_workforce') }}
    where is_active and coalesce(employee_termination_date >= employee_hire_date, true)
    group by employee_id, simulation_year
),

paid as (
    select employee_id, simulation_year, count(*) as pays
    from {{ ref('int_employee_compensation_by_year') }}
    where simulation_year = {{ year('simulation_year') }}
    group by employee_id, simulation_year
)

select * from active full join paid using (employee_id, simulation_year)
where people is distinct from pays
