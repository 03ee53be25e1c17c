"""How single values of the configuration are read: sizes, paths, commands, placeholders.

Each function takes what TOML, JSON or an environment variable gave, and returns what the model keeps or
raises ``ValueError`` with the half sentence that follows a key's name ("should be …"). A value of a kind that
it does not know is returned as it is: pydantic says what is wrong with it.
"""

from __future__ import annotations

import datetime
import ipaddress
import math
import os
import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import Any

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kmgtp])(i)?)?b", re.IGNORECASE | re.ASCII)
_PERIOD = re.compile(r"\d+ ?(?:hour|day|week|month|year)s?", re.IGNORECASE | re.ASCII)
_TIME_OF_DAY = re.compile(r"(?:[01]\d|2[0-3]):[0-5]\d")
_PLACEHOLDER = re.compile(r"\{(workspace|database)\}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_MAX_SIZE = 1 << 62
_SIZE_EXPECTED = 'should be a size such as "100 MB" or "2 GiB", or a number of bytes'


def render(value: Any, workspace: str | os.PathLike[str], database: str | os.PathLike[str]) -> Any:
    """``value`` with ``{workspace}`` and ``{database}`` replaced in all its strings and paths, at any depth.

    Nothing else in braces is touched, what was put in is not looked at again, and the keys of tables stay.
    """
    known = {"workspace": os.fspath(workspace), "database": os.fspath(database)}
    if isinstance(value, str):
        return _PLACEHOLDER.sub(lambda match: known[match[1]], value)
    if isinstance(value, PurePath):
        return type(value)(render(str(value), workspace, database))
    if isinstance(value, Mapping):
        return {key: render(item, workspace, database) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(render(item, workspace, database) for item in value)
    return value


def has_placeholder(text: str) -> bool:
    """True if ``{workspace}`` or ``{database}`` stands in ``text``."""
    return _PLACEHOLDER.search(text) is not None


def number(value: object) -> object:
    """Anything but true and false, which Python takes for 1 and 0, and what is not finite."""
    if isinstance(value, bool):
        raise ValueError("should be a number")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("should be a finite number")
    return value


def size(value: object) -> object:
    """Bytes: a whole number, or ``"100 MB"`` (powers of 1000) or ``"2 GiB"`` (powers of 1024)."""
    if isinstance(value, str):
        text = value.strip()
        if text.isascii() and text.isdigit():
            value = int(text)
        elif match := _SIZE.fullmatch(text):
            figure, letter, binary = match.groups()
            power = " kmgtp".index(letter.lower()) if letter else 0
            value = round(float(figure) * (1024 if binary else 1000) ** power)
        else:
            raise ValueError(_SIZE_EXPECTED)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MAX_SIZE:
        raise ValueError(_SIZE_EXPECTED)
    return value


def blank_is_none(value: object) -> object:
    """None for ``""`` and ``none``: how a file says that there is none."""
    if isinstance(value, str) and value.strip().lower() in ("", "none"):
        return None
    return value


def blank_is(default: Callable[[], object]) -> Callable[[object], object]:
    """A reader that takes ``""`` for what ``default`` gives."""
    return lambda value: default() if value == "" else value


def upper(value: object) -> object:
    """Levels may be written in small letters."""
    return value.upper() if isinstance(value, str) else value


def absolute_path(value: object) -> object:
    """An absolute path: ``~`` is expanded, a relative path counts from the working folder."""
    if not isinstance(value, (str, PurePath)):
        return value
    text = str(value)
    if not text.strip():
        raise ValueError("should be a path, and is empty")
    if "\0" in text:
        raise ValueError("should be a path, and holds a null character")
    if has_placeholder(text):
        raise ValueError("does not take {workspace} or {database}")
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError:
        raise ValueError("starts with ~, but that user has no home folder") from None


def templated_path(value: object) -> object:
    """An absolute path, or one that starts with ``{workspace}``."""
    text = str(value) if isinstance(value, PurePath) else value
    if not isinstance(text, str) or not text.startswith("{workspace}"):
        return absolute_path(value)
    rest = text.removeprefix("{workspace}")
    if has_placeholder(rest) or "\0" in rest or ".." in PurePath(rest).parts or rest[:1] not in ("", "/"):
        raise ValueError("should be {workspace}, or {workspace}/ and a path inside it")
    return Path(text)


def templated_text_path(value: object) -> object:
    """As :func:`templated_path`, as text: it may be a glob."""
    found = templated_path(value)
    return str(found) if isinstance(found, PurePath) else found


def program(value: object) -> object:
    """An absolute path to a program; a bare name would mean something else under a service manager."""
    if isinstance(value, str) and value and "/" not in value:
        raise ValueError("should be the whole path of an interpreter, such as /opt/sim/venv/bin/python")
    return absolute_path(value)


def command(value: object) -> object:
    """A program and its arguments: a list, or one string that is split as a shell would. No shell runs it."""
    if isinstance(value, str):
        try:
            value = shlex.split(value)
        except ValueError as error:
            raise ValueError(f"is not a command: {str(error).lower()}") from None
    if isinstance(value, (list, tuple)) and value and isinstance(value[0], str):
        first = value[0]
        if "/" in first and not first.startswith("{"):
            first = str(absolute_path(first))
        elif has_placeholder(first):
            first = str(templated_path(first))
        return (first, *value[1:])
    return value


def file_name(value: object) -> object:
    """The name of a file: no folder, nothing that selfheald or DuckDB uses for its own files."""
    if isinstance(value, str):
        _single_name(value, "should be a file name")
        if value.startswith(".selfheald") or value.endswith((".ready", ".wal")):
            raise ValueError("should be a file name that is not used for something else")
    return value


def folder_name(value: object) -> object:
    """The name of a folder, without a path."""
    if isinstance(value, str):
        _single_name(value, "should be the name of a folder, not a path")
    return value


def _single_name(value: str, expected: str) -> None:
    if not value.strip() or value in (".", "..") or "/" in value or _CONTROL.search(value):
        raise ValueError(expected)


def storage_version(value: object) -> object:
    """DuckDB's name of a storage format: ``v1.0.0`` (the v may be left out) or ``latest``."""
    if not isinstance(value, str):
        return value
    if re.fullmatch(r"v?\d+\.\d+\.\d+", value, re.ASCII):
        return value if value.startswith("v") else f"v{value}"
    if value.lower() == "latest":
        return "latest"
    raise ValueError('should be a DuckDB version such as "v1.0.0", or "latest"')


def rotation(value: object) -> object:
    """Bytes, or loguru's words for a period or a time of day, or None for never."""
    if blank_is_none(value) is None:
        return None
    if isinstance(value, str) and (_PERIOD.fullmatch(value.strip()) or _TIME_OF_DAY.fullmatch(value.strip())):
        return value.strip()
    try:
        found = size(value)
    except ValueError:
        found = 0
    if not isinstance(found, int) or found < 1000:
        raise ValueError('should be a size of 1 kB or more ("10 MB"), a period ("1 day") or a time ("00:00")')
    return found


def retention(value: object) -> object:
    """A number of files, or loguru's words for a period, or None for all."""
    if blank_is_none(value) is None:
        return None
    if isinstance(value, str):
        text = value.strip()
        if _PERIOD.fullmatch(text):
            return text
        value = int(text) if text.isascii() and text.isdigit() else -1
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 10_000:
        raise ValueError('should be a number of files (1 or more), or a period ("30 days")')
    return value


def listen(value: object) -> object:
    """``HOST:PORT``; IPv6 addresses in brackets. Port 0 takes a free one."""
    if not isinstance(value, str):
        return value
    host, colon, port = value.strip().rpartition(":")
    plain = host.removeprefix("[").removesuffix("]")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not plain or (":" in plain and not bracketed) or not port.isascii() or not port.isdigit():
        raise ValueError('should be an address and a port, such as "127.0.0.1:9187"')
    if int(port) > 65_535 or re.search(r"\s", plain):
        raise ValueError('should be an address and a port up to 65535, such as "127.0.0.1:9187"')
    return f"{host}:{int(port)}"


def is_loopback(host: str) -> bool:
    """True if only this machine is meant by that name or address; IPv6 in brackets or not."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False


def dbt_variables(value: object) -> object:
    """Variables that survive the way to dbt as JSON: dates become text, NaN is refused."""
    return _as_json(value) if isinstance(value, Mapping) else value


def _as_json(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _as_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_json(item) for item in value]
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("holds a number that is not finite")
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    raise ValueError(f"holds a {type(value).__name__}, which dbt cannot be given")


def environment(value: object) -> object:
    """Variables of a child's environment. ``DATABASE_PATH`` is selfheald's own word to dbt."""
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str) or not name or "=" in name or _CONTROL.search(name):
                raise ValueError("holds a name that is no name of an environment variable")
            if name == "DATABASE_PATH":
                raise ValueError("sets DATABASE_PATH, which selfheald itself sets")
            if isinstance(value[name], str) and "\0" in value[name]:
                raise ValueError(f"holds a null character in the value of {name}")
    return value
