"""Reports as tables: on a terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.results import Chapter, Figure, Report, quantity

COLUMNS = ("what", "median", "from, to", "n", "beside", "its median", "so it is", "aim", "reached")
_VERDICTS = {True: "yes", False: "**no**", None: ""}


def row(figure: Figure) -> tuple[str, ...]:
    """The cells of a figure, one for each of :data:`COLUMNS`."""
    own, peer, unit = figure.series, figure.peer, figure.unit
    spread = f"{quantity(own.low, unit)}, {quantity(own.high, unit)}" if own.n > 1 else ""
    place = "" if figure.at is None else f", {figure.at[1]:,g} {figure.at[0]}"
    return (
        f"{figure.what}{place}",
        quantity(own.median, unit),
        spread,
        f"{own.n:,}",
        "" if peer is None else peer.what,
        "" if peer is None else quantity(peer.series.median, unit),
        figure.gain,
        "" if figure.aim is None else figure.aim.text(unit),
        _VERDICTS[figure.reached],
    )


def print_chapter(chapter: Chapter, console: Console) -> None:
    """A chapter as a table on a terminal, with its notes below."""
    table = Table(*COLUMNS, title=chapter.title, title_justify="left")
    for figure in chapter.figures:
        table.add_row(*(cell.strip("*") for cell in row(figure)))
    console.print(table)
    for note in notes(chapter):
        console.print(f"  {note}", markup=False)


def markdown(report: Report) -> str:
    """All of a report for ``docs/performance.md``."""
    return "\n".join(_markdown_lines(report)) + "\n"


def notes(chapter: Chapter) -> list[str]:
    """What is to be said about a chapter's figures, each once, and why it is not whole."""
    told = [f"{figure.what}: {figure.note}" for figure in chapter.figures if figure.note]
    failure = [f"Not measured to the end: {chapter.failure}"] if chapter.failure else []
    return list(dict.fromkeys(told)) + failure


def _markdown_lines(report: Report) -> Iterator[str]:
    yield f"The {report.form} form. " + "; ".join(f"{name}: {fact}" for name, fact in report.machine.items()) + "."
    for chapter in report.chapters:
        yield ""
        yield f"### {chapter.title}"
        yield ""
        yield from _markdown_table([row(figure) for figure in chapter.figures])
        for note in notes(chapter):
            yield ""
            yield note.replace("\n", " ")


def _markdown_table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Columns that are empty in every row are left out."""
    shown = [number for number in range(len(COLUMNS)) if number == 0 or any(cells[number] for cells in rows)]
    for cells in (COLUMNS, ["---"] * len(COLUMNS), *rows):
        yield "| " + " | ".join(cells[number].replace("|", "\\|") for number in shown) + " |"
