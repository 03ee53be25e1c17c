{{ config(materialized='ephemeral') }}
with years as ({{ calendar.years_from(var('first_year'), var('years')) }})
select p.person_id, p.site_code, p.grade, p.pay, y.plan_year
from {{ ref('stg_people') }} as p
cross join years as y
