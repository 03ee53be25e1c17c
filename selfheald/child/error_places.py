"""Which line of which text an error is about. Where that is not certain, no line is named.

Everything here is text in, line numbers out (from 1).
"""

from __future__ import annotations

import csv
import io
import re
from typing import Iterable, List, Optional

_POINTER = re.compile(r"^\s*LINE \d+: (?P<text>.*)$", re.MULTILINE)
_NAMED = re.compile(
    r'Referenced (?:column|table) "(?P<referenced>[^"]+)" not found'
    r"|\w+ with name (?P<missing>\S+) does not exist"
    r'|at or near "(?P<near>.+)"$',
    re.MULTILINE,
)
_JINJA_LINE = re.compile(r"^\s*line (?P<number>\d+)\n(?P<text>.+)$", re.MULTILINE)
_JINJA = re.compile(r"\{[{%#]|[}%#]\}")


def named_by(message: str) -> Optional[str]:
    """The column, table, function or word that DuckDB complains about."""
    found = _NAMED.search(message)
    return next((name for name in found.groups() if name), None) if found else None


def failing_line(message: str, sql: str) -> Optional[int]:
    """The line of ``sql`` that DuckDB's message is about.

    Its own count begins with the statement that the SQL was put into, and it may point at a line that has nothing
    to do with what it complains about. So the text of the line counts, and what the message names must be in it.
    """
    name, pointer = named_by(message), _POINTER.search(message)
    text = pointer["text"].strip() if pointer else ""
    if text and (name is None or name in text):
        part = text.strip(".").strip()
        lines = sql.split("\n")
        return _only(
            number for number, line in enumerate(lines, 1) if line.strip() == text or (part != text and part in line)
        )
    return None if name is None else line_with(name, sql)


def line_with(name: str, text: str) -> Optional[int]:
    """The only line in which this name stands."""
    word = re.compile(rf"(?<!\w){re.escape(name)}(?!\w)")
    return _only(number for number, line in enumerate(text.split("\n"), 1) if word.search(line))


def source_line(number: int, compiled: str, file: str) -> Optional[int]:
    """The line of a model's file that a line of its compiled SQL comes from."""
    made, own = compiled.split("\n"), file.strip().split("\n")
    above = _lines_above(file)
    if len(made) == len(own) and all(
        _JINJA.search(line) or line.rstrip() == made[place].rstrip() for place, line in enumerate(own)
    ):
        return above + number
    text = made[number - 1].strip()
    if not text or [line.strip() for line in made].count(text) != 1:
        return None
    only = _only(place for place, line in enumerate(own, 1) if line.strip() == text)
    return None if only is None else above + only


def jinja_line(message: str, file: str) -> Optional[int]:
    """The line of the file that dbt quotes; it counts from the first line that is not blank."""
    found = _JINJA_LINE.search(message)
    if found is None:
        return None
    number, lines = int(found["number"]) + _lines_above(file), file.split("\n")
    if 0 < number <= len(lines) and lines[number - 1].strip() == found["text"].strip():
        return number
    return None


def ragged_line(file: str, delimiter: str) -> Optional[int]:
    """The line on which the first row of a CSV file ends that has more values than the header has names."""
    rows = csv.reader(io.StringIO(file), delimiter=delimiter)
    try:
        width = len(next(rows, []))
        return next((rows.line_num for row in rows if len(row) > width), None)
    except csv.Error:
        return rows.line_num


def _lines_above(file: str) -> int:
    """dbt takes a file's text without the blank lines at its beginning."""
    return file[: len(file) - len(file.lstrip())].count("\n")


def _only(numbers: Iterable[int]) -> Optional[int]:
    found: List[int] = list(numbers)
    return found[0] if len(found) == 1 else None
