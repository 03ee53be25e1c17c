{#-
    The census as a query with every column that staging reads, typed, whether or not there is a file.

    The path is looked for when the model runs, not when the project is parsed: a parse is kept and
    reused while files come and go.
-#}
{% macro census_rows() %}
    {%- set path = (var('census_parquet_path') or '') | string -%}
    {%- set literal = "'" ~ path | replace("'", "''") ~ "'" -%}
    {%- set found = false -%}
    {%- if execute and path -%}
        {%- set found = run_query("select count(*) from glob(" ~ literal ~ ")").columns[0][0] > 0 -%}
        {%- if not found -%}
            {%- do exceptions.warn(
                "census_parquet_path: no such file: '" ~ path ~ "'. The workforce tables are built without rows; "
                ~ "put the file there or correct the variable, then rebuild them.") -%}
        {%- endif -%}
    {%- endif %}
    select
        null::varchar as employee_id,
        null::date as employee_birth_date,
        null::date as employee_hire_date,
        null::date as employee_termination_date,
        null::boolean as active,
        null::decimal(18, 2) as employee_gross_compensation,
        null::decimal(6, 4) as employee_deferral_rate,
        null::integer as level_id
    where false
    {%- if found %}
    -- By name: columns that the file lacks stay null, those it has beyond these are not read.
    union all by name
    {%- if '.csv' in path | lower %}
    -- As text: guessed types would cost ids their leading zeros, and differ between versions.
    select * from read_csv({{ literal }}, header = true, all_varchar = true)
    {%- else %}
    select * from read_parquet({{ literal }})
    {%- endif %}
    {%- endif %}
{% endmacro %}
