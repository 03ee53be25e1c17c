"""The configuration file: which one counts, what it says, and on which line."""

from __future__ import annotations

import os
import re
import shlex
import stat
import tomllib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs

from selfheald.errors import InitializationError

FILE_NAME = "selfheald.toml"
#: A larger file is no configuration (bytes).
MAX_BYTES = 1 << 20
#: Files with more lines than this are not searched for the line of a key: the search is quadratic.
MAX_LINES = 3000
#: The keys whose relative paths count from the file's folder.
PATHS = (
    ("watch", "roots"),
    ("dbt", "project_dir"),
    ("dbt", "profiles_dir"),
    ("dbt", "python"),
    ("dbt", "vars_command"),
    ("templates", "inputs"),
    ("templates", "dir"),
    ("log", "file"),
    ("state_dir",),
)


@dataclass(frozen=True)
class Found:
    """A configuration file's ``path``, text and content; all empty where there is none.

    ``notices`` tell of files that were passed over on the way.
    """

    path: Path | None = None
    text: str = ""
    data: Mapping[str, Any] | None = None
    notices: tuple[str, ...] = ()


def find(explicit: str | os.PathLike[str] | None, service_folder: str | None = None) -> Found:
    """The file that counts: ``explicit`` alone if given, else the first that may be trusted.

    Looked through are the working folder, ``service_folder`` (systemd's), the user's configuration folder,
    ``/etc/selfheald`` and the platform's site folder. A file found there counts only if nobody but the caller
    and root can have written it, since it names commands. Raises ``config_invalid`` if the file that counts
    cannot be read or is not TOML.
    """
    if explicit is not None:
        path = Path(explicit).absolute()
        try:
            return _parse(path, _read(path), ())
        except OSError as error:
            raise _invalid(path, f"cannot be read: {error.strerror or error}") from None
    notices: list[str] = []
    for path in _candidates(service_folder):
        try:
            content = _read_trusted(path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except _UntrustedError as error:
            notices.append(f"passed over {path}: {error}; to use it all the same, name it with --config")
            continue
        except OSError as error:
            notices.append(f"passed over {path}: {error.strerror or error}")
            continue
        return _parse(path, content, tuple(notices))
    return Found(notices=tuple(notices))


def anchor(data: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """``data`` with the relative paths of all keys in :data:`PATHS` counted from ``folder``."""
    anchored = {name: dict(section) if isinstance(section, Mapping) else section for name, section in data.items()}
    for *above, key in PATHS:
        table = anchored.get(above[0]) if above else anchored
        if not isinstance(table, dict) or key not in table:
            continue
        value = table[key]
        if key == "vars_command":
            table[key] = _anchored_command(value, folder)
        elif key == "python" and isinstance(value, str) and "/" not in value:
            continue
        elif isinstance(value, list):
            table[key] = [_anchored(item, folder) for item in value]
        else:
            table[key] = _anchored(value, folder)
    return anchored


def lines_of(text: str, wanted: Iterable[tuple[str | int, ...]]) -> dict[tuple[str | int, ...], int]:
    """The line (from 1) on which the statement begins that first sets each of ``wanted``.

    What is not found is left out. A prefix of whole lines is TOML by itself exactly where a statement ends,
    so the parser itself tells where each begins, however keys and tables are laid out.
    """
    missing = set(wanted)
    found: dict[tuple[str | int, ...], int] = {}
    lines = text.replace("\r\n", "\n").split("\n")
    if len(lines) > MAX_LINES:
        return found
    begins = 1
    for end in range(1, len(lines) + 1):
        if not missing:
            break
        try:
            data = tomllib.loads("\n".join(lines[:end]))
        except (tomllib.TOMLDecodeError, RecursionError):
            continue
        here = {path for path in missing if _holds(data, path)}
        found.update(dict.fromkeys(here, begins))
        missing -= here
        begins = end + 1
    return found


def _holds(data: Any, path: tuple[str | int, ...]) -> bool:
    for step in path:
        try:
            data = data[step]
        except (KeyError, IndexError, TypeError):
            return False
    return True


def _anchored(value: object, folder: Path) -> object:
    """A relative path joined to ``folder``; anything else as it is."""
    if not isinstance(value, str) or not value.strip() or value.strip().lower() == "none":
        return value
    return value if value.startswith(("/", "~", "{")) else str(folder / value)


def _anchored_command(value: object, folder: Path) -> object:
    """A command whose program is joined to ``folder`` if it is a relative path; a bare name is looked up later."""
    if isinstance(value, str):
        try:
            value = shlex.split(value)
        except ValueError:
            return value
    if isinstance(value, list) and value and isinstance(value[0], str) and "/" in value[0]:
        return [_anchored(value[0], folder), *value[1:]]
    return value


def _candidates(service_folder: str | None) -> list[Path]:
    folders = []
    with suppress(FileNotFoundError):  # the working folder was removed
        folders.append(Path.cwd())
    if service_folder:
        folders.append(Path(service_folder.partition(os.pathsep)[0]))
    with suppress(RuntimeError):  # there is no home folder
        folders.append(platformdirs.user_config_path("selfheald"))
    folders.append(Path("/etc/selfheald"))
    folders.append(platformdirs.site_config_path("selfheald"))
    paths = [folder / FILE_NAME for folder in folders if folder.is_absolute()]
    return list(dict.fromkeys(paths))


class _UntrustedError(Exception):
    """Somebody else may have written the file; the text says how."""


def _read_trusted(path: Path) -> bytes:
    """The content of a file that only the caller and root can have put there."""
    folder = path.parent.stat()
    _check_owner(folder, "its folder")
    if folder.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not folder.st_mode & stat.S_ISVTX:
        raise _UntrustedError("others can write to its folder")
    link = path.lstat()
    _check_owner(link, "it" if not stat.S_ISLNK(link.st_mode) else "the link")
    # Judged by the descriptor that is read, so that nothing can be exchanged in between.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        _check_owner(status, "it")
        if not stat.S_ISREG(status.st_mode):
            raise _UntrustedError("it is not a plain file")
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise _UntrustedError("others can write to it")
        return file.read(MAX_BYTES + 1)


def _check_owner(status: os.stat_result, what: str) -> None:
    if status.st_uid not in (0, os.geteuid()):
        raise _UntrustedError(f"{what} belongs to user {status.st_uid}, who is neither you nor root")


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)


def _parse(path: Path, content: bytes, notices: tuple[str, ...]) -> Found:
    if len(content) > MAX_BYTES:
        raise _invalid(path, f"is larger than {MAX_BYTES} bytes")
    try:
        # Some editors put a byte order mark before the text.
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _invalid(path, "is not UTF-8", content.count(b"\n", 0, error.start) + 1) from None
    try:
        return Found(path, text, tomllib.loads(text), notices)
    except tomllib.TOMLDecodeError as error:
        place = re.search(r" \(at line (\d+), column (\d+)\)$", str(error))
        if place:
            message = f"{str(error)[: place.start()]} (column {place[2]})"
            raise _invalid(path, f"not TOML: {message}", int(place[1])) from None
        line = text.count("\n") + (not text.endswith("\n"))
        message = str(error).removesuffix(" (at end of document)")
        raise _invalid(path, f"not TOML: {message} (at the end)", line) from None
    except RecursionError:
        raise _invalid(path, "not TOML: nested too deeply") from None


def _invalid(path: Path, problem: str, line: int | None = None) -> InitializationError:
    where = f"{path}:{line}" if line else f"{path}"
    return InitializationError(f"{where}: {problem}", code="config_invalid", path=path)
