"""What a plan depends on: the dbt project's files, the profile, variables, environment and versions."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfheald.errors import InitializationError, from_os_error

#: What dbt reads of a project. Data, databases and whatever runs leave behind don't count.
_SUFFIXES = frozenset({".sql", ".csv", ".tsv", ".py", ".yml", ".yaml", ".md"})
#: Beside a dbt_project.yml, these are what runs and tools leave; deeper inside, models may be in a folder so named.
_NOT_SOURCE = frozenset({"target", "logs", "venv"})
_NEVER_SOURCE = frozenset({"__pycache__", "node_modules", ".git"})
_PACKAGES = ("dbt_core", "dbt_duckdb", "dbt_adapters", "dbt_common", "duckdb")
_LIBRARIES = ("lib*/python3*/*-packages", "local/lib*/python3*/*-packages", "Lib/*-packages")
_PROJECT_FILE = "dbt_project.yml"
_ENV_VAR = re.compile(r"\benv_var\s*\(\s*(?:'(\w+)'|\"(\w+)\")")
_ENV_VAR_OF_ANY_NAME = re.compile(r"\benv_var\s*\(\s*[^'\"\s]")
#: Stands for an environment variable whose name is found out only when dbt runs.
ANY = "*"
#: Files whose content is remembered; with more, all are read again.
_MANY_FILES = 50_000
_PATH = re.compile(r"[^\s'\",\[\]{}]+")


@dataclass(frozen=True, slots=True)
class Source:
    """A project as it is: a ``digest`` of all that is the same for every database, its files, and the names of the
    environment variables that they ask for."""

    digest: str
    files: tuple[Path, ...]
    environment: frozenset[str]

    def texts(self) -> dict[str, str]:
        """The files that may hold Jinja, by path. Raises ``OSError`` if one has gone."""
        wanted = (path for path in self.files if path.suffix.lower() in (".sql", ".yml", ".yaml"))
        return {str(path): path.read_text(encoding="utf-8", errors="replace") for path in wanted}


@dataclass(frozen=True, slots=True)
class _File:
    identity: tuple[int, int, int]
    digest: str
    environment: frozenset[str]
    paths: tuple[str, ...]


class Fingerprints:
    """Fingerprints of projects; a file's content is read again only when its size, time or inode has changed."""

    def __init__(self) -> None:
        self._known: dict[Path, _File] = {}

    def of(self, project_dir: Path, *, profiles_dir: Path | None, python: str, settings: Mapping[str, Any]) -> str:
        """``sha256:…`` over everything that the plan depends on.

        ``settings`` is whatever else counts (variables, selection, target), as JSON. Raises as :meth:`read`.
        """
        return fingerprint(self.read(project_dir, profiles_dir=profiles_dir, python=python), settings)

    def read(
        self, project_dir: Path, *, profiles_dir: Path | None, python: str, search_path: str | None = None
    ) -> Source:
        """Look at all files of a project, its profile, and the versions that ``python`` has installed.

        ``search_path`` is that interpreter's PYTHONPATH. Raises ``dbt_project_missing`` if there is no
        ``dbt_project.yml``, ``permission_denied`` if a file cannot be read.
        """
        digest = hashlib.sha256()
        found: dict[Path, _File] = {}
        try:
            if not (project_dir / _PROJECT_FILE).is_file():
                raise InitializationError(
                    f"there is no dbt project in {project_dir}",
                    code="dbt_project_missing",
                    path=project_dir / _PROJECT_FILE,
                )
            for name, path in self._project_files(project_dir):
                found[path] = self._file(path)
                digest.update(f"{name}\0{found[path].digest}\n".encode(errors="replace"))
            if profiles_dir is not None and (profile := profiles_dir / "profiles.yml").is_file():
                found[profile] = self._file(profile)
                digest.update(f"profile\0{found[profile].digest}\n".encode())
        except FileNotFoundError:
            return self.read(project_dir, profiles_dir=profiles_dir, python=python, search_path=search_path)
        except OSError as error:
            raise from_os_error(error, error.filename or project_dir, "read") from error
        digest.update(json.dumps([python, *sorted({found.name for found in _installed(python, search_path)})]).encode())
        names = frozenset[str]().union(*(file.environment for file in found.values()))
        return Source(digest.hexdigest(), tuple(found), names)

    def _project_files(self, project_dir: Path) -> Iterator[tuple[str, Path]]:
        """The project's source files in a stable order, those elsewhere too that its ``…-paths`` lead to."""
        seen: set[tuple[int, int]] = set()
        todo = [(project_dir, "")]
        while todo:
            folder, prefix = todo.pop(0)
            for path in _source_files(folder, seen):
                yield f"{prefix}{path.relative_to(folder)}", path
                if path.name == _PROJECT_FILE:
                    todo += _outside(path.parent, project_dir, self._file(path).paths)

    def _file(self, path: Path) -> _File:
        found = path.stat()
        identity = (found.st_ino, found.st_size, found.st_mtime_ns)
        known = self._known.get(path)
        if known is not None and known.identity == identity:
            return known
        content = path.read_bytes()
        text = "" if path.suffix.lower() in (".csv", ".tsv") else content.decode(errors="replace")
        if len(self._known) >= _MANY_FILES:
            self._known.clear()
        paths = tuple(_PATH.findall(text)) if path.name == _PROJECT_FILE else ()
        read = self._known[path] = _File(identity, hashlib.sha256(content).hexdigest(), environment_in(text), paths)
        return read


