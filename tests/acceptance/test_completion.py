"""Completion in real shells: what TAB makes of half a command line."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from fixtures.waiting import DEADLINE, wait_for
from program import with_program
from terminals import Screen, terminal

#: How each shell is started without anybody's settings, and what is typed to read a script of completions.
SHELLS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], "PS1='rea''dy '; source ./completion"),
    "zsh": (["zsh", "-f", "-i"], "autoload -U compinit; compinit -u -D; source ./completion; PS1='rea''dy '"),
}
#: What is typed, and what must stand there after TAB.
COMPLETED = {
    "selfheald wa": "selfheald wait ",
    "selfheald config va": "selfheald config validate ",
    "selfheald ensure --dry": "selfheald ensure --dry-run ",
    "selfheald logs --level WA": "selfheald logs --level WARNING ",
    "selfheald wait works": "selfheald wait workspaces/",
    "selfheald run workspaces/al": r"selfheald run workspaces/alpha\ one/",
    "selfheald status --config my": "selfheald status --config my.toml ",
    "selfheald exec workspaces -- ./sim": "selfheald exec workspaces -- ./simulate.sh ",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder with workspaces, a configuration, and selfheald on its PATH."""
    home = tmp_path_factory.mktemp("completion")
    (home / "workspaces" / "alpha one").mkdir(parents=True)
    (home / "my.toml").touch()
    (home / "simulate.sh").write_text("#!/bin/sh\n")
    (home / "simulate.sh").chmod(0o755)
    return home


def _environment(home: Path, environment: Mapping[str, str]) -> dict[str, str]:
    return with_program(home / "bin", environment) | {"HOME": str(home), "TERM": "dumb", "COLUMNS": "200"}


def _script(shell: str, home: Path, environment: Mapping[str, str]) -> Path:
    """The script, as packagers get it; skips where the shell is not installed."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    done = subprocess.run(
        ["selfheald"],
        env=_environment(home, environment) | {"_SELFHEALD_COMPLETE": f"source_{shell}"},
        capture_output=True,
        text=True,
        check=True,
        timeout=DEADLINE,
    )
    script = home / "completion"
    script.write_text(done.stdout)
    return script


@contextmanager
def _typing(shell: str, home: Path, environment: Mapping[str, str]) -> Iterator[Screen]:
    """A shell that has read the script and waits for a command."""
    _script(shell, home, environment)
    words, reading = SHELLS[shell]
    with terminal(words, _environment(home, environment), folder=home) as screen:
        screen.send(f"{reading}\n")
        screen.expect("ready ")
        yield screen


def _shown(screen: Screen) -> str:
    """The last line, as it stands there once the cursor has gone back and forth over it."""
    screen.read()
    line: list[str] = []
    place = 0
    for character in screen.text.rpartition("\n")[2]:
        if character in "\b\r":
            place = max(0, place - 1) if character == "\b" else 0
        elif character >= " ":
            line[place:] = [character, *line[place + 1 :]]
            place += 1
    return "".join(line).rstrip()


@pytest.mark.parametrize("shell", SHELLS)
def test_tab(shell: str, home: Path, environment: dict[str, str]) -> None:
    """In a terminal: commands, sub-commands, options, values, and paths with what a shell needs before a blank."""
    with _typing(shell, home, environment) as screen:
        for typed, completed in COMPLETED.items():
            screen.send(f"{typed}\t#")
            shown = partial(_shown, screen)
            wait_for(lambda: shown().endswith(f"{completed}#"), what=shown)  # noqa: B023 - called here alone
            screen.text = ""
            screen.send("\x15\n")
            screen.expect("ready ")
        screen.send("selfheald service \t\t")
        for name in ("install", "uninstall", "show"):
            screen.expect(name)
        assert "my.toml" not in screen.text


def test_fish(home: Path, environment: dict[str, str]) -> None:
    """By the function that draws its pager."""
    script = _script("fish", home, environment)

    def candidates(line: str) -> list[str]:
        done = subprocess.run(
            ["fish", "--no-config", "-c", f"source {script}; complete -C '{line}'"],
            cwd=home,
            env=_environment(home, environment),
            capture_output=True,
            text=True,
            check=True,
            timeout=DEADLINE,
        )
        assert done.stderr == ""
        return [found.partition("\t")[0] for found in done.stdout.splitlines()]

    for typed, completed in list(COMPLETED.items())[1::2]:
        word = completed.rpartition(" ")[2] or completed.split(" ")[-2]
        assert candidates(typed) == [word if "\\" not in completed else "workspaces/alpha one/"], typed
    assert candidates("selfheald service ") == ["install", "show", "uninstall"]


def test_it_is_quick_and_reads_no_configuration(home: Path, environment: dict[str, str]) -> None:
    """Completion must not trip over what a command would refuse: a configuration that is wrong, say."""
    (home / "selfheald.toml").write_text("[watch]\nroots = 7\n")
    asked = {"_SELFHEALD_COMPLETE": "complete_bash", "COMP_WORDS": "selfheald wai", "COMP_CWORD": "1"}
    try:
        done = subprocess.run(
            ["selfheald"],
            cwd=home,
            env=_environment(home, environment) | asked,
            capture_output=True,
            text=True,
            check=True,
            timeout=DEADLINE,
        )
    finally:
        (home / "selfheald.toml").unlink()
    assert (done.stdout, done.stderr) == ("wait\n", "")


def test_it_installs_itself_once(home: Path, environment: dict[str, str]) -> None:
    """By the option of the program itself, started from a shell, which it recognizes."""
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    for _ in range(2):
        done = subprocess.run(
            ["bash", "--norc", "-c", "selfheald --install-completion; echo $?"],
            env=_environment(home, environment) | {"SHELL": "/bin/bash"},
            capture_output=True,
            text=True,
            check=True,
            timeout=DEADLINE,
        )
        assert done.stdout.splitlines()[-1] == "0", done.stdout + done.stderr
    settings = (home / ".bashrc").read_text()
    assert settings.count("selfheald") == 1
    [source] = [line for line in settings.splitlines() if "selfheald" in line]
    script = Path(source.split("'")[1]).read_text()
    assert script.strip().endswith("complete -o default -F _selfheald_completion selfheald")
