select
    cast(step + 1 as integer) as month_number,
    cast({{ calendar.first_day_of_week() }} as integer) as first_day_of_week
from range(12) as steps (step)
