{{ config(materialized='table', enabled=var('with_switched_off', false), tags=['FOUNDATION']) }}
select 1 as one
