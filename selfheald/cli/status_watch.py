"""``selfheald status --watch``: a live view on a terminal, elsewhere a line, or a JSON document, for each change."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import typer

from selfheald.cli.standings import NARROW, common_folder, daemon_line, start_command, tabbed_line, table
from selfheald.initialization_state import iso_time
from selfheald.observer import BUILDING_SECONDS, Observer
from selfheald.overview import summary
from selfheald.standing import in_words
from selfheald.terminal import colour_allowed

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from selfheald.observer import News
    from selfheald.overview import Places

#: Seconds after which a live view is drawn anew though nothing has changed: it shows the time, and what is left.
_REDRAW_SECONDS = 1.0


def watch(places: Places, *, as_json: bool) -> int:
    """Show how the databases stand until Ctrl-C; the exit code."""
    from rich.console import Console

    console = Console(no_color=not colour_allowed(), highlight=False)
    observer = Observer(places)
    with _interrupts() as interrupts:
        if as_json:
            _follow(observer, interrupts, _Documents())
        elif console.is_terminal and not console.is_dumb_terminal:
            _show_live(observer, interrupts, console)
        else:
            _follow(observer, interrupts, _Lines())
    return interrupts.exit_code


class _Interrupts:
    """What a person, or the terminal, wants meanwhile. The second Ctrl-C does not wait for a look that takes long."""

    def __init__(self) -> None:
        self.stopped = False
        self.exit_code = 0
        self._woken = threading.Event()

    def pause(self, seconds: float) -> None:
        """Wait, unless something comes in between."""
        self._woken.wait(seconds)
        self._woken.clear()

    def on_stop(self, number: int, _: FrameType | None) -> None:
        if self.stopped:
            raise KeyboardInterrupt
        self.stopped, self.exit_code = True, 0 if number == signal.SIGINT else 128 + number
        self._woken.set()

    def on_resize(self, _number: int, _frame: FrameType | None) -> None:
        self._woken.set()


@contextmanager
def _interrupts() -> Iterator[_Interrupts]:
    """Signals end the loop, not what it is at: the terminal is left as it was."""
    found = _Interrupts()
    handlers = {signal.SIGINT: found.on_stop, signal.SIGTERM: found.on_stop, signal.SIGWINCH: found.on_resize}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield found
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _follow(observer: Observer, interrupts: _Interrupts, told: _Lines | _Documents) -> None:
    is_first = True
    while not interrupts.stopped:
        news = observer.look()
        if news or is_first:
            told.tell(observer, news, is_first=is_first)
        is_first = False
        interrupts.pause(BUILDING_SECONDS)


class _Lines:
    """A line for each change: when, state, database, why, with tabs between. First those that are not ready."""

    def __init__(self) -> None:
        self._said: dict[str, str] = {}

    def tell(self, observer: Observer, news: News, *, is_first: bool) -> None:
        at = time.strftime("%Y-%m-%d %H:%M:%S")
        if news.daemons:
            for daemon in observer.daemons:
                self._say(at, daemon["root"], daemon_line(daemon))
        overview = observer.overview(())
        for entry in news.changed:
            line = tabbed_line(overview, entry)
            if is_first and entry.is_ready:
                self._said[str(entry.database)] = line
            else:
                self._say(at, str(entry.database), line)
        for database in news.gone:
            self._say(at, str(database), f"gone\t{database}")
        if is_first:
            self._say(at, "", in_words(observer.counts()))

    def _say(self, at: str, about: str, line: str) -> None:
        if self._said.get(about) != line:
            self._said[about] = line
            typer.echo(f"{at}\t{line}")


class _Documents:
    """A JSON document on a line of its own for each change, with the keys of ``status --json``.

    ``databases`` are those that have changed since the document before, in the first one all; ``gone`` are paths.
    """

    def tell(self, observer: Observer, news: News, *, is_first: bool) -> None:
        document: dict[str, Any] = {
            **observer.overview(None if is_first else news.changed).as_dict(),
            "summary": summary(observer.counts()),
            "gone": sorted(map(str, news.gone)),
            "at": iso_time(time.time()),
        }
        typer.echo(json.dumps(document, default=str))


def _show_live(observer: Observer, interrupts: _Interrupts, console: Console) -> None:
    from rich.live import Live
    from rich.text import Text

    starts: dict[str, str | None] = {}
    drawn_at, size = float("-inf"), console.size
    with Live(Text("looking…"), console=console, screen=True, auto_refresh=False) as live:
        live.refresh()
        while not interrupts.stopped:
            news = observer.look()
            now = time.monotonic()
            if news or console.size != size or now - drawn_at >= _REDRAW_SECONDS:
                for daemon in observer.daemons:
                    if daemon["state"] == "down" and daemon["root"] not in starts:
                        starts[daemon["root"]] = start_command(Path(daemon["root"]))
                size, drawn_at = console.size, now
                live.update(view(observer, size.width, size.height, now, starts), refresh=True)
            interrupts.pause(BUILDING_SECONDS)
    console.print(in_words(observer.counts()))


def view(
    observer: Observer, width: int, height: int, now: float, starts: dict[str, str | None] | None = None
) -> RenderableType:
    """What a terminal of this size shows: daemons, how many stand where, rates, and what there is room for of the
    databases, those first that are not ready. Each line is cut to the width."""
    from rich.console import Group
    from rich.text import Text

    counts = observer.counts()
    heads = [Text(daemon_line(each, (starts or {}).get(each["root"])), _style(each)) for each in observer.daemons]
    checks, made = observer.checks.count(now), observer.initializations.count(now)
    rates = f"{time.strftime('%H:%M:%S')}  last minute: {checks} checked, {made} initialized"
    heads += [Text(in_words(counts), "bold"), Text(rates, "dim"), Text()]
    rows = max(1, (height - len(heads) - 2) // (2 if width < NARROW else 1))
    shown = observer.first(rows)
    more = counts.total() - len(shown)
    foot = Text(f"and {more} more" if more else "", "dim")
    for line in (*heads, foot):
        line.no_wrap, line.overflow = True, "ellipsis"
    if not shown:
        return Group(*heads, Text("No databases here."))
    entries = table(observer.overview(()), shown, width, common_folder(shown), folded=False)
    return Group(*heads, entries, foot)


def _style(daemon: dict[str, Any]) -> str:
    return {"ready": "green", "down": "red"}.get(daemon["state"], "yellow")
