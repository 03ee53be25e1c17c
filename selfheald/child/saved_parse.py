"""A parse that is kept for the next job: dbt's own partial parsing, made to survive a new database path.

dbt throws a saved parse away when any connection detail has changed, and every job has a database path of
its own. The path matters to parsing only where the project's Jinja reads it from ``target`` (what reads it
from the environment is tracked by dbt itself). So the path is left out of the comparison, unless ``target``
is used in a way that could show it.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any, Collection, Iterator, List

from dbt.artifacts.resources import FileHash
from dbt.contracts.graph.manifest import Manifest
from dbt.parser.manifest import ManifestLoader, extended_mashumuro_decoder
from jinja2 import Environment, TemplateError

#: In YAML a text ends with its line, or later: what follows what looks like an end may still be code.
_IN_YAML = re.compile(r"\{[{%].*?[}%]\}[^\n]*", re.DOTALL)
_LEXER = Environment()
#: Stands for the value of an inert variable; no value can be it.
_INERT = "\0inert"
_SHOWS_TARGET = re.compile(r"\btarget\b(?!\s*\.\s*(?:name|schema|database|type|threads|target_name|profile_name)\b)")
#: The content of a kept parse, and the manifest that is in it.
_remembered: List[Any] = []
_PASSED_OVER = {"target", "logs", "node_modules", "__pycache__", "venv"}


def make_reusable(project_dir: str, database: str, inert: Collection[str] = ()) -> None:
    """From now on, let dbt reuse a parse that was made for another database path, but not another folder.

    ``inert`` are the variables that no parse of this project depends on: it counts that they are there.
    """
    original = ManifestLoader.build_manifest_state_check

    def state_check(loader: Any) -> Any:
        credentials = loader.root_project.credentials
        hide = credentials.path == database and not _shows_path(Path(project_dir))
        variables = loader.root_project.cli_vars
        if hide:
            credentials.path = "DATABASE_PATH"
        loader.root_project.cli_vars = {k: _INERT if k in inert else v for k, v in variables.items()}
        try:
            state = original(loader)
        finally:
            loader.root_project.cli_vars = variables
            if hide:
                credentials.path = database
        # Nodes carry absolute paths: a copy of the project elsewhere must not load the original's seeds.
        place = os.path.realpath(project_dir)
        state.vars_hash = FileHash.from_contents(f"{state.vars_hash.checksum}\0{place}\0{hide}")
        return state

    ManifestLoader.build_manifest_state_check = state_check


def read(kept: str) -> Any:
    """The manifest in a kept parse, whatever it was made for."""
    return Manifest.from_msgpack(Path(kept).read_bytes(), decoder=extended_mashumuro_decoder)


def remember(kept: str) -> None:
    """Let this process's forks begin with what is in a kept parse, as long as the file has the very same content."""
    data = Path(kept).read_bytes()
    _remembered[:] = [data, Manifest.from_msgpack(data, decoder=extended_mashumuro_decoder)]


def recall() -> None:
    """From now on, give what is remembered for the same content once, since whoever gets it changes it."""
    decode = Manifest.from_msgpack

    def from_msgpack(data: Any, *args: Any, **named: Any) -> Any:
        if _remembered and _remembered[0] == data:
            manifest = _remembered[1]
            _remembered.clear()
            return manifest
        return decode(data, *args, **named)

    Manifest.from_msgpack = from_msgpack


def sources(project_dir: Path, *endings: str) -> Iterator[Path]:
    """The files of a project and its packages that hold Jinja, or those with the given endings."""
    for place, folders, files in os.walk(project_dir):
        if "dbt_project.yml" in files:
            folders[:] = [name for name in folders if name not in _PASSED_OVER and not name.startswith(".")]
        folders.sort()
        for name in sorted(files):
            if name.endswith(endings or (".sql", ".yml", ".yaml", ".md")):
                yield Path(place, name)


def keep(made: Path, kept: Path) -> None:
    """Put a parse that dbt has just written in the kept one's place, whole or not at all."""
    if not made.is_file():
        return  # nothing had changed
    descriptor, name = tempfile.mkstemp(prefix=f".{kept.name}.", dir=kept.parent)
    try:
        with os.fdopen(descriptor, "wb") as copy, made.open("rb") as source:
            shutil.copyfileobj(source, copy)
        Path(name).replace(kept)
    except BaseException:
        Path(name).unlink()
        raise


def _shows_path(project_dir: Path) -> bool:
    for file in sources(project_dir):
        try:
            text = file.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return True  # unknown: assume the worst
        if "target" in text and _SHOWS_TARGET.search(_code(text, file.suffix)):
            return True
    return False


def _code(text: str, suffix: str) -> str:
    """The Jinja code in a file."""
    if suffix in (".yml", ".yaml"):
        return "\n".join(_IN_YAML.findall(text))
    try:
        return "".join(value for _, kind, value in _LEXER.lex(text) if kind not in ("data", "comment"))
    except TemplateError:
        return text
