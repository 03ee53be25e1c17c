"""Which line an error is about: named where it is certain, and else not."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

places: Any = importlib.import_module("selfheald.child.error_places")

SQL = "\nselect a,\n    nope,\n    twice\nfrom t\nwhere twice"


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ('Binder Error: Referenced column "nope" not found in FROM clause!', 3),
        ('Binder Error: Referenced column "nope" not found in FROM clause!\n  LINE 17:     nope,\n   ^', 3),
        # It points at a line that has nothing to do with it.
        ('Binder Error: Referenced column "nope" not found in FROM clause!\n  LINE 17: from t\n   ^', 3),
        ('Binder Error: Referenced column "twice" not found in FROM clause!', None),
        ('Binder Error: Referenced column "twice" not found\n  LINE 9:     twice\n   ^', 4),
        ('Binder Error: Referenced column "twice" not found\n  LINE 9: ...twice...\n   ^', None),
        ("Binder Error: some other\n  LINE 9: from t\n   ^", 5),
        ("Binder Error: some other\n  LINE 9: from u\n   ^", None),
        ('Parser Error: syntax error at or near "from"', 5),
        ("Catalog Error: Table with name t does not exist!", 5),
        ("Catalog Error: Table with name u does not exist!", None),
        ("Conversion Error: Could not convert string 'x' to INT32", None),
    ],
)
def test_the_line_of_the_compiled_sql(message: str, line: int | None) -> None:
    assert places.failing_line(message, SQL) == line


@pytest.mark.parametrize(
    ("line", "compiled", "file", "found"),
    [
        (2, "select 1\nfrom x", "select 1\nfrom {{ ref('x') }}\n", 2),
        (2, "select 1\nfrom x", "\n\n  select 1\nfrom {{ ref('x') }}\n", 4),
        (2, "select 1\nfrom x", "\n\nselect 1\nfrom {{ ref('x') }}\n", 4),
        (3, "with p as (\nselect 1\n) select nope\nfrom p", "select nope\nfrom {{ ref('p') }}", None),
        (3, "with p as (select 1)\nselect\n nope\nfrom p", "select\n nope\nfrom {{ ref('p') }}", 2),
        (3, "select\na,\nb", "select\n{% for c in 'ab' %}{{ c }},\n{% endfor %}\nfrom t", None),
        (2, "select\na,\na,", "select\na,\na,\n{{ x }}", None),
    ],
)
def test_the_line_of_the_models_own_file(line: int, compiled: str, file: str, found: int | None) -> None:
    assert places.source_line(line, compiled, file) == found


@pytest.mark.parametrize(
    ("message", "file", "line"),
    [
        ("expected\n    line 2\n      {{ x", "a\n{{ x\n", 2),
        ("expected\n    line 2\n      {{ x", "\n\na\n{{ x\n", 4),
        ("expected\n    line 2\n      {{ y", "a\n{{ x\n", None),
        ("expected\n    line 9\n      {{ x", "a\n{{ x\n", None),
        ("expected", "a", None),
    ],
)
def test_the_line_that_dbt_quotes(message: str, file: str, line: int | None) -> None:
    assert places.jinja_line(message, file) == line


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("a,b\n1,2\n1,2,3\n", 3),
        ('a,b\n"1\n1",2\n1,2,3\n', 4),
        ("a,b\n1,2\n", None),
        ("", None),
    ],
)
def test_the_line_of_a_row_that_is_too_long(file: str, line: int | None) -> None:
    assert places.ragged_line(file, ",") == line
