"""`--help`: each command says what it is for, its exit codes and an example, and nothing in an example is invented."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from selfheald.cli import app
from selfheald.cli.wait import split_command


def _walk(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield words, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from _walk(inner, (*words, name))


COMMANDS = dict(_walk(typer.main.get_command(app)))


def _help(words: tuple[str, ...]) -> str:
    done = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert done.exit_code == 0
    return done.output


def _examples(text: str) -> list[str]:
    return [found[1].strip() for found in re.finditer(r"Example: (.*)", text)]


def test_there_are_commands_and_sub_commands() -> None:
    assert {(), ("wait",), ("config",), ("config", "schema"), ("service", "install")} <= COMMANDS.keys()


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words) or "selfheald")
class TestEach:
    def test_it_says_what_it_does_how_it_ends_and_gives_an_example(self, words: tuple[str, ...]) -> None:
        text = _help(words)
        assert str(COMMANDS[words].help).splitlines()[0] in " ".join(text.split())
        assert re.search(r"Exit codes: (0 \w+|the command's)", text), text
        assert len(_examples(text)) == 1, text

    def test_its_example_is_one_of_it_and_can_be_typed(self, words: tuple[str, ...]) -> None:
        [example] = _examples(_help(words))
        given = shlex.split(example, comments=True)
        given = given[given.index("selfheald") + 1 :]
        given = given[: given.index(">")] if ">" in given else given
        assert tuple(given[: len(words)]) == words
        ours, _ = split_command(given)
        inner = next(COMMANDS[tuple(ours[:count])] for count in (2, 1) if tuple(ours[:count]) in COMMANDS)
        known = {option for parameter in inner.params for option in parameter.opts}
        assert {word.partition("=")[0] for word in ours if re.match(r"--?[a-z]", word)} <= known

    def test_every_option_has_a_help_text(self, words: tuple[str, ...]) -> None:
        silent = [parameter.name for parameter in COMMANDS[words].params if not parameter.help]
        assert silent == []
