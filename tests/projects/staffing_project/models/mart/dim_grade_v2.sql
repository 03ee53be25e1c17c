select grade, cast(count(*) as integer) as people from {{ ref('stg_people') }} group by grade
