{% macro fill_wage_index() -%}
    insert into outside.wage_index
    select grade, factor
    from (values ('A', 1.000), ('B', 1.125), ('C', 1.500)) as given (grade, factor)
    where not exists (select 1 from outside.wage_index)
{%- endmacro %}

{% macro in_thousands(column) -%}
    cast({{ column }} / 1000 as decimal(12, 3))
{%- endmacro %}
