"""Puts a run's results into ``docs/performance.md``, and draws its pictures.

``python -m benchmarks.report results.json [more.json …]``: later files replace the subjects of the earlier ones.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from functools import reduce
from pathlib import Path

from benchmarks.bench import ROOT
from benchmarks.plots import WORDS, curves, draw, file_name
from benchmarks.rendering import markdown
from benchmarks.results import from_json, merged

DOCUMENT = ROOT / "docs" / "performance.md"
PICTURES = ROOT / "docs" / "performance"


def put_in(text: str, what: str, lines: str) -> str:
    """The document with these lines between its marks of that name, in place of those that are there."""
    first, last = marks(what)
    before, begin, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise ValueError(f"the marks are missing: {first.strip()} … {last.strip()}")
    return f"{before}{begin}\n{lines}\n{end}{after}"


def marks(what: str) -> tuple[str, str]:
    """The lines before and behind what is put in."""
    return f"<!-- {what}: begin -->\n", f"<!-- {what}: end -->\n"


def shown(axes: Iterable[str]) -> str:
    """The plots of these axes, as the document shows them."""
    return "\n".join(f"![Cost by {WORDS.get(axis, axis)}]({PICTURES.name}/{file_name(axis)})\n" for axis in axes)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the document anew."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("results", nargs="+", type=Path, help="what python -m benchmarks wrote")
    given = parser.parse_args(arguments)
    report = reduce(merged, [from_json(path.read_text(encoding="utf-8")) for path in given.results])
    text = put_in(DOCUMENT.read_text(encoding="utf-8"), "figures", markdown(report))
    DOCUMENT.write_text(put_in(text, "plots", shown(curves(report))), encoding="utf-8")
    for path in draw(report, PICTURES):
        print(path.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
