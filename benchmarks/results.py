"""What a run found: figures with their peers and aims, and the machine that they hold for; as values and as JSON.

Nothing here measures or draws anything.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

FORMAT = 1


class Kind(StrEnum):
    """What an aim is about."""

    #: So many times faster than the peer, at least.
    FASTER = "times faster"
    #: So many times what the peer takes, at most.
    WITHIN = "times the peer"
    #: So much more than the peer, at most, in the figure's unit.
    ABOVE = "above the peer"
    #: So much at most, in the figure's unit: the median, or the 95th percentile.
    MEDIAN = "at most"
    P95 = "p95 at most"


@dataclass(frozen=True, slots=True)
class Aim:
    """What a figure must reach."""

    kind: Kind
    limit: float

    def text(self, unit: str) -> str:
        """As it stands in a table."""
        match self.kind:
            case Kind.FASTER:
                return f"≥ {self.limit:g} times faster"
            case Kind.WITHIN:
                return f"≤ {self.limit:g} times"
            case Kind.ABOVE:
                return f"≤ {quantity(self.limit, unit)} more"
            case Kind.MEDIAN:
                return f"≤ {quantity(self.limit, unit)}"
            case Kind.P95:
                return f"p95 ≤ {quantity(self.limit, unit)}"


@dataclass(frozen=True, slots=True)
class Series:
    """The values of one thing that was measured several times, all in one unit."""

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.values or not all(map(math.isfinite, self.values)):
            raise ValueError(f"no measurement: {self.values}")

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def low(self) -> float:
        return min(self.values)

    @property
    def high(self) -> float:
        return max(self.values)

    def percentile(self, share: float) -> float:
        """The smallest value that at least this share (0 to 1) of the values does not exceed."""
        return sorted(self.values)[max(0, math.ceil(share * self.n) - 1)]


@dataclass(frozen=True, slots=True)
class Peer:
    """What a figure is compared with, measured in turns with it."""

    what: str
    series: Series


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing that was measured.

    ``at`` puts it on a curve: the axis (``models``, ``workspaces``, ``tables``, ``MB``) and the place on it; figures of
    one subject that have the same ``what`` and axis are one curve.
    """

    what: str
    series: Series
    unit: str = "s"
    peer: Peer | None = None
    aim: Aim | None = None
    note: str = ""
    at: tuple[str, float] | None = None

    @property
    def ratio(self) -> float | None:
        """What the peer takes, as a multiple of what this takes: how many times faster this is."""
        if self.peer is None or not self.series.median:
            return None
        return self.peer.series.median / self.series.median

    @property
    def reached(self) -> bool | None:
        """Whether it is what it must be; ``None`` without an aim."""
        if self.aim is None:
            return None
        own, limit = self.series, self.aim.limit
        if self.aim.kind is Kind.MEDIAN:
            return own.median <= limit
        if self.aim.kind is Kind.P95:
            return own.percentile(0.95) <= limit
        if self.peer is None:
            raise ValueError(f"{self.what}: such an aim needs a peer")
        other = self.peer.series.median
        if self.aim.kind is Kind.FASTER:
            return other >= limit * own.median
        if self.aim.kind is Kind.WITHIN:
            return own.median <= limit * other
        return own.median - other <= limit

    @property
    def gain(self) -> str:
        """How it stands to its peer, in the words of its aim."""
        if self.peer is None:
            return ""
        if self.aim is not None and self.aim.kind is Kind.ABOVE:
            return f"{quantity(self.series.median - self.peer.series.median, self.unit)} more"
        if self.aim is not None and self.aim.kind is Kind.WITHIN:
            return f"{_digits(self.series.median / self.peer.series.median)} times"
        if self.ratio is None:
            return ""
        return f"{_digits(self.ratio)} times faster" if self.ratio >= 1 else f"{_digits(1 / self.ratio)} times slower"


@dataclass(frozen=True, slots=True)
class Chapter:
    """All figures of one subject. ``failure`` tells why it ended before all was measured."""

    subject: str
    title: str
    figures: tuple[Figure, ...]
    seconds: float = 0.0
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """A whole run. ``form`` is ``small``, ``large`` or ``tiny``."""

    form: str
    machine: Mapping[str, str]
    chapters: tuple[Chapter, ...] = field(default=())


def to_json(report: Report) -> str:
    """The report with all values, and with what follows from them for those who read it without this module."""
    document = asdict(report) | {"format": FORMAT}
    for chapter, shown in zip(report.chapters, document["chapters"], strict=True):
        for figure, told in zip(chapter.figures, shown["figures"], strict=True):
            told |= {"median": figure.series.median, "ratio": figure.ratio, "reached": figure.reached}
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def from_json(text: str) -> Report:
    """The report that :func:`to_json` wrote."""
    document = json.loads(text)
    if document.get("format") != FORMAT:
        raise ValueError(f"not a report of format {FORMAT}")
    return Report(document["form"], document["machine"], tuple(map(_chapter, document["chapters"])))


def merged(older: Report, newer: Report) -> Report:
    """The newer report, with the chapters of the older one for what was not measured again."""
    again = {chapter.subject: chapter for chapter in newer.chapters}
    kept = {chapter.subject: again.get(chapter.subject, chapter) for chapter in older.chapters}
    return Report(newer.form, newer.machine, tuple({**kept, **again}.values()))


def quantity(value: float, unit: str) -> str:
    """A value with a unit that suits its size."""
    if unit == "s":
        if value < 0.001:
            return f"{_digits(value * 1e6)} µs"
        return f"{_digits(value * 1000)} ms" if value < 1 else f"{_digits(value)} s"
    return f"{_digits(value)} {unit}".strip()


def _digits(value: float) -> str:
    """Three digits that count; more only before the point."""
    size = abs(value)
    return f"{value:,.0f}" if size >= 100 else f"{value:.3g}"


def _chapter(document: Mapping[str, Any]) -> Chapter:
    figures = tuple(map(_figure, document["figures"]))
    return Chapter(document["subject"], document["title"], figures, document["seconds"], document["failure"])


def _figure(document: Mapping[str, Any]) -> Figure:
    peer, aim, at = document["peer"], document["aim"], document["at"]
    return Figure(
        document["what"],
        _series(document["series"]["values"]),
        document["unit"],
        peer and Peer(peer["what"], _series(peer["series"]["values"])),
        aim and Aim(Kind(aim["kind"]), aim["limit"]),
        document["note"],
        at and (at[0], at[1]),
    )


def _series(values: Sequence[float]) -> Series:
    return Series(tuple(values))
