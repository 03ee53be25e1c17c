"""What the documents say: their snippets are run, and what they name exists.

Each ``sh`` and ``python`` block of a document is run, in their order, in one folder that is also the home folder. A
``text`` block behind one is what it must have printed; digits may differ, ``…`` stands for anything, and lines of
progress need not have been seen. A comment before a block may say ``not run: REASON``, ``in the background``, or
``exit code N``.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import typer.main
from fixtures.documents import BLOCK, Block, assert_printed, blocks
from typer.testing import CliRunner

from selfheald.cli import app
from selfheald.client import is_ready
from selfheald.config_model import keys, sections
from selfheald.diagnosis.findings import CHECKS
from selfheald.errors import HINTS, RETRYABLE

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    path
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "dbt/README.md", ROOT / "requirements/README.md")
)
EXAMPLES = ROOT / "examples"
PICTURES = sorted(ROOT.glob("docs/pictures/*.svg"))
UNITS = sorted([*ROOT.glob("systemd/*/*"), *ROOT.glob("launchd/*")])
#: Seconds in which a block must have ended, and what it started must be ready.
DEADLINE = 90.0

_LINK = re.compile(r"(?<!!)\[[^\]]*\]\((?P<target>[^)\s]+)\)|!\[[^\]]*\]\((?P<image>[^)\s]+)\)")


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


# What is run


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which nothing points out of the tests' own folder, and `selfheald` is this interpreter's."""
    folder = tmp_path_factory.mktemp("docs")
    commands = folder / "bin"
    commands.mkdir()
    for name, line in {"selfheald": f'"{sys.executable}" -m selfheald', "python": f'"{sys.executable}"'}.items():
        (commands / name).write_text(f'#!/bin/sh\nexec {line} "$@"\n')
        (commands / name).chmod(0o755)
    foreign = ("SELFHEALD_", "XDG_", "DBT_", "DATABASE_PATH", "PYTHON", "NO_COLOR")
    return {name: value for name, value in os.environ.items() if not name.startswith(foreign)} | {
        "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "error",
        "SELFHEALD_STATE_DIR": str(folder / "state"),
        "SELFHEALD_LOG__FILE": "none",
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Path:
    """The database that the README's reader gets, when all its blocks have been run."""
    with place(tmp_path_factory.mktemp("readme") / "home", environment) as here:
        run_all(ROOT / "README.md", here)
        return here.folder / "workspaces" / "alpha" / "simulation.duckdb"


class Place:
    """The folder in which the blocks of a document are run."""

    def __init__(self, folder: Path, environment: dict[str, str], running: ExitStack) -> None:
        self.folder = folder
        self.environment = environment | {"HOME": str(folder)}
        self._running = running
        self._log = folder.parent / f"{folder.name}.log"

    def run(self, block: Block) -> str:
        """Run a block; what it printed, standard output and error together."""
        command = ["sh", "-eu", "-c", block.text] if block.language == "sh" else [sys.executable, "-c", block.text]
        if block.note == "in the background":
            return self.run_behind(command)
        expected = int(block.note.removeprefix("exit code ")) if block.note.startswith("exit code ") else 0
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=DEADLINE,
        )
        assert done.returncode == expected, f"exit code {done.returncode}:\n{block.text}\n{done.stdout}"
        return done.stdout

    def run_behind(self, command: Sequence[str]) -> str:
        """Start a daemon that runs until the place is left; what it printed until it was ready."""
        self._running.enter_context(_started(command, self.folder, self.environment, self._log))
        return wait_for(self._log, "ready: watching")


@contextmanager
def _started(command: Sequence[str], folder: Path, environment: dict[str, str], log: Path) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield
    finally:
        # The shell of the block has become the daemon, or waits for it: both get the signal.
        os.killpg(process.pid, 15)
        try:
            process.wait(DEADLINE)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def wait_for(log: Path, words: str) -> str:
    end = time.monotonic() + DEADLINE
    while words not in (text := log.read_text(encoding="utf-8")):
        assert time.monotonic() < end, text
        threading.Event().wait(0.05)
    return text


