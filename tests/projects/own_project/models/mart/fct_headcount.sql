select
    region_code,
    cast(plan_year as integer) as plan_year,
    cast(headcount as bigint) as headcount
from {{ ref('int_region_years') }}
