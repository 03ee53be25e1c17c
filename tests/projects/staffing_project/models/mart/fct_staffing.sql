{{
    config(
        pre_hook="create or replace table {{ target.schema }}_work as select count(*) as people from {{ ref('people') }}",
        post_hook=[
            "create schema if not exists audit",
            "create table if not exists audit.fct_staffing_rows (made bigint)",
            "insert into audit.fct_staffing_rows select count(*) from {{ this }}",
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
