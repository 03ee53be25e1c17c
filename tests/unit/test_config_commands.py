"""`selfheald config`: what its commands print, write and refuse."""

from __future__ import annotations

import json
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.main import get_command

from selfheald.cli.config_commands import app
from selfheald.config import Config, load_config
from selfheald.errors import InitializationError


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    tmp_path.chmod(0o700)
    monkeypatch.setenv("SELFHEALD_CONFIG", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)


@dataclass
class Result:
    exit_code: int
    stdout: str
    stderr: str


class Run:
    """Runs a command in this process; a configuration error comes out of it, as it does to the boundary."""

    def __init__(self, captured: pytest.CaptureFixture[str]) -> None:
        self.captured = captured

    def __call__(self, *arguments: str) -> Result:
        with pytest.raises(SystemExit) as ended:
            get_command(app).main(args=list(arguments), prog_name="selfheald config")
        output = self.captured.readouterr()
        return Result(int(ended.value.code or 0), output.out, output.err)

    def refused(self, *arguments: str) -> InitializationError:
        with pytest.raises(InitializationError) as raised:
            get_command(app).main(args=list(arguments), prog_name="selfheald config")
        assert raised.value.code == "config_invalid"
        assert raised.value.hint
        return raised.value


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(capsys)


def test_show_is_toml_and_json(tmp_path: Path, run: Run) -> None:
    (tmp_path / "my.toml").write_text("[dbt]\nenv.TOKEN = 's3cret'\n[history]\nkeep = 9\n")
    result = run("show", "--config", "my.toml")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"# {tmp_path}/my.toml\n")
    assert tomllib.loads(result.stdout)["history"]["keep"] == 9
    result = run("show", "--config", "my.toml", "--json")
    document = json.loads(result.stdout)
    assert document["file"] == str(tmp_path / "my.toml")
    assert document["config"]["dbt"]["env"] == {"TOKEN": "<hidden>"}
    assert document["origins"] == {"dbt.env.TOKEN": "file", "history.keep": "file"}
    assert document["error"] is None
    assert "s3cret" not in result.stdout + result.stderr


def test_validate_names_the_file_and_warns_on_stderr(tmp_path: Path, run: Run) -> None:
    (tmp_path / "selfheald.toml").write_text("[watch]\nroots = ['missing']\n")
    (tmp_path / "selfheald.toml").chmod(0o644)
    result = run("validate")
    assert (result.exit_code, result.stdout) == (0, f"OK: {tmp_path}/selfheald.toml\n")
    assert f"watch.roots: {tmp_path}/missing is not a folder" in result.stderr


def test_validate_says_what_was_passed_over(tmp_path: Path, run: Run) -> None:
    (tmp_path / "selfheald.toml").write_text("")
    (tmp_path / "selfheald.toml").chmod(0o666)
    result = run("validate")
    assert result.stdout == "OK: no configuration file; environment and defaults\n"
    assert f"passed over {tmp_path}/selfheald.toml: others can write to it" in result.stderr


@pytest.mark.parametrize("command", ["show", "validate"])
def test_errors_are_raised_to_the_boundary(command: str, tmp_path: Path, run: Run) -> None:
    (tmp_path / "my.toml").write_text("[watch]\nsetle = 1\n")
    error = run.refused(command, "--config", "my.toml")
    assert error.message == f"{tmp_path}/my.toml:2: watch.setle: unknown key; did you mean watch.settle?"


def test_schema_is_json(run: Run) -> None:
    assert json.loads(run("schema").stdout)["title"] == "selfheald.toml"


def test_init_writes_a_file_that_counts(tmp_path: Path, run: Run) -> None:
    before = os.umask(0o002)
    try:
        result = run("init")
    finally:
        os.umask(before)
    assert result.exit_code == 0
    assert result.stdout == f"Wrote {tmp_path}/selfheald.toml\n"
    assert load_config() == Config()
    assert load_config().sources.file == tmp_path / "selfheald.toml"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["selfheald.toml"]


def test_init_replaces_only_when_told(tmp_path: Path, run: Run) -> None:
    file = tmp_path / "selfheald.toml"
    file.write_text("mine")
    assert "exists already" in run.refused("init", str(file)).message
    assert file.read_text() == "mine"
    assert run("init", str(file), "--force").exit_code == 0
    assert load_config(file) == Config()
    assert [path.name for path in tmp_path.iterdir()] == ["selfheald.toml"]


def test_init_takes_a_folder_and_makes_those_above(tmp_path: Path, run: Run) -> None:
    assert run("init", str(tmp_path)).exit_code == 0
    assert (tmp_path / "selfheald.toml").is_file()
    assert run("init", "--config", "a/b/c.toml").exit_code == 0
    assert (tmp_path / "a/b/c.toml").is_file()
    assert run("init", "a", "--config", "b").exit_code == 2
    (tmp_path / "plain").touch()
    assert "cannot be written" in run.refused("init", "plain/c.toml").message


@pytest.mark.parametrize("command", ["show", "validate", "schema", "init"])
def test_help_has_an_example(command: str, run: Run) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"Example: selfheald config {command}" in result.stdout
