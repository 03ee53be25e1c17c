-- One row for each employee and year, both of pay and of benefits, and no year between is left out of either.
select employee_id, simulation_year, count(*) as number_of_rows
from (
    select employee_id, simulation_year from {{ ref('int_employee_compensation_by_year') }}
    union all
    select employee_id, simulation_year from {{ ref('int_employee_benefits') }}
) as both_tables
group by employee_id, simulation_year
having count(*) != 2
