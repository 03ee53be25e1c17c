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
    "raw text": {"m_sql": "{% raw %}{{ x {% endraw %} select {{ var('v') }} from {{ ref('a') }}"},
    "a comparison": {"m_sql": "{% set x = 'a' %}{% if x == var('v') %}y{% endif %}{{ config(alias=x) }}"},
    "braces in the SQL": {"m_sql": "select {'a': {'b': 1}} as c, {{ var('v') }} as d from {{ ref('a') }}"},
    "what a model is": {
        "m_sql": "{% if model.config.materialized == var('v') %}a{% endif %} select 1 from {{ ref('a') }}"
    },
    "a module's function": {
        "m_sql": "{{ config(alias='x') }}{% set d = modules.datetime.date(var('v'), 1, 1) %} select {{ d }}"
    },
    "a further parameter": {
        "a_sql": "{% macro year(name, other=0) %}{{ return(var(name, other)) }}{% endmacro %}",
        "m_sql": "select {{ year('v') }} from {{ ref('a') }}",
    },
    "only later rows": {
        "m_sql": "{{ config(materialized='incremental') }} select 1 "
        "{% if is_incremental() %}where x > {{ var('v') }}{% endif %}"
    },
    "a description that names a model": {
        "p_yml": "models: [{name: m, description: \"by ref('x') of v, it says\", columns: [{name: v}]}]",
        "m_sql": "select {{ var('v') }} as v",
    },
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
    "a configuration with braces in braces": {
        "m_sql": "{{ config(meta={'a': {'b': 1}}, alias='t_' ~ var('v')) }} select 1"
    },
    "a list that is changed on the way": {
        "m_sql": "{% set p = ['t'] %}{% set _ = p.append(var('v')) %}{{ config(alias=p|join('-')) }}"
    },
    "a list that is changed in passing": {
        "m_sql": "{% set p = ['t'] %}{{ p.append(var('v')) or '' }}{{ config(alias=p[1]) }}"
    },
    "a list that is changed by a condition": {
        "m_sql": "{% set p = ['t'] %}{% if p.append(var('v')) %}{% endif %}{{ config(alias=p[1]) }}"
    },
    "a list that is changed under a condition": {
        "m_sql": "{% set p = ['t'] %}{% if var('v') %}{% set _ = p.append(1) %}{% endif %}{{ config(alias=p[1]) }}"
    },
    "a list that a macro changes": {
        "m_sql": "{% set p = ['t'] %}{{ fill(p) }}{{ config(alias=p[1]) }}",
        "a_sql": "{% macro fill(p) %}{% do p.append(var('v')) %}{% endmacro %}",
    },
    "a list that a macro of the same file changes": {
        "m_sql": "{% set l = [] %}{% macro add(x) %}{% do l.append(x) %}{% endmacro %}"
        "{{ add(var('v')) }}{{ config(alias=l[0]) }}"
    },
    "what looks like a comment beside raw text": {
        "m_sql": "{% raw %}{#{% endraw %}{{ config(alias=var('v')) }}{% raw %}#}{% endraw %}"
    },
    "what looks like a comment in properties": {
        "p_yml": "# {#\nmodels: [{name: m, config: {alias: \"{{ var('v') }}\"}}]\n# #}\n"
    },
    "properties with escapes": {"p_yml": "models: [{name: m, config: {alias: \"{{ var('\\x76') }}\"}}]"},
    "properties with escaped braces": {"p_yml": "models: [{name: m, config: {alias: \"\\x7b\\x7b var('v') }}\"}}]"},
    "properties with escaped quotes": {"p_yml": 'models: [{name: m, config: {alias: "{{ var(\\"v\\") }}"}}]'},
    "properties with double quotes": {"p_yml": "models: [{name: m, config: {alias: '{{ ''}}'' ~ var(''v'') }}'}}]"},
    "properties with an anchor": {"p_yml": "x: &a \"{{ var('v') }}\"\nmodels: [{name: m, config: {alias: *a}}]"},
    "a relation in properties": {"p_yml": "snapshots: [{name: s, relation: \"ref('a' ~ var('v'))\"}]"},
    "ref by another name": {"m_sql": "{% set r = ref %}select * from {{ r(var('v')) }}"},
    "config by another name": {"m_sql": "{% set c = config %}{{ c(alias=var('v')) }}"},
    "a method of config by another name": {"m_sql": "{% set c = config.set %}{{ c('alias', var('v')) }}"},
    "ref in a dictionary": {"m_sql": "{% set d = {'f': ref} %}select * from {{ d.f(var('v')) }}"},
    "ref as a default": {"a_sql": "{% macro m(x, f=ref) %}{{ f(x) }}{% endmacro %}", "m_sql": "{{ m(var('v')) }}"},
    "a macro by another name": {
        "a_sql": "{% macro pick(x) %}{{ ref(x) }}{% endmacro %}",
        "m_sql": "{% set f = pick %}{{ f(var('v')) }}",
    },
    "a package's macro by another name": {
        "a_sql": "{% macro pick(x) %}{{ ref(x) }}{% endmacro %}",
        "m_sql": "{% set f = pkg.pick %}{{ f(var('v')) }}",
    },
    "a package's macro by a name that is made up": {
        "dbt_project_yml": "name: pkg",
        "a_sql": "{% macro pick(x) %}{{ ref(x) }}{% endmacro %}",
        "m_sql": "{{ pkg['pi' ~ 'ck'](var('v')) }}",
    },
    "a package's macro as a dictionary gives it": {
        "dbt_project_yml": "name: pkg",
        "a_sql": "{% macro pick(x) %}{{ ref(x) }}{% endmacro %}",
        "m_sql": "{{ pkg.get('pi' ~ 'ck')(var('v')) }}",
    },
    "a package in a list": {
        "dbt_project_yml": "name: pkg",
        "m_sql": "{% set f = [pkg]|map(attribute='pick')|first %}{{ f(var('v')) }}",
    },
    "a macro that is dispatched by a name that is made up": {
        "a_sql": "{% macro default__pick(x) %}{{ ref(x) }}{% endmacro %}",
        "m_sql": "{% set n = 'pi' ~ 'ck' %}{{ adapter.dispatch(n)(var('v')) }}",
    },
    "a parameter of a call block": {
        "a_sql": "{% macro y(name) %}{% call(name) foo() %}{{ var(name) }}{% endcall %}{% endmacro %}",
        "m_sql": "{{ config(alias=y('w')) }}",
    },
    "a parameter that is set in brackets": {
        "a_sql": "{% macro y(name) %}{% set(name) = model.name %}{{ var(name) }}{% endmacro %}",
        "m_sql": "{{ config(alias=y('w')) }}",
    },
    "a hook that makes up a name": {"m_sql": "{{ config(post_hook=\"{{ var('v' ~ '') }}\") }}"},
    "a hook with escapes": {"m_sql": "{{ config(post_hook=\"{{ var('\\x76') }}\") }}"},
    "a hook in pieces": {"m_sql": "{{ config(post_hook=\"{{ var('\" ~ 'v' ~ \"') }}\") }}"},
    "what comes after a break": {
        "m_sql": "{% for x in ['a'] %}{% if var('v') %}{% break %}{% endif %}{{ ref(x) }}{% endfor %}"
    },
    "what comes after a return": {
        "a_sql": "{% macro p() %}{% if var('v') %}{{ return('x') }}{% endif %}{{ return(ref('a')) }}{% endmacro %}",
        "m_sql": "select * from {{ p() }}",
    },
    "a with block": {"m_sql": "{% with x = var('v') %}{{ config(alias=x) }}{% endwith %}"},
    "a name in pieces": {"m_sql": "{{ config(alias=var('' ~ 'v')) }}"},
    "a name in two strings": {"m_sql": "{{ config(alias=var('v' '')) }}"},
    "a name as a default": {
        "a_sql": "{% macro y(name='v') %}{{ var(name) }}{% endmacro %}",
        "m_sql": "{{ config(alias=y()) }}",
    },
    "a name as a keyword": {
        "a_sql": "{% macro y(name) %}{{ var(name) }}{% endmacro %}",
        "m_sql": "{{ config(alias=y(name='v')) }}",
    },
    "a test that is called as a macro": {
        "a_sql": "{% test t(model) %}{{ var('v') }}{% endtest %}",
        "m_sql": "{{ config(alias=test_t(this)) }}",
    },
    "dbt's own dictionaries": {
        "a_sql": "{% macro fill() %}{% do model.update({'x': var('v')}) %}{% endmacro %}",
        "m_sql": "{{ config(alias=model.x) }}",
    },
    "dbt's own macro that calls the project's": {
        "a_sql": "{% macro default__current_timestamp() %}{{ var('v') }}{% endmacro %}",
        "m_sql": "{{ config(alias=dbt.current_timestamp_backcompat()) }}",
    },
    "the header of the SQL": {"m_sql": "{% call set_sql_header(config) %}{{ var('v') }}{% endcall %}"},
    "a namespace": {"m_sql": "{% set ns = namespace(a='') %}{% set ns.a = var('v') %}{{ config(alias=ns.a) }}"},
    "a filter that gets attributes": {"m_sql": "{{ config(alias=(var|attr('has_var'))('v')) }}"},
    "a variable that is a parent": {
        "dbt_project_yml": "name: pkg\nvars:\n  w: \"{{ ref('a') }}\"",
        "m_sql": "{% if var('v') %}{{ var('w') }}{% endif %}",
    },
    "a snapshot": {
        "m_sql": "{% snapshot s %}{{ config(target_schema=var('v'), unique_key='a') }}select 1{% endsnapshot %}"
    },
    "a parent by a choice": {"m_sql": "select * from {{ ref('a') if var('v') else ref('b') }}"},
    "whether it is there": {"m_sql": "{{ config(enabled=var.has_var('v')) }}"},
    "dbt's own results": {"m_sql": "{{ store_result('x', var('v')) }}{{ config(alias=load_result('x').response) }}"},
    "code on many lines": {"m_sql": "{{\n config(\n alias = var (\n 'v'\n )\n )\n}}"},
    "a default of a macro": {
        "a_sql": "{% macro n(x=var('v')) %}{{ x }}{% endmacro %}",
        "m_sql": "{{ config(alias=n()) }}",
    },
    "a filter block": {
        "m_sql": "{% set x %}{% filter upper %}{{ var('v') }}{% endfilter %}{% endset %}{{ config(alias=x) }}"
    },
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
