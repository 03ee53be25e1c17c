"""Writes the man page, man/selfheald.1, from the commands and their help. `make reference` runs it."""

from __future__ import annotations

import re
import textwrap
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import typer.main

from selfheald.cli import app

ROOT = Path(__file__).parents[1]
PAGE = Path(__file__).parent / "man" / "selfheald.1"

_WHAT_IT_DOES = (
    "It watches folders for databases, checks each without locking it, lets dbt make the tables that are missing on a "
    "private copy, publishes all of them or none, and writes a marker that simulations wait for."
)
#: What the program as a whole reads and writes.
_ENVIRONMENT = {
    "SELFHEALD_CONFIG": "The configuration file, where no --config names one.",
    "SELFHEALD_SECTION__KEY": "A key of the configuration, such as SELFHEALD_LOG__LEVEL. It wins over the file.",
    "DATABASE_PATH": "The database, where a command is given none.",
    "NO_COLOR": "Set to anything: no colours.",
}
_FILES = {
    "simulation.duckdb.ready": "The marker beside a database: it is there only while the database is ready.",
    ".selfheald/": "Beside a database: its status, its history, and logs of dbt.",
    "~/.config/selfheald/selfheald.toml, /etc/selfheald/selfheald.toml": "The configuration, if none is nearer.",
}


def main() -> None:
    """Write the page anew."""
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")


def page() -> str:
    """The whole page, as roff with the macros of man."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    program = typer.main.get_command(app)
    first, *more = _paragraphs(program.help)
    lines = [
        '.\\" Made from the help of the commands by `make reference`.',
        f'.TH SELFHEALD 1 "" "selfheald {version}" "User Commands"',
        ".SH NAME",
        f"selfheald \\- {_text(first.removesuffix('.'))}",
        ".SH SYNOPSIS",
        ".B selfheald",
        "[OPTIONS] COMMAND [ARGS]...",
        ".SH DESCRIPTION",
        *_filled(f"{first} {_WHAT_IT_DOES}"),
        *_prose(more),
        ".SH OPTIONS",
        *_parameters(program),
        ".SH COMMANDS",
    ]
    for words, command in _commands(program):
        lines += [f".SS {_text(' '.join(words))}", *_command(words, command)]
    for title, entries in (("ENVIRONMENT", _ENVIRONMENT), ("FILES", _FILES)):
        lines.append(f".SH {title}")
        for name, meaning in entries.items():
            lines += [".TP", f".B {_text(name)}", *_filled(meaning)]
    lines += [".SH SEE ALSO", ".BR dbt (1),", ".BR systemctl (1),", ".BR journalctl (1)"]
    return "\n".join(lines) + "\n"


def _commands(group: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """All that do something; a group alone does nothing."""
    for name, command in group.commands.items():
        if getattr(command, "commands", None):
            yield from _commands(command, (*words, name))
        else:
            yield (*words, name), command


def _command(words: Sequence[str], command: Any) -> list[str]:
    usage = [f"selfheald {' '.join(words)}", *(["[OPTIONS]"] if _options(command) else [])]
    for argument in (each for each in command.params if each.param_type_name == "argument"):
        name = argument.metavar.strip("[]")
        usage.append(f"[{name}]{'...' if argument.nargs == -1 else ''}")
    if words == ("exec",):
        usage.append("-- COMMAND...")
    said = _paragraphs(command.help) + _paragraphs(command.epilog)
    return [f".B {_text(' '.join(usage))}", *_prose(said), *_parameters(command)]


def _options(command: Any) -> list[Any]:
    return [each for each in command.params if each.param_type_name == "option" and not each.hidden]


def _parameters(command: Any) -> list[str]:
    lines = []
    for each in command.params:
        if each.hidden:
            continue
        if each.param_type_name == "argument":
            term = f".I {_text(each.metavar.strip('[]'))}"
        else:
            value = "" if each.is_flag else f" \\fI{_text(each.metavar or 'NUMBER')}\\fR"
            term = ", ".join(f"\\fB{_text(name)}\\fR" for name in each.opts) + value
        shown = bool(each.show_default) and not isinstance(each.default, bool) and each.default is not None
        meaning = f"{each.help} Default: {_plain(each.default)}." if shown else str(each.help)
        lines += [".TP", term, *_filled(meaning)]
    return lines


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _paragraphs(text: str | None) -> list[str]:
    return [" ".join(part.split()) for part in re.split(r"\n\s*\n", text or "") if part.strip()]


def _prose(paragraphs: Sequence[str]) -> list[str]:
    """Paragraphs; an example stands by itself, as it is typed."""
    lines = []
    for paragraph in paragraphs:
        if paragraph.startswith("Example: "):
            lines += [
                ".PP",
                "Example:",
                ".PP",
                ".RS 4",
                ".EX",
                _text(paragraph.removeprefix("Example: ")),
                ".EE",
                ".RE",
            ]
        else:
            lines += [".PP", *_filled(paragraph)]
    return lines


def _filled(text: str) -> list[str]:
    """A paragraph in lines that are not too long."""
    return [_text(line) for line in textwrap.wrap(text, 72, break_long_words=False, break_on_hyphens=False)]


def _text(text: str) -> str:
    """Words as roff takes them for themselves: no escapes, no requests, hyphens that can be typed."""
    safe = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    safe = safe.replace("^", "\\(ha").replace("~", "\\(ti")
    return f"\\&{safe}" if safe.startswith(".") else safe


if __name__ == "__main__":
    main()
