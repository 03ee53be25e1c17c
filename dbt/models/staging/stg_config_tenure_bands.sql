select band_id, tenure_band, min_tenure, max_tenure from {{ ref('config_tenure_bands') }}
