{{
    config(
        materialized='table',
        schema='desk',
        tags=['INDEXED'],
        indexes=[{'columns': ['person_id'], 'unique': true}, {'columns': ['site_code', 'grade']}],
    )
}}
select person_id, site_code, grade from {{ ref('stg_people') }}
