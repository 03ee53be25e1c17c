{% macro prefixed(column, prefix) -%}
    {%- if prefix -%} '{{ prefix }}' || {{ column }} {%- else -%} {{ column }} {%- endif -%}
{%- endmacro %}
