select site_code, upper(site_name) as site_name, opened_on, seats
from {{ ref('sites') }}
