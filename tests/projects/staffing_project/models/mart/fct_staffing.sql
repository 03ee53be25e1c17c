{{
    config(
        pre_hook="create or replace table {{ target.schema }}_work as select count(*) as people from {{ ref('people') }}",
        post_hook=[
            "create schema if not exists audit",
            "create or replace table audit.fct_staffing_rows as select count(*) as made from {{ this }}",
        ],
    )
}}
select
    y.person_id,
    y.site_code,
    cast(y.plan_year as integer) as plan_year,
    cast(y.pay * w.factor as decimal(12, 2)) as planned_pay,
    {{ in_thousands('y.pay * w.factor') }} as planned_thousands
from {{ ref('int_person_years') }} as y
join {{ source('outside', 'wage_index') }} as w on w.grade = y.grade
