select p.person_id
from {{ ref('people') }} as p
left join {{ ref('fct_staffing') }} as f on f.person_id = p.person_id
where f.person_id is null
