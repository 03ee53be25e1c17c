"""How cost grows, as pictures: one for each axis, the same file again for the same figures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.results import Report

#: Of each axis its curves, and of each curve what it costs at which places: (place, median, unit).
Curves = dict[str, list[tuple[float, float, str]]]

WORDS = {"models": "models in the dbt project", "MB": "size of the database (MB)", "tables": "tables in the database"}


def curves(report: Report) -> dict[str, Curves]:
    """All curves of a report that have more than one place, by their axis; a peer that was measured has its own."""
    found: dict[str, Curves] = {}
    for chapter in report.chapters:
        for figure in chapter.figures:
            if figure.at is None:
                continue
            axis, place = figure.at
            lines = found.setdefault(axis, {})
            shown = [(figure.what, figure.series)] + ([(figure.peer.what, figure.peer.series)] if figure.peer else [])
            for name, series in shown:
                points = lines.setdefault(name, [])
                # What has two peers is told twice.
                if place not in [point[0] for point in points]:
                    points.append((place, series.median, figure.unit))
    return {axis: kept for axis, lines in found.items() if (kept := _long_enough(lines))}


def file_name(axis: str) -> str:
    """The plot of an axis."""
    return f"{axis.lower()}.svg"


def draw(report: Report, folder: Path) -> list[Path]:
    """Draw a picture for each axis into a folder; their paths."""
    return [_draw(axis, lines, folder / file_name(axis)) for axis, lines in curves(report).items()]


def _long_enough(lines: Mapping[str, list[tuple[float, float, str]]]) -> Curves:
    return {name: sorted(points) for name, points in lines.items() if len({point[0] for point in points}) > 1}


def _draw(axis: str, lines: Curves, path: Path) -> Path:
    import matplotlib as mpl
    from matplotlib.figure import Figure as Canvas

    units = sorted({points[0][2] for points in lines.values()})
    options: dict[Any, Any] = {
        "svg.hashsalt": "selfheald",
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "font.size": 9,
    }
    with mpl.rc_context(options):
        canvas = Canvas(figsize=(7, 0.8 + 2.9 * len(units)), layout="constrained")
        for number, unit in enumerate(units):
            area = canvas.add_subplot(len(units), 1, number + 1)
            for name, points in sorted(lines.items()):
                if points[0][2] == unit:
                    area.plot([p[0] for p in points], [p[1] for p in points], marker="o", label=name)
            area.set_xscale("log")
            places = sorted({point[0] for points in lines.values() for point in points})
            area.set_xticks(places, [f"{place:,g}" for place in places])
            area.set_xticks([], minor=True)
            if _spans(lines, unit):
                area.set_yscale("log")
            else:
                area.set_ylim(bottom=0)
            area.set_ylabel("seconds" if unit == "s" else unit)
            area.set_xlabel(WORDS.get(axis, axis))
            area.grid(alpha=0.3)
            area.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        canvas.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    return path


def _spans(lines: Curves, unit: str) -> bool:
    """True if the values lie so far apart that only their magnitudes can be shown."""
    values = [point[1] for points in lines.values() for point in points if point[2] == unit]
    return min(values) > 0 and math.log10(max(values) / min(values)) > 1.5
