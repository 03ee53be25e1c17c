{{ config(materialized='incremental', unique_key='person_id', incremental_strategy='delete+insert') }}
select person_id, site_code, hired_on, 'hired' as what
from {{ ref('stg_people') }}
{% if is_incremental() %}
where hired_on >= (select max(hired_on) from {{ this }})
{% endif %}
