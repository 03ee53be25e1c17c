"""Which variables a parse cannot depend on: what only shows in the SQL, and nothing that is in doubt."""

from __future__ import annotations

import pytest
from fixtures.databases import PROJECT

from selfheald.inert_variables import inert_variables


def is_inert(**files: str) -> bool:
    """Whether ``v`` is inert in a project of these files, whose names end in ``_sql`` or ``_yml``."""
    named = {name.replace("_sql", ".sql").replace("_yml", ".yml"): text for name, text in files.items()}
    return "v" in inert_variables(named, {"v": "/a/b.parquet", "w": 1})


INERT = {
    "nowhere": {"m_sql": "select 1"},
    "a text": {"m_sql": "select * from '{{ var('v') }}' join {{ ref('a') }}"},
    "its default in the project": {"dbt_project_yml": "vars:\n  v: 1\nmodels:\n  +tags: \"{{ var('w') }}\"\n"},
    "with a default": {"m_sql": "{{ config(tags=['a']) }} select {{ var(\"v\", 'none') | int }} as v"},
    "a local name": {"m_sql": "{% set x = var('v') %}{{ config(alias='y') }} select {{ x }} from {{ ref('a') }}"},
    "a condition": {
        "m_sql": "select 1 from {{ ref('a') }} {% if var('v') %} where {{ var('w') }} {% else %} x {% endif %}"
    },
    "a macro": {"a_sql": "{% macro rows() %}'{{ var('v') }}'{% endmacro %}", "m_sql": "select {{ rows() }}"},
    "a macro that asks for what it is given": {
        "a_sql": "{% macro year(name) %}{{ return(var(name) | int) }}{% endmacro %}",
        "m_sql": "{% set y = year('v') %} select {{ y }} from {{ ref('a') }}",
    },
    "an argument": {"a_sql": "{% macro q(x) %}'{{ x }}'{% endmacro %}", "m_sql": "select {{ q(var('v')) }}"},
    "a message": {"m_sql": "{% if not var('v') %}{{ exceptions.warn('no source, no ref(1)') }}{% endif %} select 1"},
    "a comment": {"m_sql": "{# {{ config(alias=var('v')) }} #} select 1"},
    "a name in the SQL": {"m_sql": "{{ config(alias='a') }} select v, v + 1 as w"},
}
COUNTS = {
    "an alias": {"m_sql": "{{ config(alias=var('v')) }} select 1"},
    "an alias by a local name": {"m_sql": "{% set x = var('v') %}{% set y = x ~ 1 %}{{ config(alias=y) }} select 1"},
    "an alias by a list": {"m_sql": "{% set x = [] %}{% do x.append(var('v')) %}{{ config(alias=x[0]) }} select 1"},
    "an alias by a loop": {"m_sql": "{% for x in var('v') %}{{ config(alias=x) }}{% endfor %} select 1"},
    "an alias by a block": {"m_sql": "{% set x %}a_{{ var('v') }}{% endset %}{{ config(alias=x) }} select 1"},
    "a name that was set in a condition": {
        "m_sql": "{% set x = 1 %}{% if var('v') %}{% set x = 2 %}{% endif %}{{ config(alias=x) }} select 1"
    },
    "a configuration under a condition": {
        "m_sql": "{% if var('v') == 'a' %}{{ config(enabled=false) }}{% endif %} select 1"
    },
    "a parent under a condition": {
        "m_sql": "{% if var('w') %}{% elif var('v') %}select * from {{ ref('a') }}{% endif %}"
    },
    "a parent's name": {"m_sql": "select * from {{ ref(var('v')) }}"},
    "the project's own file": {"dbt_project_yml": "models:\n  +enabled: \"{{ var('v') }}\""},
    "properties": {"p_yml": "models: [{name: m, config: {materialized: \"{{ var('v') }}\"}}]"},
    "a hook": {"m_sql": "{{ config(post_hook=\"insert into t select '{{ var('v') }}'\") }} select 1"},
    "a macro in a configuration": {
        "a_sql": "{% macro name() %}a_{{ var('v') }}{% endmacro %}",
        "m_sql": "{{ config(alias=name()) }} select 1",
    },
    "a macro of a macro in properties": {
        "a_sql": "{% macro one() %}{{ var('v') }}{% endmacro %}{% macro two() %}{{ one() }}{% endmacro %}",
        "p_yml": 'models: [{name: m, config: {alias: "{{ two() }}"}}]',
    },
    "a macro that calls ref": {
        "a_sql": "{% macro pick(x) %}{% if x %}{{ ref('a') }}{% endif %}{% endmacro %}",
        "m_sql": "select * from {{ pick(var('v')) }}",
    },
    "a macro that dbt dispatches": {
        "a_sql": "{% macro default__pick(x) %}{% if x %}{{ ref('a') }}{% endif %}{% endmacro %}"
        "{% macro pick(x) %}{{ adapter.dispatch('pick')(x) }}{% endmacro %}",
        "m_sql": "select * from {{ pick(var('v')) }}",
    },
    "dbt's own names": {
        "a_sql": "{% macro generate_schema_name(name, node) %}{{ var('v') }}{% endmacro %}",
        "m_sql": "select 1",
    },
    "dbt's own names, for the adapter": {
        "a_sql": "{% macro duckdb__generate_alias_name(name, node) %}{{ var('v') }}{% endmacro %}",
    },
    "a name that is made up": {"m_sql": "select {{ var('v' ~ x) }}"},
    "a name that is known only to dbt": {"m_sql": "select {{ var(model.name) }}"},
    "a macro that is given such a name": {
        "a_sql": "{% macro year(name) %}{{ var(name) }}{% endmacro %}",
        "m_sql": "{% set n = model.name %}{{ config(alias=year(n)) }}",
    },
    "a parameter that is set anew": {
        "a_sql": "{% macro year(name) %}{% set name = model.name %}{{ var(name) }}{% endmacro %}",
        "m_sql": "{{ config(alias=year('w')) }}",
    },
    "var by another name": {"m_sql": "{% set x = var %}{{ config(alias=x('w')) }}"},
    "all that there is": {"m_sql": "{{ config(alias=invocation_args_dict['vars']) }}"},
    "reflection": {"m_sql": "{{ context['con' ~ 'fig'](alias=var('v')) }}"},
    "a call block": {"m_sql": "{% call x() %}{{ var('v') }}{% endcall %}"},
    "an own ref": {"a_sql": "{% macro ref(x) %}{{ builtins.ref(x ~ var('v')) }}{% endmacro %}"},
    "Jinja that has no end": {"m_sql": "{{ config(alias='a' select 1"},
    "blocks that do not match": {"m_sql": "{% if var('v') %} select {% endfor %}"},
    "a tag that is not known": {"m_sql": "{% include var('v') %}"},
    "a string with a way out": {"m_sql": "{{ config(alias=var('\\x76')) }}"},
}


