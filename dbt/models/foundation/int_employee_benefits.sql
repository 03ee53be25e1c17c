-- Amounts are decimals, rounded half up to the cent. DuckDB 1.0 gives back a DOUBLE from least() and greatest()
-- of decimals, so each of them is cast at once: half a cent is then rounded the same way by every version.
with pay as (

    select
        compensation.employee_id,
        compensation.simulation_year,
        -- Catch-up contributions go by the age reached within the calendar year: IRC 414(v)(2)(E), (v)(5).
        compensation.simulation_year - year(workforce.employee_birth_date) as age_at_year_end,
        workforce.employee_deferral_rate,
        limits.limit_year,
        limits.elective_deferral_limit,
        limits.catch_up_limit,
        limits.super_catch_up_limit,
        least(compensation.prorated_compensation, limits.compensation_limit)::decimal(18, 2)
            as eligible_compensation,
        -- IRC 415(c)(1): the dollar limit or the whole of the pay, whichever is less.
        least(compensation.prorated_compensation, limits.annual_additions_limit)::decimal(18, 2)
            as annual_additions_limit
    from {{ ref('int_employee_compensation_by_year') }} as compensation
    inner join {{ ref('int_baseline_workforce') }} as workforce
        on compensation.employee_id = workforce.employee_id
    inner join {{ ref('stg_config_irs_limits') }} as limits
        on compensation.simulation_year >= limits.effective_from
        and compensation.simulation_year < limits.effective_to

),

wanted as (

    select
        *,
        round(eligible_compensation * employee_deferral_rate, 2)::decimal(18, 2) as wanted_deferral,
        case
            when age_at_year_end between 60 and 63 then coalesce(super_catch_up_limit, catch_up_limit)
            when age_at_year_end >= 50 then catch_up_limit
            else 0
        end::decimal(18, 2) as allowed_catch_up
    from pay

),

regular as (

    select
        *,
        least(wanted_deferral, elective_deferral_limit, annual_additions_limit)::decimal(18, 2)
            as regular_deferral
    from wanted

),

deferred as (

    select
        *,
        -- What goes beyond a limit is a catch-up contribution, as far as the age allows one.
        least(wanted_deferral - regular_deferral, allowed_catch_up)::decimal(18, 2) as catch_up_deferral
    from regular

),

matched as (

    select
        *,
        (regular_deferral + catch_up_deferral)::decimal(18, 2) as employee_deferral,
        (eligible_compensation * 0.03)::decimal(18, 4) as matched_in_full,
        (eligible_compensation * 0.05)::decimal(18, 4) as matched_at_all
    from deferred

),

capped as (

    select
        *,
        -- The basic safe-harbor match, IRC 401(k)(12)(B): all of the first 3 % of pay, half of the next 2 %.
        -- Catch-up contributions are no annual additions, IRC 414(v)(3)(A); the match gives way to the limit.
        least(
            round(
                case
                    when employee_deferral <= matched_in_full then employee_deferral
                    when employee_deferral <= matched_at_all
                        then matched_in_full + (employee_deferral - matched_in_full) * 0.5
                    else matched_in_full + (matched_at_all - matched_in_full) * 0.5
                end,
                2
            ),
            annual_additions_limit - regular_deferral
        )::decimal(18, 2) as employer_match
    from matched

)

select
    employee_id,
    simulation_year,
    age_at_year_end::integer as age_at_year_end,
    limit_year,
    eligible_compensation,
    employee_deferral_rate,
    (elective_deferral_limit + allowed_catch_up)::decimal(18, 2) as deferral_limit,
    employee_deferral,
    catch_up_deferral,
    employer_match,
    annual_additions_limit,
    (regular_deferral + employer_match)::decimal(18, 2) as annual_additions
from capped
order by employee_id, simulation_year
