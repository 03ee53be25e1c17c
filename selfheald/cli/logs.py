"""``selfheald logs``: the daemon's log, readable."""

from __future__ import annotations

import json as json_text
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selfheald.cli.output import ConfigOption, configuration
from selfheald.client import real_path
from selfheald.errors import InitializationError
from selfheald.log_reading import LEVELS, Entry, Filter, Follower, lines_of, moment, parsed, rotated
from selfheald.printable import one_line
from selfheald.terminal import colour_allowed
from selfheald.workspace import Database

if TYPE_CHECKING:
    from selfheald.config import Config

#: Lines that are shown where neither their number nor a time is given.
LINES = 100
#: Seconds between two looks at a file that is followed.
PAUSE_SECONDS = 0.25
_COLOURS = {"SUCCESS": "green", "WARNING": "yellow", "ERROR": "red", "CRITICAL": "bright_red", "DEBUG": "blue"}


def command(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is added, until Ctrl-C.")] = False,
    lines: Annotated[
        int | None,
        typer.Option(
            "--lines",
            "-n",
            min=0,
            help=f"The last N lines. Default: {LINES}, or all with --since.",
            metavar="N",
            show_default=False,
        ),
    ] = None,
    database: Annotated[
        Path | None,
        typer.Option("--database", metavar="DB", help="Only of this database, or of all below this folder."),
    ] = None,
    level: Annotated[
        str,
        typer.Option(
            "--level",
            metavar="LEVEL",
            help="Only this level and above: DEBUG, INFO, WARNING, ERROR.",
            autocompletion=lambda: list(LEVELS),
        ),
    ] = LEVELS[0],
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help='Only from then on: "10 min ago", 14:30, an ISO time.')
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print a JSON object for each line.")] = False,
    file: Annotated[
        Path | None, typer.Option("--file", metavar="FILE", help="This log file instead of the configured one.")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Show the daemon's log: what was rotated away too, in either form.

    Exit codes: 0 shown, 2 wrong usage, or no log to be read. 130 by Ctrl-C.

    Example: selfheald logs -f --level WARNING --since "10 min ago"
    """
    if level.upper() not in LEVELS:
        raise typer.BadParameter(f"{level!r} is none of {', '.join(LEVELS)}.", param_hint="'--level'")
    try:
        start = None if since is None else moment(since, datetime.now().astimezone())
    except ValueError as error:
        hint = f'{since!r} is no time: write "10 min ago", "yesterday", 14:30 or 2026-01-31T14:30.'
        raise typer.BadParameter(hint, param_hint="'--since'") from error
    wanted = Filter(_both(database), level.upper(), start)
    path = file.absolute() if file is not None else _configured_file(configuration(config), follow)
    if not follow and not path.exists() and not rotated(path):
        raise InitializationError(
            f"there is no log {path}",
            code="config_invalid",
            path=path,
            hint="Start the daemon, or name its log: `selfheald logs --file FILE`, or --config with its configuration.",
        )
    count = lines if lines is not None else LINES if since is None else None
    follower = Follower(path)
    try:
        _show(_last(_entries(follower.read()), wanted, count, follower), json)
        if follow:
            _show(filter(wanted.wants, _entries(_added(follower))), json)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    finally:
        follower.close()


def _both(database: Path | None) -> frozenset[str]:
    """A path as it was given, and as the daemon names it, which knows no links."""
    if database is None:
        return frozenset()
    return frozenset({os.path.abspath(database), real_path(database), str(Database.at(database))})


def _configured_file(config: Config, follow: bool) -> Path:
    """Where the daemon logs. Raises ``config_invalid`` where that is no file, and tells where it is to be read."""
    path = config.log.file
    if path is not None and (path.exists() or rotated(path)):
        return path
    elsewhere = _elsewhere(config)
    if elsewhere is not None:
        raise InitializationError(
            "the daemon's log is not in a file of this configuration",
            code="config_invalid",
            hint=f"Read it with: {elsewhere}",
        )
    if path is None:
        raise InitializationError(
            "the daemon logs to stderr alone (log.file)",
            code="config_invalid",
            hint="Look where its stderr goes, or set log.file and reload it.",
        )
    if follow:
        typer.echo(f"waiting for {path}", err=True)
    return path


def _elsewhere(config: Config) -> str | None:
    """The command that shows the log of the daemon that watches the configured roots, as that daemon tells.

    Only told, not run: whoever can write a root can write that.
    """
    import shlex

    from selfheald.presence import log_of

    for root in config.watch.roots:
        told = log_of(root)
        if told.get("file"):
            return one_line(f"selfheald logs --file {shlex.quote(str(told['file']))}")
        if told.get("journal"):
            return one_line(str(told["journal"]))
    return None


def _entries(lines: Iterable[str]) -> Iterator[Entry]:
    """The lines of the log. What is none (half a line that was left, words of an interpreter) is told at the level and
    time of the one before."""
    from selfheald.log import KEYS

    last: Entry | None = None
    for line in lines:
        entry = parsed(line, KEYS)
        if entry is not None:
            last = entry
            yield entry
        elif line:
            level, at = ("INFO", None) if last is None else (last.level, last.time)
            stamp = None if last is None else last.fields["timestamp"]
            fields = dict.fromkeys(KEYS) | {"timestamp": stamp, "level": level, "message": line}
            yield Entry(at, level, None if last is None else last.database, line, fields)


def _last(now: Iterator[Entry], wanted: Filter, count: int | None, follower: Follower) -> list[Entry]:
    """The last wanted entries, the oldest first: of the file itself, and as far as it takes of those before it."""
    found = deque(filter(wanted.wants, now), maxlen=count)
    for path in rotated(follower.path):
        if count is not None and len(found) >= count:
            break
        with suppress(OSError):
            there = path.stat()
            if follower.identity() == (there.st_dev, there.st_ino):
                continue
            if wanted.since is not None and there.st_mtime < wanted.since.timestamp():
                break
        room = None if count is None else count - len(found)
        found = deque([*deque(filter(wanted.wants, _entries(lines_of(path))), maxlen=room), *found], maxlen=count)
    return list(found)


def _added(follower: Follower) -> Iterator[str]:
    """The lines that are added from now on."""
    while True:
        time.sleep(PAUSE_SECONDS)
        yield from follower.read()


def _show(entries: Iterable[Entry], json: bool) -> None:
    coloured = not json and colour_allowed()
    for entry in entries:
        if json:
            typer.echo(json_text.dumps(entry.fields))
            continue
        at = "" if entry.time is None else entry.time.astimezone().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
        level, text = f"{entry.level: <8}", one_line(entry.message)
        where = "" if entry.database is None else f"[{one_line(entry.database)}] "
        if coloured:
            at, level = typer.style(at, dim=True), typer.style(level, fg=_COLOURS.get(entry.level), bold=True)
            where = typer.style(where, fg="cyan")
        typer.echo(f"{at} {level} {where}{text}", color=None if coloured else False)
