"""``selfheald doctor``: proves the set-up, each finding with its cure. Changes nothing; writes an archive if asked."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import anyio
import typer

from selfheald.cli.output import ConfigOption, JsonOption, print_json
from selfheald.cli.progress import Progress
from selfheald.diagnosis.archive import require_new
from selfheald.diagnosis.archive import write as write_archive
from selfheald.diagnosis.findings import GROUPS, Finding, Status, document
from selfheald.errors import InitializationError
from selfheald.printable import one_line
from selfheald.terminal import colour_allowed

if TYPE_CHECKING:
    from selfheald.config import Config
    from selfheald.diagnosis.examination import Examination

#: Each status as a word, which is there without colours too.
_WORDS = {Status.GREEN: "ok", Status.YELLOW: "note", Status.RED: "bad"}


def command(
    roots: Annotated[
        list[Path] | None,
        typer.Argument(metavar="ROOT", help="Folders to look at; they replace watch.roots.", show_default=False),
    ] = None,
    json: JsonOption = False,
    user: Annotated[
        str | None,
        typer.Option(
            "--user", metavar="NAME", help="Judge the rights of this user, as whom a service runs.", show_default=False
        ),
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(
            "--bundle",
            metavar="FILE",
            help="Write an archive for who is to help (tar.gz), without rows and secrets. Nothing is replaced.",
            show_default=False,
        ),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Prove the set-up: configuration, versions, dbt project, roots, limits, daemon. Changes nothing.

    Exit codes: 0 nothing is bad, 1 something is, 2 wrong usage.

    Example: selfheald doctor --json
    """
    if bundle is not None:
        require_new(bundle.absolute())
    examination, effective = _examine(roots or [], user, config)
    findings = examination.findings
    # Written before anything is printed: whoever reads that may go away, and what cannot be written is said last.
    written = None if bundle is None else _written(bundle.absolute(), examination, effective)
    if json:
        print_json(document(findings))
    else:
        _print(findings)
    if isinstance(written, InitializationError):
        raise written
    if written is not None:
        typer.echo(written, err=json)
    if any(finding.status is Status.RED for finding in findings):
        raise typer.Exit(1)


def _written(target: Path, examination: Examination, config: Config | None) -> str | InitializationError:
    """Write the archive; what is to be said of it, or why there is none."""
    from selfheald.diagnosis import bundle

    now = time.time()
    members = bundle.members(examination, config, os.environ, now)
    try:
        size = write_archive(target, members, now)
    except InitializationError as error:
        return error
    return (
        f"\nWrote {target} ({size / 1000:.0f} kB, readable by you alone): {', '.join(members)}.\n"
        "Without rows, without values of variables, without profiles; README.txt in it tells what is left out."
    )


def _examine(roots: Sequence[Path], user: str | None, config: Path | None) -> tuple[Examination, Config | None]:
    """What was found out, and by which configuration; none if it is wrong."""
    from selfheald.config import load_config
    from selfheald.diagnosis import examination
    from selfheald.diagnosis.probe_places import person_named, this_person

    person = this_person() if user is None else person_named(user)
    overrides = {"watch.roots": [str(root.absolute()) for root in roots]} if roots else {}
    try:
        effective = load_config(config, overrides)
    except InitializationError as error:
        return examination.Examination(examination.examine_machine_alone(error)), None
    with Progress("Looking at the set-up", quiet=True) as progress:
        return anyio.run(examination.examine, effective, person, progress.say), effective


def _print(findings: Sequence[Finding]) -> None:
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    console = Console(no_color=not colour_allowed(), highlight=False)
    total = _sum_of(findings)
    if not console.is_terminal:
        for finding in findings:
            cure = f" → {one_line(finding.hint)}" if finding.hint else ""
            # Not by rich, which makes spaces of tabs.
            typer.echo(f"{_WORDS[finding.status]}\t{finding.check}\t{one_line(finding.message)}{cure}")
        typer.echo(total)
        return
    for group, checks in GROUPS.items():
        told = [finding for finding in findings if finding.check in checks]
        if not told:
            continue
        console.print(Text(group, "bold"))
        table = Table.grid(padding=(0, 1))
        table.add_column(width=4)
        table.add_column(overflow="fold")
        for finding in told:
            word = Text(_WORDS[finding.status], finding.status.value)
            table.add_row(word, Text(f"{finding.check}: {one_line(finding.message)}"))
            if finding.hint:
                table.add_row("", Padding(Text(one_line(finding.hint), "italic"), (0, 0, 0, 2)))
        console.print(Padding(table, (0, 0, 0, 2)))
    console.print(Text(total, "bold"))


def _sum_of(findings: Sequence[Finding]) -> str:
    counts = {status: sum(finding.status is status for finding in findings) for status in Status}
    return ", ".join(f"{counts[status]} {_WORDS[status]}" for status in Status)
