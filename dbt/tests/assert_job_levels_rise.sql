-- A level's range of pay is not empty, and begins above that of the level below it.
with levels as (
    select *, lag(min_compensation, 1, 0) over (order by level_id) as pay_below
    from {{ ref('config_job_levels') }}
)

select * from levels where max_compensation <= min_compensation or min_compensation <= pay_below