@pytest.mark.parametrize("files", INERT.values(), ids=INERT.keys())
def test_what_the_parse_cannot_see(files: dict[str, str]) -> None:
    assert is_inert(**files)


@pytest.mark.parametrize("files", COUNTS.values(), ids=COUNTS.keys())
def test_what_it_can_or_might(files: dict[str, str]) -> None:
    assert not is_inert(**files)


def test_tables_of_variables_count_and_so_do_names_that_are_no_words() -> None:
    assert inert_variables({"m.sql": "select 1"}, {"a": {"b": 1}, "c d": 1, "e": 1}) == {"e"}


def test_a_value_may_name_another() -> None:
    """dbt renders Jinja in the values of variables, too."""
    files = {"m.sql": "{{ config(alias=var('w')) }} select '{{ var('v') }}', '{{ var('u') }}'"}
    assert inert_variables(files, {"u": "x", "v": "y", "w": "a_{{ var('v') }}"}) == {"u"}
    assert inert_variables(files, {"u": "x", "v": "y", "w": "a_{{ '{' }}"}) == {"u", "v"}
    assert inert_variables(files, {"v": "y", "w": "{{ open"}) == set()


def test_the_bundled_project_depends_on_none() -> None:
    files = {str(path): path.read_text() for ending in ("sql", "yml") for path in PROJECT.rglob(f"*.{ending}")}
    names = dict.fromkeys(("census_parquet_path", "simulation_year", "start_year"), "x")
    assert inert_variables(files, names) == names.keys()
