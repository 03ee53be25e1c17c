select
    region_code,
    {{ prefixed('region_name', var('region_prefix')) }} as region_name,
    cast(headcount as integer) as headcount
from {{ ref('regions') }}
