-- Levels are known ones, shares of pay are shares, pay is not negative, nobody is hired before birth.
select workforce.*
from {{ ref('int_baseline_workforce') }} as workforce
left join {{ ref('config_job_levels') }} as levels on workforce.level_id = levels.level_id
where levels.level_id is null
    or workforce.employee_deferral_rate not between 0 and 1
    or workforce.employee_gross_compensation < 0
    or workforce.employee_hire_date < workforce.employee_birth_date
