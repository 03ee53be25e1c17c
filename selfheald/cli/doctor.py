"""``selfheald doctor``: proves the set-up, each finding with its cure. Changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import anyio
import typer

from selfheald.cli.output import ConfigOption, JsonOption, print_json
from selfheald.cli.progress import Progress
from selfheald.diagnosis.findings import GROUPS, Finding, Status, document
from selfheald.errors import InitializationError
from selfheald.printable import one_line
from selfheald.terminal import colour_allowed

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
    config: ConfigOption = None,
) -> None:
    """Prove the set-up: configuration, versions, dbt project, roots, limits, daemon. Changes nothing.

    Exit codes: 0 nothing is bad, 1 something is, 2 wrong usage.

    Example: selfheald doctor --json
    """
    findings = _examine(roots or [], user, config)
    if json:
        print_json(document(findings))
    else:
        _print(findings)
    if any(finding.status is Status.RED for finding in findings):
        raise typer.Exit(1)


def _examine(roots: Sequence[Path], user: str | None, config: Path | None) -> list[Finding]:
    from selfheald.config import load_config
    from selfheald.diagnosis import examination
    from selfheald.diagnosis.probe_places import person_named, this_person

    person = this_person() if user is None else person_named(user)
    overrides = {"watch.roots": [str(root.absolute()) for root in roots]} if roots else {}
    try:
        effective = load_config(config, overrides)
    except InitializationError as error:
        return examination.examine_machine_alone(error)
    with Progress("Looking at the set-up", quiet=True) as progress:
        return anyio.run(examination.examine, effective, person, progress.say)


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
