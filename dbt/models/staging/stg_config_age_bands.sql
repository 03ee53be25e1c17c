select band_id, age_band, min_age, max_age from {{ ref('config_age_bands') }}
