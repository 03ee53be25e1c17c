-- Every age and tenure from 0 on is in exactly one band: each begins where the one before it ends.
with bands as (
    select 'age' as kind, band_id, min_age as band_from, max_age as band_to from {{ ref('config_age_bands') }}
    union all
    select 'tenure', band_id, min_tenure, max_tenure from {{ ref('config_tenure_bands') }}
),

ordered as (
    select *, lag(band_to, 1, 0) over (partition by kind order by band_id) as expected_from
    from bands
)

select * from ordered where band_from != expected_from or band_to <= band_from
