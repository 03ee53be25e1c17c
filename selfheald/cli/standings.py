"""What ``status`` shows of daemons and of many databases: a table on a terminal, lines elsewhere.

Names and records are other people's: everything is escaped here.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfheald.explanation import in_a_line
from selfheald.initialization_state import seconds_of
from selfheald.printable import one_line, shell_word
from selfheald.standing import Standing

if TYPE_CHECKING:
    from rich.console import OverflowMethod, RenderableType

    from selfheald.overview import Entry, Overview

COLOURS: Mapping[Standing, str] = {
    Standing.READY: "green",
    Standing.FAILED: "red",
    Standing.BUILDING: "cyan",
    Standing.BUSY: "yellow",
    Standing.WAITING: "blue",
}
#: On a terminal that is narrower, what belongs to a database stands below its name (characters).
NARROW = 72
#: Characters of a bar that shows how far an initialization is.
_BAR = 10


def daemon_line(daemon: Mapping[str, Any], start: str | None = None) -> str:
    """Who watches a root; where nobody does, what starts somebody (``start``: an installed service)."""
    root = daemon["root"]
    if daemon["state"] == "down":
        return one_line(f"No daemon watches {root} (start one: {start or f'selfheald run {shell_word(root)}'})")
    return one_line(f"Daemon PID {daemon['pid']} watches {root}: {daemon['state']}, {daemon['watcher']}")


def tabbed_line(overview: Overview, entry: Entry) -> str:
    """One database for a program such as `cut`: state, path, why."""
    words = entry.standing.value, str(entry.database), in_a_line(overview.view(entry))
    return "\t".join(map(one_line, words)).rstrip()


def common_folder(entries: Sequence[Entry]) -> Path:
    """The innermost folder that all workspaces are in."""
    workspaces = [entry.database.workspace for entry in entries]
    common = Path(os.path.commonpath(workspaces))
    return common.parent if common in workspaces else common


def table(
    overview: Overview, entries: Sequence[Entry], width: int, base: Path, *, folded: bool = True
) -> RenderableType:
    """Some of the databases, workspaces named as seen from ``base``, for a terminal of so many characters.

    With ``folded`` false each is one line, or two on a narrow terminal, cut where it has no more room.
    """
    from rich.cells import cell_len
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    overflow: OverflowMethod = "fold" if folded else "ellipsis"
    if width < NARROW:
        lines = []
        for entry in entries:
            head = Text.assemble((f"{entry.standing.value} ", COLOURS[entry.standing]), (_named(entry, base), "bold"))
            why = _why(overview, entry)
            lines += [head, Text(why)] if why or not folded else [head]
        for line in lines:
            line.overflow, line.no_wrap = overflow, not folded
        return Group(*lines)
    names = [_named(entry, base) for entry in entries]
    grid = Table(box=None, pad_edge=False, header_style="bold", expand=True)
    # Measured here: where a line is too long, rich takes the room from all columns alike.
    grid.add_column("workspace", width=min(max(map(cell_len, ("workspace", *names))), width // 3))
    grid.add_column("state", width=max(len(standing.value) for standing in Standing))
    grid.add_column("since", width=len("12-31 23:59"))
    grid.add_column("why and what now", ratio=1)
    for column in grid.columns:
        column.overflow, column.no_wrap = overflow, not folded
    for entry, name in zip(entries, names, strict=True):
        state = Text(entry.standing.value, COLOURS[entry.standing])
        grid.add_row(Text(name), state, _since(entry), Text(_why(overview, entry)))
    return grid


def bar(progress: Mapping[str, Any], width: int = _BAR) -> str:
    """How far an initialization is, drawn; nothing for what is no progress."""
    done, total = progress.get("done"), progress.get("total")
    if not isinstance(done, int) or not isinstance(total, int) or total <= 0:
        return ""
    full = max(0, min(width, width * done // total))
    return "█" * full + "░" * (width - full)


def _named(entry: Entry, base: Path) -> str:
    return one_line(os.path.relpath(entry.database.workspace, base))


def _why(overview: Overview, entry: Entry) -> str:
    text = one_line(in_a_line(overview.view(entry)))
    progress = (entry.status or {}).get("progress")
    drawn = bar(progress) if entry.standing is Standing.BUILDING and isinstance(progress, Mapping) else ""
    return f"{drawn} {text}" if drawn else text


def _since(entry: Entry) -> str:
    status = entry.status or {}
    seconds = seconds_of(status.get("completed_at") or status.get("started_at"))
    return "" if seconds is None else time.strftime("%m-%d %H:%M", time.localtime(seconds))


def start_command(root: Path) -> str | None:
    """What starts a service that is installed for a root, if there is one."""
    from selfheald import service

    return service.start_command(root)
