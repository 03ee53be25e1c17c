"""Which variables a parse cannot depend on: what only shows in the SQL, and nothing that is in doubt."""

from __future__ import annotations

import pytest
from fixtures.databases import PROJECT
from fixtures.inert_projects import COUNTS, INERT

from selfheald.inert_variables import inert_variables


def is_inert(**files: str) -> bool:
    """Whether ``v`` is inert in a project of these files, whose names end in ``_sql`` or ``_yml``."""
    named = {name.replace("_sql", ".sql").replace("_yml", ".yml"): text for name, text in files.items()}
    return "v" in inert_variables(named, {"v": "/a/b.parquet", "w": 1})


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
