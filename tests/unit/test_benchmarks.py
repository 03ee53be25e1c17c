"""The benchmarks' own arithmetic and tables: values in, values out."""

from __future__ import annotations

import pytest
from rich.console import Console

from benchmarks.measuring import in_turns, repeated
from benchmarks.plots import curves
from benchmarks.rendering import COLUMNS, markdown, notes, print_chapter, row
from benchmarks.report import marks, put_in, shown
from benchmarks.results import (
    Aim,
    Chapter,
    Figure,
    Kind,
    Peer,
    Report,
    Series,
    from_json,
    merged,
    quantity,
    to_json,
)


def figure(seconds: float, other: float | None = None, aim: Aim | None = None) -> Figure:
    peer = None if other is None else Peer("the peer", Series((other,)))
    return Figure("it", Series((seconds,)), peer=peer, aim=aim)


REPORT = Report(
    "small",
    {"cores": "2"},
    (
        Chapter(
            "one",
            "The first",
            (
                Figure("a", Series((0.001, 0.003, 0.002)), at=("models", 30.0), note="why | so"),
                Figure("a", Series((0.02,)), at=("models", 300.0), peer=Peer("b", Series((1.0,)))),
                Figure("alone", Series((1.0,)), at=("tables", 5.0)),
            ),
            1.5,
            "",
        ),
        Chapter("two", "The second", (figure(1.0, 4.0, Aim(Kind.FASTER, 5)),), 0.1, "interrupted"),
    ),
)


class TestSeries:
    def test_median_and_spread(self) -> None:
        series = Series((5.0, 1.0, 3.0, 100.0))
        assert (series.median, series.low, series.high, series.n) == (4.0, 1.0, 100.0, 4)

    def test_percentile(self) -> None:
        series = Series(tuple(float(number) for number in range(1, 101)))
        assert [series.percentile(share) for share in (0.0, 0.5, 0.95, 1.0)] == [1.0, 50.0, 95.0, 100.0]
        assert Series((7.0,)).percentile(0.95) == 7.0

    @pytest.mark.parametrize("values", [(), (1.0, float("nan")), (float("inf"),)])
    def test_what_is_no_measurement(self, values: tuple[float, ...]) -> None:
        with pytest.raises(ValueError, match="no measurement"):
            Series(values)


class TestReached:
    @pytest.mark.parametrize(
        ("own", "other", "aim", "reached"),
        [
            (1.0, 12.0, Aim(Kind.FASTER, 12), True),
            (1.0, 11.9, Aim(Kind.FASTER, 12), False),
            (5.0, 1.0, Aim(Kind.WITHIN, 5), True),
            (5.1, 1.0, Aim(Kind.WITHIN, 5), False),
            (0.03, 0.016, Aim(Kind.ABOVE, 0.015), True),
            (0.03, 0.014, Aim(Kind.ABOVE, 0.015), False),
            (0.15, None, Aim(Kind.MEDIAN, 0.15), True),
            (0.16, None, Aim(Kind.MEDIAN, 0.15), False),
            (1.0, 2.0, None, None),
        ],
    )
    def test_by_kind(self, own: float, other: float | None, aim: Aim | None, reached: bool | None) -> None:
        assert figure(own, other, aim).reached is reached

    def test_p95_is_not_the_median(self) -> None:
        waited = Series((0.1,) * 90 + (0.3,) * 10)
        assert Figure("it", waited, aim=Aim(Kind.MEDIAN, 0.25)).reached is True
        assert Figure("it", waited, aim=Aim(Kind.P95, 0.25)).reached is False

    def test_an_aim_against_a_peer_needs_one(self) -> None:
        with pytest.raises(ValueError, match="needs a peer"):
            _ = figure(1.0, None, Aim(Kind.FASTER, 2)).reached


