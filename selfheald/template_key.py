"""What a template is known by: everything that the finished database depends on, the content of files included.

The plan's fingerprint covers the project, its seeds, variables, environment, selection and versions; here it is joined
by the files that a variable's value names or that ``templates.inputs`` lists, and by how the database is made.
"""

from __future__ import annotations

import ast
import glob
import hashlib
import json
import os
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from selfheald.config import Config, render
from selfheald.marker import installed_version
from selfheald.plan import Plan
from selfheald.planner import Settings
from selfheald.recent import Recent
from selfheald.workspace import Database

#: Changed whenever what is kept under a key could mean something else.
KEY_FORMAT = 1
#: With more declared files than this, no template is kept.
MOST_FILES = 10_000
#: Of so many files the digest is remembered.
REMEMBERED_FILES = 10_000
#: Longer text, or such with other characters than a path has, names no file.
_LONGEST_PATH = 1024
#: So often is a file read that changes while it is read.
_TRIES = 3
#: A file that was written so lately could be written again and look the same (FAT counts 2 s).
_SETTLED_NS = 2_050_000_000
_READ_BYTES = 1 << 20
_GLOB = frozenset("*?[")
#: What :func:`selfheald.variables.as_jinja_text` makes of a brace.
_BRACE = "{{ '{' }}"

_Stamp = tuple[int, int, int, int, int]


class UnkeyedError(Exception):
    """No key can be had: the reason, for a person."""


class FileDigests:
    """The digests of files; a file is read again only when its stamps have changed."""

    def __init__(self) -> None:
        self._known: Recent[str, tuple[_Stamp, str]] = Recent(REMEMBERED_FILES)

    def of(self, path: str) -> str:
        """The SHA-256 of a file's content. Raises :class:`UnkeyedError` if it cannot be read, or never holds still."""
        try:
            for _ in range(_TRIES):
                before = _stamp(os.stat(path))
                known = self._known.get(path)
                if known is not None and known[0] == before:
                    return known[1]
                digest, after = _read(path)
                if before == after:
                    if time.time_ns() - max(after[3:]) > _SETTLED_NS:
                        self._known[path] = (after, digest)
                    return digest
        except OSError as error:
            raise UnkeyedError(f"{path} cannot be read: {error.strerror}") from error
        raise UnkeyedError(f"{path} changes while it is read")


@dataclass(frozen=True, slots=True)
class TemplateKey:
    """``text`` names the template; ``files`` are the absolute paths of the files whose content counts."""

    text: str
    files: tuple[str, ...]


def template_key(
    config: Config, database: Database, plan: Plan, settings: Settings, digests: FileDigests
) -> TemplateKey:
    """The key of the template that a database may be made from. Reads files; raises :class:`UnkeyedError`."""
    files = declared_files(config, database, plan, settings)
    dbt = config.dbt
    return TemplateKey(_key({
        "format": KEY_FORMAT,
        "version": installed_version(),
        "fingerprint": plan.fingerprint,
        "project_dir": str(settings.project_dir),
        "profiles_dir": str(settings.profiles_dir),
        "versions": dict(plan.versions),
        "catalog": database.path.stem,
        "required": [[table.schema, table.name, table.tier.value, table.columns] for table in plan.required],
        "target": dbt.target,
        "threads": dbt.threads,
        "storage_version": dbt.storage_version,
        "pre_sql": dbt.pre_sql,
        "files": [[path, digests.of(path)] for path in files],
    }), files)  # fmt: skip


def declared_files(config: Config, database: Database, plan: Plan, settings: Settings) -> tuple[str, ...]:
    """The files that a variable's value names, or that ``templates.inputs`` lists, as sorted absolute paths.

    A value is a path, or a glob: absolute, or relative to the project, or to the folder that we run in, as DuckDB takes
    it. Of the project's own defaults those count that no other value replaces. Raises :class:`UnkeyedError` where there
    are too many.
    """
    values = {**_defaults(plan.variables), **settings.variables}
    texts = [text for text in _texts(values.values()) if _may_be_path(text)]
    patterns = [os.path.join(folder, text) for folder in (str(settings.project_dir), _own_folder()) for text in texts]
    inputs = render(list(config.templates.inputs), str(database.workspace), str(database.path))
    found = {path for pattern in (*patterns, *inputs) for path in _matching(pattern)}
    if len(found) > MOST_FILES:
        raise UnkeyedError(f"the variables and templates.inputs name more than {MOST_FILES} files")
    return tuple(sorted(found))


def _own_folder() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError as error:
        raise UnkeyedError("the folder that selfheald was started in is gone") from error


def _defaults(text: str) -> dict[str, Any]:
    """The variables of a dbt_project.yml, which the plan has as the text of a dictionary."""
    try:
        found = ast.literal_eval(text) if text else {}
    except (ValueError, SyntaxError, RecursionError):
        return {"": text}
    return found if isinstance(found, dict) else {}


def _texts(values: Iterable[Any]) -> Iterator[str]:
    for value in values:
        if isinstance(value, str):
            yield value
            if _BRACE in value:
                yield value.replace(_BRACE, "{")
        elif isinstance(value, Mapping):
            yield from _texts(value.values())
        elif isinstance(value, (list, tuple)):
            yield from _texts(value)


def _may_be_path(text: str) -> bool:
    return 0 < len(text) <= _LONGEST_PATH and text.isprintable() and "://" not in text


def _matching(pattern: str) -> Iterator[str]:
    """The regular files of a path or a glob; a path that is there is no glob, whatever is in it."""
    if os.path.lexists(pattern) or not _GLOB.intersection(pattern):
        matches: Iterable[str] = (pattern,)
    else:
        matches = islice(glob.iglob(pattern, recursive=True, include_hidden=True), MOST_FILES + 1)
    for path in matches:
        if os.path.isfile(path):
            yield os.path.abspath(path)


def _read(path: str) -> tuple[str, _Stamp]:
    digest = hashlib.sha256()
    with Path(path).open("rb", buffering=0) as file:
        before = _stamp(os.fstat(file.fileno()))
        while block := file.read(_READ_BYTES):
            digest.update(block)
        after = _stamp(os.fstat(file.fileno()))
    # Under the path there may be another file by now.
    return digest.hexdigest(), after if before == after == _stamp(os.stat(path)) else (0, 0, 0, 0, 0)


def _stamp(found: os.stat_result) -> _Stamp:
    if not stat.S_ISREG(found.st_mode):
        raise OSError(0, "it is no regular file")
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _key(parts: Mapping[str, Any]) -> str:
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