@contextmanager
def place(folder: Path, environment: dict[str, str]) -> Iterator[Place]:
    folder.mkdir()
    with ExitStack() as running:
        yield Place(folder, environment, running)


def test_readme_can_be_followed(finished: Path) -> None:
    assert is_ready(finished)


@pytest.mark.parametrize(
    "document",
    [path for path in DOCUMENTS if path.name != "README.md" and any(block.is_run for block in blocks(path))],
    ids=named,
)
def test_document_can_be_followed(document: Path, tmp_path: Path, environment: dict[str, str], finished: Path) -> None:
    with place(tmp_path / "home", environment) as here:
        workspaces = here.folder / "workspaces"
        (workspaces / "alpha").mkdir(parents=True)
        shutil.copyfile(finished, workspaces / "alpha" / "simulation.duckdb")
        if any("workspaces" in block.text for block in blocks(document) if block.is_run):
            here.run_behind([sys.executable, "-m", "selfheald", "run", str(workspaces)])
        run_all(document, here)


def run_all(document: Path, here: Place) -> None:
    printed: str | None = None
    for block in blocks(document):
        if block.is_run:
            printed = here.run(block)
        elif block.language == "text" and printed is not None:
            assert_printed(block.text, printed, here.folder)
            printed = None
        else:
            printed = None


def test_every_block_that_is_not_run_says_why() -> None:
    notes = [block.note for document in DOCUMENTS for block in blocks(document) if block.language in ("sh", "python")]
    known = re.compile(r"|in the background|exit code \d+|not run( here)?: .+")
    assert [note for note in notes if not known.fullmatch(note)] == []


# Examples


def test_shell_client(tmp_path: Path, environment: dict[str, str], finished: Path) -> None:
    root = tmp_path / "root"
    for name in ("ready", "foreign"):
        (root / name).mkdir(parents=True)
    shutil.copyfile(finished, root / "ready" / "simulation.duckdb")
    (root / "foreign" / "simulation.duckdb").write_bytes(b"something else")
    alone = tmp_path / "alone"
    alone.mkdir()
    # This one takes its five seconds meanwhile.
    nobody = _shell_client(alone / "simulation.duckdb", environment)
    with ExitStack() as running:
        daemon = Place(root, environment, running)
        daemon.run_behind([sys.executable, "-m", "selfheald", "run", str(root)])
        ready = root / "ready" / "simulation.duckdb"
        assert _ended(_shell_client(ready, environment)) == (0, "")
        code, told = _ended(_shell_client(root / "foreign" / "simulation.duckdb", environment))
        assert code == 1
        assert "is not a DuckDB database" in told
    # Without a daemon it still believes a marker that is about the very file, and no other.
    assert _ended(_shell_client(ready, environment)) == (0, "")
    code, told = _ended(nobody)
    assert code == 4
    assert "no daemon" in told
    assert list(alone.iterdir()) == []


