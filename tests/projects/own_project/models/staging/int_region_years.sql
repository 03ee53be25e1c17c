{{ config(materialized='ephemeral') }}
select
    region_code,
    region_name,
    headcount,
    cast({{ var('first_year') }} as integer) + step as plan_year
from {{ ref('stg_regions') }}
cross join range(3) as years (step)
