"""``python -m benchmarks``: measures all subjects, or those that are named, one after the other."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType

from rich.console import Console

from benchmarks.bench import ROOT, Bench, BenchError, Form
from benchmarks.machine import facts
from benchmarks.plots import draw
from benchmarks.rendering import markdown, print_chapter
from benchmarks.results import Chapter, Figure, Report, to_json
from benchmarks.subjects import Subject, subjects

#: Characters of a line where the tables go into a file.
WIDTH = 180


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it: 0 all was measured, 1 not all could be, 130 ended by a signal; what was measured is written."""
    signal.signal(signal.SIGTERM, _end)
    known = {subject.name: subject for subject in subjects()}
    given = _parser(sorted(known)).parse_args(arguments)
    form: Form = "tiny" if given.tiny else "large" if given.large else "small"
    console = Console(stderr=True, highlight=False)
    chosen = [subject for subject in known.values() if not given.only or subject.name in given.only]
    with tempfile.TemporaryDirectory(prefix="selfheald-bench-", dir=given.within) as folder:
        bench = Bench(Path(folder).resolve(), form, _pinned(), lambda text: console.print(f"  {text}", markup=False))
        report = Report(form, facts(bench.folder, bench.pinned))
        for subject in chosen:
            chapter, ended = run_subject(subject, bench, console)
            report = replace(report, chapters=(*report.chapters, chapter))
            write(report, given.out)
            print_chapter(chapter, Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH))
            if ended:
                return 130
        console.print(f"written: {given.out}", markup=False)
    return int(any(chapter.failure for chapter in report.chapters))


def _end(number: int, frame: FrameType | None) -> None:
    """Let SIGTERM end it as Ctrl-C does, with all that it started; whoever runs in the background hears no other."""
    raise KeyboardInterrupt


def run_subject(subject: Subject, bench: Bench, console: Console) -> tuple[Chapter, bool]:
    """Measure one subject; what it found until it ended, by itself or not, and whether the run is to end too."""
    console.print(f"{subject.title} ({subject.name})", markup=False)
    began, figures, failure, ended = time.monotonic(), list[Figure](), "", False
    try:
        for figure in subject.measure(bench):
            figures.append(figure)
            bench.say(figure.what)
    except KeyboardInterrupt:
        failure, ended = "interrupted", True
    except BenchError as error:
        failure = str(error)
    return Chapter(subject.name, subject.title, tuple(figures), round(time.monotonic() - began, 1), failure), ended


def write(report: Report, folder: Path) -> None:
    """The results as JSON and Markdown, and the plots."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(to_json(report), encoding="utf-8")
    (folder / "results.md").write_text(markdown(report), encoding="utf-8")
    draw(report, folder)


def _pinned() -> str | None:
    """The Python with the oldest versions: the one that is named, or that ``make`` sets up."""
    named = os.environ.get("SELFHEALD_TEST_PINNED") or str(ROOT / ".venv-pinned" / "bin" / "python")
    return named if Path(named).exists() else None


def _parser(names: Iterable[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=names, help=f"some of: {', '.join(names)}")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--large", action="store_true", help="more models, workspaces, sizes and rounds")
    form.add_argument("--tiny", action="store_true", help="just to see that it runs: its figures mean nothing")
    parser.add_argument("--out", type=Path, default=Path("build/bench"), metavar="FOLDER", help="for the results")
    parser.add_argument("--within", type=Path, metavar="FOLDER", help="where the temporary folder goes: which disk")
    return parser


if __name__ == "__main__":
    sys.exit(main())
