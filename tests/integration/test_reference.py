"""What is written from the program itself is current: tables of configuration keys, man page, schema."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema  # dbt brings it
import pytest
import typer.main

from selfheald.cli import app
from selfheald.config_model import Config, keys, sections
from selfheald.config_text import template

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "man" / "selfheald.1"
CONFIGURATION = ROOT / "docs" / "configuration.md"


def _script(name: str) -> ModuleType:
    specification = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


class TestConfiguration:
    def test_the_tables_are_those_of_the_model(self) -> None:
        text = CONFIGURATION.read_text(encoding="utf-8")
        assert _script("configuration_tables").renewed(text) == text, "run: make reference"

    def test_each_key_has_its_row(self) -> None:
        known = {f"{section}.{key}" for section, model in sections().items() for key in keys(model)} | {"state_dir"}
        rows = re.findall(r"^\| `([\w.]+)` \| .+? \| `(SELFHEALD_\w+)` \| (.+?) \| .+ \|$", self._text(), re.M)
        assert {key for key, *_ in rows} == known
        assert len(rows) == len(known)
        for key, variable, _ in rows:
            assert variable == f"SELFHEALD_{key.replace('.', '__').upper()}"
        told = {key: value for key, _, value in rows}
        assert told["watch.settle"] == "seconds, 0.01 to 3600"
        assert told["templates.max_bytes"] == "size"
        assert told["watch.heal"] == "`found`, `requested`, `never`"

    def test_a_section_without_a_table_is_noticed(self) -> None:
        text = self._text().replace("<!-- the keys of [retry], made by", "<!-- once made by")
        with pytest.raises(SystemExit, match=r"\[retry\]"):
            _script("configuration_tables").renewed(text)

    @staticmethod
    def _text() -> str:
        return CONFIGURATION.read_text(encoding="utf-8")


class TestSchema:
    """What an editor makes of it."""

    def test_it_takes_what_the_program_takes(self) -> None:
        schema = Config.model_json_schema()
        jsonschema.Draft202012Validator.check_schema(schema)
        commented = template(["/srv/simulations"])
        uncommented = re.sub(r"^#(?! )", "", commented, flags=re.M)
        for text in (commented, uncommented, (ROOT / "examples" / "selfheald.toml").read_text(encoding="utf-8")):
            jsonschema.validate(tomllib.loads(text), schema, jsonschema.Draft202012Validator)

    @pytest.mark.parametrize("text", ["[watch]\nsetle = 1", "[watch]\nsettle = -1", "[log]\nlevel = 1", "roots = []"])
    def test_it_refuses_what_the_program_refuses(self, text: str) -> None:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(tomllib.loads(text), Config.model_json_schema(), jsonschema.Draft202012Validator)


class TestManPage:
    def test_it_is_that_of_the_commands(self) -> None:
        assert _script("man_page").page() == PAGE.read_text(encoding="utf-8"), "run: make reference"

    def test_it_has_every_command_and_option(self) -> None:
        if shutil.which("man") is None:
            pytest.skip("man is not installed")
        shown = subprocess.run(
            ["man", "--no-hyphenation", "--no-justification", "-E", "ascii", "-P", "cat", "-l", str(PAGE)],
            env=os.environ | {"MANWIDTH": "200", "MAN_KEEP_FORMATTING": "", "TERM": "dumb"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        text = re.sub(r".\x08", "", shown)
        for words, command in _commands(typer.main.get_command(app)):
            assert f"selfheald {' '.join(words)}" in text
            for option in (name for each in command.params for name in each.opts if name.startswith("-")):
                assert option in text, option
        assert "selfheald exec [OPTIONS] [DB] -- COMMAND..." in text

    def test_man_has_nothing_to_complain_of(self) -> None:
        if shutil.which("man") is None:
            pytest.skip("man is not installed")
        done = subprocess.run(
            ["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", str(PAGE)],
            env=os.environ | {"LC_ALL": "C.UTF-8"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr == ""

    def test_mandoc_has_nothing_to_complain_of(self) -> None:
        if shutil.which("mandoc") is None:
            pytest.skip("mandoc is not installed")
        done = subprocess.run(["mandoc", "-T", "lint", str(PAGE)], capture_output=True, text=True, check=False)
        # It has no date: one that is written from the commands would have to change without them.
        assert [line for line in done.stdout.splitlines() if "missing date" not in line] == []

    def test_it_is_in_the_wheel_where_man_looks(self) -> None:
        build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]
        assert build["targets"]["wheel"]["shared-data"] == {"docs/man/selfheald.1": "share/man/man1/selfheald.1"}


def _commands(group: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, (*words, name))
        else:
            yield (*words, name), command