def _shell_client(database: Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    command = ["sh", str(EXAMPLES / "wait.sh"), str(database), "60"]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def _ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    with process:
        try:
            _, told = process.communicate(timeout=DEADLINE)
        finally:
            process.kill()
    return process.returncode, told


def test_hook_waits_for_the_daemon(tmp_path: Path, environment: dict[str, str], finished: Path) -> None:
    with place(tmp_path / "home", environment) as here:
        shutil.copyfile(finished, here.folder / "simulation.duckdb")
        here.run_behind([sys.executable, "-m", "selfheald", "run", str(here.folder)])
        hook = f"python {EXAMPLES / 'pre_simulation_hook.py'}"
        assert "is ready (adopted)" in here.run(Block("sh", f"{hook} simulation.duckdb", "", 0))
        (here.folder / "simulation.duckdb").write_bytes(b"something else")
        assert "not_a_database" in here.run(Block("sh", f"{hook} simulation.duckdb", "exit code 1", 0))


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=named)
def test_example_tells_how_it_is_used(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    compile(text, str(path), "exec")
    assert f"python examples/{path.name}" in text


def test_protocol_shows_the_shell_client_as_it_is() -> None:
    shown = [block.text for block in blocks(ROOT / "docs/marker-protocol.md")]
    assert (EXAMPLES / "wait.sh").read_text(encoding="utf-8") in shown


# What is named


def _commands(group: Any, words: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    inner = getattr(group, "commands", {})
    return {words}.union(*(_commands(command, (*words, name)) for name, command in inner.items()))


COMMANDS = _commands(typer.main.get_command(app))


def mentions(text: str) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """Each ``selfheald …`` in code: the words of the command, and its options (those behind ``--`` are another's)."""
    for found in re.finditer(r"(?:^|[\s`(|;&/])selfheald((?:[ \t]+[^\s`|;&#)]+)*)", text, re.MULTILINE):
        given = found[1].split()
        given = given[: given.index("--")] if "--" in given else given
        words: list[str] = []
        while given and re.fullmatch(r"[a-z]+", given[0]) and (not words or words in (["config"], ["service"])):
            words.append(given.pop(0))
        yield tuple(words), [word.partition("=")[0].rstrip(".,:") for word in given if word.startswith("--")]


def code_of(document: Path) -> str:
    """The code of a document: spans and blocks, but not what a program printed."""
    text = document.read_text(encoding="utf-8")
    fenced = [block.text for block in blocks(document) if block.language in ("sh", "toml")]
    spans = re.findall(r"`([^`\n]+)`", BLOCK.sub("", text))
    return "\n".join([*fenced, *spans])


def test_mentions_are_found() -> None:
    text = "`selfheald wait --or-ensure` | selfheald config init FILE --force # --not\nselfheald exec DB -- sh --login"
    assert list(mentions(text)) == [
        (("wait",), ["--or-ensure"]),
        (("config", "init"), ["--force"]),
        (("exec",), []),
    ]


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_commands_and_options_exist(document: Path) -> None:
    assert_exist(code_of(document))


@pytest.mark.parametrize("unit", UNITS, ids=named)
def test_commands_and_options_of_the_units_exist(unit: Path) -> None:
    text = " ".join(line.strip("# ") for line in unit.read_text(encoding="utf-8").splitlines())
    spans = re.findall(r"`(selfheald [^`]+)`", text)
    assert spans
    assert_exist("\n".join(spans))


def assert_exist(text: str) -> None:
    for words, options in mentions(text):
        assert words in COMMANDS or not words, f"selfheald {' '.join(words)}"
        help_text = _help(words)
        for option in options:
            assert option in help_text, f"selfheald {' '.join(words)} {option}"


def _help(words: Sequence[str]) -> str:
    return CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "200", "TERM": "dumb"}).output


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_configuration_keys_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    known = {f"{section}.{key}" for section, model in sections().items() for key in keys(model)}
    named_keys = set(re.findall(rf"`((?:{'|'.join(sections())})\.[a-z_]+)`", text)) - {"dbt.log"}  # a file's name
    assert named_keys <= known
    variables = set(re.findall(r"SELFHEALD_([A-Z]+)__([A-Z_]+?)(?=__|[^A-Z_]|$)", text))
    for section, key in variables - {("SECTION", "KEY")}:
        assert f"{section.lower()}.{key.lower()}" in known


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_toml_blocks_are_valid(document: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    for block in blocks(document):
        if block.language == "toml":
            file = tmp_path / "selfheald.toml"
            file.write_text(block.text, encoding="utf-8")
            done = CliRunner().invoke(app, ["config", "validate", "--config", str(file)], env={"HOME": str(tmp_path)})
            assert done.exit_code == 0, done.output


def test_make_help_is_shown_as_it_is() -> None:
    done = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout in [block.text for block in blocks(ROOT / "CONTRIBUTING.md")]


def test_errors_are_all_there() -> None:
    rows = _rows(ROOT / "docs/errors.md")
    assert list(rows) == list(HINTS)
    assert {code for code, cells in rows.items() if cells[-1] == "yes"} == RETRYABLE
    assert {cells[-1] for cells in rows.values()} == {"yes", "no"}


def test_findings_are_all_there() -> None:
    assert tuple(_rows(ROOT / "docs/doctor.md")) == CHECKS


def test_status_keys_are_all_there() -> None:
    from selfheald.marker import Status
    from selfheald.workspace import Database

    text = (ROOT / "docs/marker-protocol.md").read_text(encoding="utf-8")
    table = text[text.index("## Status") : text.index("## Locks")]
    shown = re.findall(r"`([a-z_]+)`", "\n".join(line.split("|")[1] for line in table.splitlines() if line[:2] == "| "))
    assert sorted(shown) == sorted(Status(Database(Path("/nowhere/simulation.duckdb"))).record)


def _rows(document: Path) -> dict[str, list[str]]:
    """The rows of a document's tables whose first cell is a name in code."""
    lines = document.read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `")]
    return {row[0].strip("`"): row for row in cells}


def test_map_has_every_module_once_and_imports_go_downward() -> None:
    layer_of: dict[str, int] = {}
    layers: list[str] = []
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    for line in text[text.index("## Module map") : text.index("## Why")].splitlines():
        row = re.fullmatch(r"\| (\w*) ?\| `([\w/]+)` \| .+ \|", line)
        if row is not None:
            layers += [row[1]] if row[1] else []
            assert row[2] not in layer_of
            layer_of[row[2]] = len(layers)
    package = ROOT / "selfheald"
    modules = {str(path.relative_to(package).with_suffix("")): path for path in package.rglob("*.py")}
    assert layer_of.keys() == modules.keys()
    for name, path in modules.items():
        if name == "__init__":  # names that are loaded when they are used
            continue
        for imported in re.findall(
            r"^ *from selfheald(?:\.([\w.]+))? import ([\w, ]+)", path.read_text(), re.MULTILINE
        ):
            for other in _modules_of(imported[0], imported[1], modules):
                assert layer_of[other] >= layer_of[name], f"{name} imports {other}"


def _modules_of(package: str, names: str, modules: dict[str, Any]) -> set[str]:
    folder = package.replace(".", "/")
    for module in (folder, f"{folder}/__init__"):
        if module in modules:
            return {module}
    inner = {f"{folder}/{name.strip()}".lstrip("/") for name in names.split(",")}
    return {name for name in inner if name in modules}


# Links and places


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_links_lead_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for found in _LINK.finditer(BLOCK.sub("", text)):
        target = found["target"] or found["image"]
        if re.match(r"https?:", target):
            continue
        place, _, anchor = target.partition("#")
        file = (document.parent / place).resolve() if place else document
        assert file.exists(), target
        if anchor:
            assert anchor in _anchors(file), target


def _anchors(document: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", BLOCK.sub("", document.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "path",
    [*DOCUMENTS, *UNITS, ROOT / "docs/flow.svg", *PICTURES, *sorted(filter(Path.is_file, EXAMPLES.iterdir()))],
    ids=named,
)
def test_no_path_of_a_machine(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert re.findall(r"/(?:work|root|Users)/\S*|/tmp/\w\S*|/home/(?!planning)\w\S*", text) == []


def test_no_document_has_trailing_space() -> None:
    for document in DOCUMENTS:
        for number, line in enumerate(document.read_text(encoding="utf-8").splitlines(), 1):
            assert line == line.rstrip(), f"{named(document)}:{number}"


@pytest.mark.parametrize("picture", PICTURES, ids=named)
def test_a_picture_is_whole_and_needs_nothing_from_elsewhere(picture: Path) -> None:
    text = picture.read_text(encoding="utf-8")
    assert ElementTree.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"
    assert re.findall(r"https?://(?!www\.w3\.org/)\S+|url\((?!#)", text) == []
    assert f"docs/pictures/{picture.name}" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_pictures_are_those_that_are_drawn() -> None:
    source = (ROOT / "docs" / "pictures.py").read_text(encoding="utf-8")
    assert {f'"{picture.stem}": [' for picture in PICTURES} == set(re.findall(r'"\w+": \[', source))
