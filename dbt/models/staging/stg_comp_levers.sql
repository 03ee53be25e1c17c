-- Each row holds from its year until the next one known; the earliest also for the years before it.
select
    *,
    case when row_number() over levels = 1 then 0 else lever_year end as effective_from,
    coalesce(lead(lever_year) over levels, 9999) as effective_to
from {{ ref('comp_levers') }}
window levels as (partition by level_id order by lever_year)
