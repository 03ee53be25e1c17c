{% snapshot site_history %}
{{
    config(
        target_schema='history',
        unique_key='site_code',
        strategy='timestamp',
        updated_at='changed_at',
    )
}}
select site_code, site_name, seats, changed_at from {{ ref('sites') }}
{% endsnapshot %}
