-- Every job level, and no other, has exactly one row of levers for each year that has any.
with expected as (
    select levers.lever_year, levels.level_id
    from (select distinct lever_year from {{ ref('comp_levers') }}) as levers
    cross join {{ ref('config_job_levels') }} as levels
),

counted as (
    select lever_year, level_id, count(*) as number_of_rows
    from {{ ref('comp_levers') }}
    group by lever_year, level_id
)

select *
from expected
full join counted using (lever_year, level_id)
where number_of_rows is distinct from 1 or expected.level_id is null
