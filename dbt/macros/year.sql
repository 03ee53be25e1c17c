{#- A year from the variable `name`, as an integer; whatever is no calendar year stops the run with the cure. -#}
{% macro year(name) %}
    {%- set value = var(name) | int -%}
    {%- if execute and not 1900 <= value <= 2999 -%}
        {{ exceptions.raise_compiler_error(
            "variable '" ~ name ~ "' is '" ~ var(name) ~ "', not a year: set it to one, such as 2025") }}
    {%- endif -%}
    {{- return(value) -}}
{% endmacro %}
