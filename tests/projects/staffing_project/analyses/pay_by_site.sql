select site_code, sum(planned_pay) from {{ ref('fct_staffing') }} group by 1
