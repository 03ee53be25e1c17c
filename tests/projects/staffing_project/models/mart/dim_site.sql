{{ config(alias='Site Overview') }}
select
    s.site_code,
    s.site_name,
    s.seats,
    cast(count(distinct f.person_id) as integer) as people
from {{ ref('stg_sites') }} as s
left join {{ ref('fct_staffing') }} as f on f.site_code = s.site_code
group by all
