{{
    config(
        materialized='table',
        schema='desk',
        tags=['INDEXED'],
        indexes=[{'columns': ['person_id'], 'unique': true}, {'columns': ['site_code', 'grade']}],
        post_hook="create index person_lookup_by_grade on {{ this }} (grade)",
    )
}}
select person_id, site_code, grade from {{ ref('stg_people') }}
