"""Puts a run's results into ``docs/performance.md``, and draws its pictures.

``python -m benchmarks.report results.json [more.json …]``: later files replace the subjects of the earlier ones.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import reduce
from pathlib import Path

from benchmarks.bench import ROOT
from benchmarks.plots import draw
from benchmarks.rendering import markdown
from benchmarks.results import from_json, merged

DOCUMENT = ROOT / "docs" / "performance.md"
PICTURES = ROOT / "docs" / "performance"
BEGIN, END = "<!-- figures: begin -->\n", "<!-- figures: end -->\n"


def put_in(text: str, figures: str) -> str:
    """The document with these figures between its marks, in place of those that are there."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the marks are missing: {BEGIN.strip()} … {END.strip()}")
    return f"{before}{begin}\n{figures}\n{end}{after}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the document anew."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("results", nargs="+", type=Path, help="what python -m benchmarks wrote")
    given = parser.parse_args(arguments)
    report = reduce(merged, [from_json(path.read_text(encoding="utf-8")) for path in given.results])
    DOCUMENT.write_text(put_in(DOCUMENT.read_text(encoding="utf-8"), markdown(report)), encoding="utf-8")
    for path in draw(report, PICTURES):
        print(path.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
