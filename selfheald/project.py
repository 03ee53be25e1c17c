"""What a plan depends on: the dbt project's files, the profile, variables, environment and versions."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from selfheald.errors import InitializationError, from_os_error

#: What dbt reads of a project. Data, databases and whatever runs leave behind don't count.
_SUFFIXES = frozenset({".sql", ".csv", ".tsv", ".py", ".yml", ".yaml", ".md"})
_NOT_SOURCE = frozenset({"target", "logs", "node_modules", "__pycache__", "venv"})
_PACKAGES = ("dbt_core", "dbt_duckdb", "dbt_adapters", "duckdb")


class Fingerprints:
    """Fingerprints of projects; a file's content is read again only when its size, time or inode has changed."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[tuple[int, int, int], str]] = {}

    def of(self, project_dir: Path, *, profiles_dir: Path | None, python: str, settings: Mapping[str, Any]) -> str:
        """``sha256:…`` over everything that the plan depends on.

        ``settings`` is whatever else counts (variables, selection, target), as JSON. Raises ``dbt_project_missing``
        if there is no ``dbt_project.yml``, ``permission_denied`` if a file cannot be read.
        """
        digest = hashlib.sha256()
        try:
            if not (project_dir / "dbt_project.yml").is_file():
                raise InitializationError(
                    f"there is no dbt project in {project_dir}",
                    code="dbt_project_missing",
                    path=project_dir / "dbt_project.yml",
                )
            for path in _project_files(project_dir):
                digest.update(f"{path.relative_to(project_dir)}\0{self._hash(path)}\n".encode(errors="replace"))
            if profiles_dir is not None and (profiles_dir / "profiles.yml").is_file():
                digest.update(f"profile\0{self._hash(profiles_dir / 'profiles.yml')}\n".encode())
        except FileNotFoundError:
            return self.of(project_dir, profiles_dir=profiles_dir, python=python, settings=settings)
        except OSError as error:
            raise from_os_error(error, error.filename or project_dir, "read") from error
        digest.update(json.dumps([python, *_versions(python)]).encode())
        digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
        return f"sha256:{digest.hexdigest()}"

    def _hash(self, path: Path) -> str:
        found = path.stat()
        identity = (found.st_ino, found.st_size, found.st_mtime_ns)
        known = self._known.get(path)
        if known is not None and known[0] == identity:
            return known[1]
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        self._known[path] = (identity, content)
        return content


def _project_files(folder: Path) -> Iterator[Path]:
    """The project's source files in a stable order."""
    with os.scandir(folder) as listing:
        entries = sorted(listing, key=lambda entry: entry.name)
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            if entry.name not in _NOT_SOURCE and not entry.name.startswith("."):
                yield from _project_files(Path(entry.path))
        elif _is_source(entry.name) and entry.is_file():
            yield Path(entry.path)


def _is_source(name: str) -> bool:
    # dbt itself writes .user.yml when somebody runs it by hand.
    return name == ".dbtignore" or (Path(name).suffix.lower() in _SUFFIXES and name != ".user.yml")


def _versions(python: str) -> list[str]:
    """The installed versions that matter, as the names of their metadata folders: no import, no process."""
    libraries = Path(python).parent.parent.glob("lib*/python3*/site-packages")
    return sorted(
        {found.name for library in libraries for name in _PACKAGES for found in library.glob(f"{name}-*.dist-info")}
    )