class TestRendering:
    @pytest.mark.parametrize(
        ("value", "unit", "text"),
        [
            (0.0000123, "s", "12.3 µs"), (0.0456, "s", "45.6 ms"), (1.234, "s", "1.23 s"), (1234.5, "s", "1,234 s"),
            (0.154, "%", "0.154 %"), (2.0, "", "2"),
        ],
    )  # fmt: skip
    def test_quantity(self, value: float, unit: str, text: str) -> None:
        assert quantity(value, unit) == text

    @pytest.mark.parametrize(
        ("found", "words"),
        [
            (figure(0.5, 1.0), "2 times faster"),
            (figure(2.0, 1.0), "2 times slower"),
            (figure(2.0, 1.0, Aim(Kind.WITHIN, 5)), "2 times"),
            (figure(0.03, 0.01, Aim(Kind.ABOVE, 0.1)), "20 ms more"),
            (figure(1.0), ""),
        ],
    )
    def test_how_it_stands_to_its_peer(self, found: Figure, words: str) -> None:
        assert found.gain == words

    def test_a_row_has_a_cell_for_each_column(self) -> None:
        cells = row(figure(1.0, 4.0, Aim(Kind.FASTER, 5)))
        assert dict(zip(COLUMNS, cells, strict=True)) == {
            "what": "it", "median": "1 s", "from, to": "", "n": "1", "beside": "the peer", "its median": "4 s",
            "so it is": "4 times faster", "aim": "≥ 5 times faster", "reached": "**no**",
        }  # fmt: skip

    def test_markdown(self) -> None:
        lines = markdown(REPORT).splitlines()
        assert lines[0] == "The small form. cores: 2."
        assert "### The first" in lines
        assert "| a, 30 models | 2 ms | 1 ms, 3 ms | 3 |  |  |  |" in lines
        assert "a: why | so" in lines
        assert "Not measured to the end: interrupted" in lines
        tables = [line for line in lines if line.startswith("|")]
        assert {line.count("|") for line in tables[:5]} == {8}

    def test_a_terminal_gets_all_cells_and_notes(self) -> None:
        console = Console(width=200, record=True, quiet=True)
        console.quiet = False
        with console.capture() as capture:
            print_chapter(REPORT.chapters[1], console)
        told = capture.get()
        assert all(cell.strip("*") in told for cell in row(REPORT.chapters[1].figures[0]))
        assert "interrupted" in told

    def test_each_note_is_told_once(self) -> None:
        twice = Figure("a", Series((1.0,)), note="so")
        assert notes(Chapter("x", "X", (twice, twice))) == ["a: so"]


class TestReports:
    def test_json_gives_the_same_report_again(self) -> None:
        assert from_json(to_json(REPORT)) == REPORT

    def test_json_tells_what_follows(self) -> None:
        assert '"reached": false' in to_json(REPORT)

    def test_another_format_is_refused(self) -> None:
        with pytest.raises(ValueError, match="format"):
            from_json('{"format": 0}')

    def test_a_later_run_replaces_its_subjects_alone(self) -> None:
        again = Report("large", {"cores": "8"}, (Chapter("two", "Second", ()), Chapter("three", "Third", ())))
        both = merged(REPORT, again)
        assert both.form == "large"
        assert [chapter.title for chapter in both.chapters] == ["The first", "Second", "Third"]

    def test_curves_have_more_than_one_place(self) -> None:
        assert curves(REPORT) == {"models": {"a": [(30.0, 0.002, "s"), (300.0, 0.02, "s")]}}

    def test_a_peer_has_a_curve_and_no_place_is_on_one_twice(self) -> None:
        figures = [
            Figure("ours", Series((place,)), peer=Peer(peer, Series((9.0,))), at=("tables", place))
            for place in (5.0, 50.0)
            for peer in ("one", "other")
        ]
        assert curves(Report("small", {}, (Chapter("x", "X", tuple(figures)),)))["tables"] == {
            "ours": [(5.0, 5.0, "s"), (50.0, 50.0, "s")],
            "one": [(5.0, 9.0, "s"), (50.0, 9.0, "s")],
            "other": [(5.0, 9.0, "s"), (50.0, 9.0, "s")],
        }

    def test_figures_go_between_the_marks(self) -> None:
        begin, end = marks("it")
        text = f"before\n{begin}old\n{end}after\n"
        once = put_in(text, "it", "new")
        assert once == f"before\n{begin}\nnew\n{end}after\n"
        assert put_in(once, "it", "new") == once

    @pytest.mark.parametrize("text", ["", marks("it")[0], "".join(reversed(marks("it"))), "".join(marks("other"))])
    def test_without_marks_nothing_is_put_in(self, text: str) -> None:
        with pytest.raises(ValueError, match="marks"):
            put_in(text, "it", "new")

    def test_a_plot_for_each_axis(self) -> None:
        assert shown(["models", "MB"]).splitlines() == [
            "![Cost by models in the dbt project](performance/models.svg)",
            "",
            "![Cost by size of the database (MB)](performance/mb.svg)",
        ]


class TestMeasuring:
    def test_in_turns(self) -> None:
        order: list[str] = []

        def turn(name: str, seconds: float) -> float:
            order.append(name)
            return seconds + len(order)

        series = in_turns({"a": lambda: turn("a", 0), "b": lambda: turn("b", 100)}, 2, warm_up=1)
        assert order == ["a", "b"] * 3
        assert series == {"a": Series((3.0, 5.0)), "b": Series((104.0, 106.0))}

    def test_repeated_gives_the_seconds_of_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        now = [0.0]
        monkeypatch.setattr("time.perf_counter", lambda: now[0])

        def action() -> None:
            now[0] += 2.0

        assert repeated(action, 5)() == 2.0
        assert now[0] == 10.0