def environment_in(text: str) -> frozenset[str]:
    """The names of the environment variables that Jinja code asks for, but that of the database's own path."""
    names = frozenset(one or other for one, other in _ENV_VAR.findall(text)) - {"DATABASE_PATH"}
    return names | {ANY} if _ENV_VAR_OF_ANY_NAME.search(text) else names


def fingerprint(source: Source, settings: Mapping[str, Any]) -> str:
    """``sha256:…`` over a project and whatever else counts, as JSON."""
    text = json.dumps(settings, sort_keys=True, default=str)
    return f"sha256:{hashlib.sha256(f'{source.digest}{text}'.encode(errors='replace')).hexdigest()}"


def _source_files(folder: Path, seen: set[tuple[int, int]]) -> Iterator[Path]:
    """The source files in a folder, in a stable order. Links are followed; no folder is seen twice."""
    found = folder.stat()
    if (found.st_dev, found.st_ino) in seen:
        return
    seen.add((found.st_dev, found.st_ino))
    with os.scandir(folder) as listing:
        entries = sorted(listing, key=lambda entry: entry.name)
    names = {entry.name for entry in entries}
    if "pyvenv.cfg" in names:
        return
    is_project = _PROJECT_FILE in names
    for entry in entries:
        if entry.is_dir():
            beside = is_project and (entry.name in _NOT_SOURCE or entry.name.startswith("."))
            if not beside and entry.name not in _NEVER_SOURCE:
                yield from _source_files(Path(entry.path), seen)
        elif _is_source(entry.name) and entry.is_file():
            yield Path(entry.path)


def _is_source(name: str) -> bool:
    # dbt itself writes .user.yml when somebody runs it by hand.
    return name == ".dbtignore" or (Path(name).suffix.lower() in _SUFFIXES and name != ".user.yml")


def _outside(folder: Path, project_dir: Path, paths: Iterable[str]) -> Iterator[tuple[Path, str]]:
    """Folders outside the project that a dbt_project.yml names, such as ``../shared_models``."""
    inside = project_dir.resolve()
    for text in paths:
        if text.startswith("/") or ".." in Path(text).parts:
            place = folder / text
            resolved = place.resolve()
            if place.is_dir() and not resolved.is_relative_to(inside) and not inside.is_relative_to(resolved):
                yield place, f"{text}/"


def installation(python: str, search_path: str | None) -> list[tuple[str, int, int]]:
    """What tells whether an interpreter and the packages that matter are still those that they were."""
    there = []
    for path in {Path(os.path.realpath(python)), *_installed(python, search_path)}:
        with suppress(OSError):
            found = path.stat()
            there.append((str(path), found.st_ino, found.st_mtime_ns))
    return sorted(there)


def _installed(python: str, search_path: str | None) -> set[Path]:
    """The installed versions that matter, as their metadata folders: no import, no process.

    An interpreter that is a link belongs to the environment that the link is in, or else to the one it leads to.
    """
    prefixes = {Path(python).parent.parent, Path(os.path.realpath(python)).parent.parent}
    libraries = [library for prefix in prefixes for pattern in _LIBRARIES for library in _found(prefix, pattern)]
    libraries += [Path(entry) for entry in (search_path or "").split(os.pathsep) if entry.startswith("/")]
    found = {path for library in libraries for name in _PACKAGES for path in _found(library, f"{name}-*-info")}
    return {path for path in found if path.name.endswith((".dist-info", ".egg-info"))}


def _found(folder: Path, pattern: str) -> list[Path]:
    """What fits in a folder; nothing where it may not be looked at: it cannot be imported from there either."""
    try:
        return list(folder.glob(pattern))
    except PermissionError:
        return []
