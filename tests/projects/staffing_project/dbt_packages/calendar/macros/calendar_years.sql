{% macro years_from(first, count) -%}
    select cast({{ first }} as integer) + cast(step as integer) as plan_year from range({{ count }}) as steps (step)
{%- endmacro %}

{% macro first_day_of_week() -%}
    {{ return(var('first_day_of_week')) }}
{%- endmacro %}
