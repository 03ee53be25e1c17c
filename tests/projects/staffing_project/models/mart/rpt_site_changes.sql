{{ config(materialized='table', schema='reports', alias='site_changes') }}
select site_code, seats, cast(dbt_valid_from as date) as since, dbt_valid_to is null as is_current
from {{ ref('site_history') }}
