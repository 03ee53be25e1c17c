-- Each row holds from its year until the next one known; the earliest also for the years before it.
select
    *,
    case when row_number() over years = 1 then 0 else limit_year end as effective_from,
    coalesce(lead(limit_year) over years, 9999) as effective_to
from {{ ref('config_irs_limits') }}
window years as (order by limit_year)
