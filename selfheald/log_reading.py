"""The log read back: lines of both forms, the files that were rotated away, and what is added while one looks."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any

from selfheald.client import OPEN_SAFELY

#: The levels, the least first.
LEVELS = ("TRACE", "DEBUG", "INFO", "SUCCESS", "WARNING", "ERROR", "CRITICAL")

#: Of a file that is read from its end, so much (bytes).
TAIL_BYTES = 256 << 10

_TEXT = re.compile(
    r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}) (" + "|".join(LEVELS) + r") +(?:\[((?:/|…/).*?)\] )?(.*)", re.DOTALL
)
_ERROR_CODE = re.compile(r" \(([a-z]+(?:_[a-z]+)+)\)(?=$|: )")
_AGO = re.compile(r"(\d+(?:\.\d+)?) *([a-z]+?)s?(?: +ago)?", re.IGNORECASE)
_UNITS = {
    "s": 1, "sec": 1, "second": 1, "m": 60, "min": 60, "minute": 60, "h": 3600, "hour": 3600,
    "d": 86400, "day": 86400, "w": 604800, "week": 604800,
}  # fmt: skip
_PACKED: Mapping[str, Callable[[Path], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the log. ``time`` is aware; ``fields`` are those of a JSON line, whichever form it has."""

    time: datetime | None
    level: str
    database: str | None
    message: str
    fields: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Filter:
    """Which entries are wanted: of a database or of all below a folder, from a level and from a time on."""

    databases: frozenset[str] = frozenset()
    level: str = LEVELS[0]
    since: datetime | None = None

    def wants(self, entry: Entry) -> bool:
        """True if this is one of them."""
        if LEVELS.index(entry.level) < LEVELS.index(self.level):
            return False
        if self.since is not None and (entry.time is None or entry.time < self.since):
            return False
        if not self.databases:
            return True
        return entry.database is not None and any(
            entry.database == wanted or entry.database.startswith(f"{wanted.rstrip('/')}/") for wanted in self.databases
        )


def parsed(line: str, keys: Iterable[str]) -> Entry | None:
    """A line of either form; ``None`` for one that is no line of the log. ``keys`` are those that fields have."""
    if line.startswith("{"):
        return _from_json(line)
    match = _TEXT.fullmatch(line)
    if match is None:
        return None
    stamp, level, database, message = match.groups()
    try:
        time = datetime.fromisoformat(stamp).astimezone()
    except ValueError:
        return None
    code = _ERROR_CODE.search(message)
    utc = time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    fields = dict.fromkeys(keys) | {"timestamp": utc, "level": level, "message": message, "database": database}
    return Entry(time, level, database, message, fields | {"error_code": code[1] if code else None})


def _from_json(line: str) -> Entry | None:
    try:
        fields = json.loads(line)
        time = datetime.fromisoformat(fields["timestamp"])
        level = fields["level"]
        message, database = str(fields["message"]), fields.get("database")
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    if level not in LEVELS or time.tzinfo is None:
        return None
    for name, form in (("error_code", " ({})"), ("exception", ": {}")):
        if fields.get(name):
            message += form.format(fields[name])
    return Entry(time, level, None if database is None else str(database), message, fields)


def moment(text: str, now: datetime) -> datetime:
    """What is meant by ``10 min ago``, ``2h``, ``today``, ``yesterday``, ``14:30`` or an ISO date and time.

    ``now`` is aware; what names no zone is in that one. Raises :class:`ValueError`.
    """
    words = text.strip().lower()
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if words in ("today", "yesterday", "now"):
        return {"today": midnight, "yesterday": midnight - timedelta(days=1), "now": now}[words]
    match = _AGO.fullmatch(words)
    if match and match[2] in _UNITS:
        with suppress(OverflowError):
            return now - timedelta(seconds=float(match[1]) * _UNITS[match[2]])
    if re.fullmatch(r"\d\d?:\d\d(:\d\d)?", words):
        hour, minute, *second = map(int, words.split(":"))
        return midnight.replace(hour=hour, minute=minute, second=second[0] if second else 0)
    found = datetime.fromisoformat(text.strip())
    return found if found.tzinfo else found.replace(tzinfo=now.tzinfo)


def rotated(file: Path) -> list[Path]:
    """The files that were rotated away from this one, the newest first: by us, or by another program."""
    beginnings = (f"{file.name}.", f"{file.stem}.")
    found = []
    with suppress(OSError):
        for path in file.parent.iterdir():
            packed = path.suffix if path.suffix in _PACKED else ""
            name = path.name.removesuffix(packed)
            other = name.startswith(beginnings[0]) or (name.startswith(beginnings[1]) and name.endswith(file.suffix))
            if other and path != file and any(map(str.isdigit, name.removeprefix(file.stem))):
                with suppress(OSError):
                    found.append((path.stat().st_mtime_ns, path))
    return [path for _, path in sorted(found, reverse=True)]


def lines_of(path: Path) -> Iterator[str]:
    """The lines of a file, packed or not, as far as it can be read."""
    try:
        with _PACKED.get(path.suffix, _open)(path) as file:
            for line in file:
                yield _text(line)
    except (OSError, EOFError, lzma.LZMAError):
        return


def tail_of(path: Path, size: int = TAIL_BYTES) -> list[str]:
    """The whole lines in the last ``size`` bytes of a regular file; none of what is something else, or a link."""
    try:
        handle = os.open(path, os.O_RDONLY | OPEN_SAFELY)
    except (OSError, ValueError):
        return []
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            return []
        begin = max(0, found.st_size - size)
        file.seek(begin)
        lines = file.read(size).split(b"\n")
    return [_text(line) for line in (lines[1:] if begin else lines) if line]


def _open(path: Path) -> IO[bytes]:
    return path.open("rb")


def _text(line: bytes) -> str:
    return line.decode("utf-8", "backslashreplace").rstrip("\n")


@dataclass(slots=True)
class Follower:
    """A file that grows, and is at times truncated, rotated away or not there. Reads what is complete, once."""

    path: Path
    _file: IO[bytes] | None = field(default=None, init=False)
    _half: bytes = field(default=b"", init=False)

    def read(self) -> Iterator[str]:
        """The lines that are new since the last time."""
        yield from self._rest()
        while self._is_another():
            yield from self._rest()
            if self._half:
                yield _text(self._half)
            self.close()
            try:
                self._file = self.path.open("rb")
            except OSError:
                return
            yield from self._rest()

    def identity(self) -> tuple[int, int] | None:
        """Which file is being read."""
        if self._file is None:
            return None
        found = os.fstat(self._file.fileno())
        return found.st_dev, found.st_ino

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()
        self._file, self._half = None, b""

    def _rest(self) -> Iterator[str]:
        if self._file is None:
            return
        if os.fstat(self._file.fileno()).st_size < self._file.tell():
            self._file.seek(0)
            self._half = b""
        for line in self._file:
            line = self._half + line
            self._half = b""
            if line.endswith(b"\n"):
                yield _text(line)
            else:
                self._half = line

    def _is_another(self) -> bool:
        try:
            there = self.path.stat()
        except OSError:
            return False
        return self.identity() != (there.st_dev, there.st_ino)
