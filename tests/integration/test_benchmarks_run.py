"""The benchmarks as they are started: in their tiniest form, and ended before their end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
from fixtures.processes import ROOT
from fixtures.waiting import wait_for

from benchmarks.plots import curves, draw
from benchmarks.report import DOCUMENT, PICTURES, marks, put_in
from benchmarks.results import Chapter, Figure, Report, Series, from_json
from benchmarks.subjects import subjects

#: What is measured with many workspaces has a module of its own, which is tested on its own.
NAMES = [subject.name for subject in subjects() if subject.name != "workspaces" or find_spec("benchmarks.scale")]


@contextmanager
def benchmarks(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """``python -m benchmarks``, which puts its temporary folder and its results into a folder."""
    (folder / "within").mkdir()
    line = [sys.executable, "-m", "benchmarks", *arguments, "--out", str(folder / "out"), "--within"]
    environment = {name: value for name, value in os.environ.items() if name != "SELFHEALD_TEST_PINNED"}
    with (folder / "told").open("wb") as told:
        process = subprocess.Popen(
            [*line, str(folder / "within")],
            cwd=ROOT,
            env=environment,
            stdout=told,
            stderr=told,
            preexec_fn=_hear_ctrl_c,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _hear_ctrl_c() -> None:
    """What shells start in the background ignores that signal, and hands this on."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def running_in(folder: Path) -> list[str]:
    """The command lines of processes that have to do with a folder."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if str(folder) in line and str(os.getpid()) != path.parent.name:
            lines.append(line)
    return lines


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", NAMES)
def test_each_subject_can_be_measured(name: str, tmp_path: Path) -> None:
    with benchmarks(tmp_path, "--tiny", "--only", name) as process:
        code = process.wait(200)
    assert code == 0, (tmp_path / "told").read_text()
    report = from_json((tmp_path / "out" / "results.json").read_text())
    assert report.form == "tiny"
    [chapter] = report.chapters
    assert (chapter.subject, chapter.failure) == (name, "")
    assert len(chapter.figures) >= 4
    assert all(value >= 0 for figure in chapter.figures for value in figure.series.values)
    told = (tmp_path / "out" / "results.md").read_text()
    assert told in put_in(DOCUMENT.read_text(), "figures", told)
    assert not list((tmp_path / "within").iterdir())
    assert not running_in(tmp_path)
    text = (tmp_path / "out" / "results.json").read_text()
    assert str(tmp_path) not in text
    assert os.uname().nodename not in text


@pytest.mark.timeout(240)
def test_ctrl_c_keeps_what_was_measured(tmp_path: Path) -> None:
    told = tmp_path / "told"
    with benchmarks(tmp_path, "--tiny", "--only", "client", "fresh_dbt") as process:
        wait_for(lambda: any("\0run\0" in line for line in running_in(tmp_path)), deadline=100, what=told.read_text)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130, told.read_text()
    assert "Traceback" not in told.read_text()
    first, second = from_json((tmp_path / "out" / "results.json").read_text()).chapters
    assert first.failure == ""
    assert first.figures
    assert second.failure == "interrupted"
    assert not list((tmp_path / "within").iterdir())
    assert not running_in(tmp_path)


def test_pictures_are_the_same_again(tmp_path: Path) -> None:
    points = [Figure("ours", Series((0.1 * place,)), at=("models", float(place))) for place in (30, 100, 300)]
    report = Report("small", {}, (Chapter("x", "X", tuple(points)),))
    [once], [again] = (draw(report, tmp_path / name) for name in ("once", "again"))
    assert list(curves(report)) == ["models"]
    assert once.name == "models.svg"
    assert once.read_bytes() == again.read_bytes()
    assert "ours" in once.read_text()


def test_the_document_is_in_form() -> None:
    text = DOCUMENT.read_text()
    figures, plots = (_between(text, what) for what in ("figures", "plots"))
    headings = [line.removeprefix("### ") for line in figures.splitlines() if line.startswith("### ")]
    titles = [subject.title for subject in subjects()]
    assert headings
    assert headings == [title for title in titles if title in headings], "each once, in their order"
    for table in figures.split("\n\n"):
        rows = [line.replace("\\|", "").count("|") for line in table.splitlines() if line.startswith("|")]
        assert len(set(rows)) <= 1, table
    shown = re.findall(r"\]\(performance/(.*?)\)", plots)
    assert shown == sorted(set(shown), key=shown.index)
    assert {path.name for path in PICTURES.iterdir()} == set(shown)


def _between(text: str, what: str) -> str:
    begin, end = marks(what)
    return text.partition(begin)[2].partition(end)[0]
