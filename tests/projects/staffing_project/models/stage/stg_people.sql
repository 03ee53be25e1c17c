select person_id, site_code, grade, hired_on, coalesce(pay, 0) as pay
from {{ ref('people') }}
