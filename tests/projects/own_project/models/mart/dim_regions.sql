select
    r.region_code,
    r.region_name,
    cast(sum(f.headcount) as bigint) as headcount_of_all_years
from {{ ref('stg_regions') }} as r
join {{ ref('fct_headcount') }} as f on f.region_code = r.region_code
group by 1, 2
