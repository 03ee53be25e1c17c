select distinct grade from {{ ref('stg_people') }}
