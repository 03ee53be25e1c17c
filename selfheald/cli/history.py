"""``selfheald history``: past attempts, each with the timeline of its steps and dbt nodes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from selfheald.cli.output import DatabaseArgument, JsonOption, print_json, told_as_json
from selfheald.errors import in_one_line
from selfheald.initialization_state import seconds_of
from selfheald.printable import one_line
from selfheald.terminal import colour_allowed
from selfheald.timeline import bars, other_nodes
from selfheald.workspace import Database, resolve_database

_BLANK: dict[str, Any] = {"format": 1, "database": None, "attempts": [], "error": None}
#: Characters: of a bar, of the names of steps (the least of them), and of how long something took.
_BAR, _NAME, _LEAST, _TOOK = 40, 27, 12, 9
_COLOURS = {"failed": "red", "initialized": "green", "adopted": "green", "nothing_to_do": "green"}


def command(
    db: DatabaseArgument = None,
    number: Annotated[
        int | None,
        typer.Option("--number", "-n", min=1, metavar="N", help="The latest N of them. Default: 5, with --json all."),
    ] = None,
    nodes: Annotated[
        int, typer.Option("--nodes", min=0, metavar="N", help="The N slowest dbt nodes of each attempt.")
    ] = 10,
    json: JsonOption = False,
) -> None:
    """Show past attempts to make a database ready, the latest last, each with the timeline of its steps and dbt nodes.

    The last history.keep of them are kept, with dbt's log of each. Works with the daemon down.

    Exit codes: 0 shown, 2 wrong usage.

    Example: selfheald history workspace -n 1
    """
    from selfheald.marker import read_history

    with told_as_json(json, _BLANK, db):
        database = resolve_database(db)
    attempts = read_history(database)
    if json:
        print_json({**_BLANK, "database": str(database), "attempts": attempts[-number:] if number else attempts})
        return
    _print(database, attempts, number or 5, nodes)


def _print(database: Database, attempts: Sequence[Mapping[str, Any]], number: int, nodes: int) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(no_color=not colour_allowed(), highlight=False)
    if not attempts:
        typer.echo(one_line(f"No attempts yet: {database}"))
        return
    if len(attempts) > number:
        typer.echo(f"{len(attempts) - number} earlier ones are not shown: -n {len(attempts)}")
    for attempt in attempts[-number:]:
        for text, style in _lines(database, attempt, nodes, console.width):
            console.print(Text(one_line(text), style), soft_wrap=True)


def _lines(database: Database, attempt: Mapping[str, Any], nodes: int, width: int) -> list[tuple[str, str]]:
    """What is shown of an attempt on a terminal of this width: lines, each with its style."""
    outcome = str(attempt.get("outcome"))
    made = attempt.get("tables_created")
    count = len(made) if isinstance(made, list) else 0
    what = f", {count} table{'' if count == 1 else 's'} made" if count else ""
    origin = f", from a {attempt['origin']}" if attempt.get("origin") == "template" else ""
    why = f"({attempt.get('trigger')})"
    head = f"{_moment(attempt.get('started_at'))}  {outcome}{_duration(attempt)}{what}{origin} {why}"
    lines = [(head, _COLOURS.get(outcome, "")), *_drawn(attempt, nodes, width)]
    error = attempt.get("error")
    if isinstance(error, Mapping):
        lines.append((f"  {error.get('code')}: {in_one_line(str(error.get('message')))}", "red"))
        lines.append((f"  → {in_one_line(str(error.get('hint')))}", ""))
        lines.append((f"  log: {error.get('log') or database.private / 'logs' / str(attempt.get('attempt_id'))}", ""))
    return lines


def _drawn(attempt: Mapping[str, Any], nodes: int, width: int) -> list[tuple[str, str]]:
    """The steps as bars, below each its slowest nodes as paler ones; names are cut where there is no room."""
    longest = max((len(bar.name) + 2 * bar.is_node for bar in bars(attempt, _BAR, nodes)), default=0)
    wanted = max(_NAME if width >= 80 else 0, min(longest, 48))
    room = max(_BAR // 4, min(_BAR, width - wanted - _TOOK - 4))
    column = max(_LEAST, min(wanted, width - room - _TOOK - 4))
    lines = []
    for bar in bars(attempt, room, nodes):
        name = f"  {bar.name}" if bar.is_node else bar.name
        name = name if len(name) <= column else f"{name[: column - 1]}…"
        took = "" if bar.seconds is None else f"{bar.seconds:7.2f} s"
        drawn = f"{' ' * bar.blanks}{('▒' if bar.is_node else '█') * bar.blocks}"
        style = "red" if bar.status in ("failed", "error") else "dim" if bar.is_node else ""
        lines.append((f"  {name:<{column}}{took:>{_TOOK}}  {drawn}".rstrip(), style))
    more = other_nodes(attempt, nodes)
    if more and nodes:
        lines.append((f"  and {more} faster node{'' if more == 1 else 's'} (--nodes {nodes + more}, --json)", "dim"))
    return lines


def _moment(text: object) -> str:
    """In local time."""
    seconds = seconds_of(text)
    return "at an unknown time" if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _duration(attempt: Mapping[str, Any]) -> str:
    began, ended = (seconds_of(attempt.get(name)) for name in ("started_at", "completed_at"))
    return "" if began is None or ended is None else f" in {ended - began:.1f} s"
