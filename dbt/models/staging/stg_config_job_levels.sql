-- Pay ranges overlap; where a level must be told from pay alone, it is the highest whose range has begun.
select
    level_id,
    level_name,
    min_compensation,
    max_compensation,
    case when row_number() over (order by level_id) = 1 then 0 else min_compensation end as level_from,
    coalesce(lead(min_compensation) over (order by level_id), 9999999999999999) as level_to
from {{ ref('config_job_levels') }}
