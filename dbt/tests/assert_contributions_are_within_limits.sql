-- The law's limits hold for everybody, looked up here in another way than the model does it.
select benefits.*
from {{ ref('int_employee_benefits') }} as benefits
inner join {{ ref('config_irs_limits') }} as limits on benefits.limit_year = limits.limit_year
where benefits.eligible_compensation > limits.compensation_limit
    or benefits.employee_deferral - benefits.catch_up_deferral > limits.elective_deferral_limit
    or benefits.employee_deferral > benefits.deferral_limit
    or (benefits.age_at_year_end < 50 and benefits.catch_up_deferral > 0)
    or benefits.catch_up_deferral > greatest(limits.catch_up_limit, coalesce(limits.super_catch_up_limit, 0))
    or benefits.annual_additions > limits.annual_additions_limit
    or least(benefits.employee_deferral, benefits.catch_up_deferral, benefits.employer_match) < 0
