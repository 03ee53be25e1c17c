"""The log: a line for each event, for people or as JSON, on stderr and in a file that rotates.

Where stderr is the journal of a service manager, each line begins with its level as the journal reads it, and the
journal adds the time.

:func:`configure` is called once by a program; :func:`event_log` by everything that has something to tell.
Until ``configure`` is called nothing is logged: in somebody else's process selfheald is silent.

Whatever stands in a message (names of files, words of dbt) comes from strangers: a line of the log stays a
line, and no character of it moves a cursor.
"""

from __future__ import annotations

import copy
import errno
import json
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, TextIO

from loguru import logger

from selfheald.config import Config, LogConfig
from selfheald.journal import as_journal_line, journal_command, stderr_is_journal
from selfheald.printable import escaped, one_line
from selfheald.terminal import colour_allowed

if TYPE_CHECKING:
    from loguru import Logger, Message, Record

#: The keys of a JSON line, in their order, all always there.
KEYS = (
    "timestamp",
    "level",
    "message",
    "event",
    "attempt_id",
    "step_name",
    "database",
    "started_at",
    "completed_at",
    "duration_seconds",
    "success",
    "error_code",
    "exception",
)
#: Frames of an exception that a line tells of, the innermost first.
_FRAMES = 8
_SURROGATE = re.compile("[\ud800-\udfff]")

logger.disable("selfheald")


def configure(log: LogConfig, *, stderr: bool = True, stream: TextIO | None = None) -> None:
    """Send the log where ``log`` says, in place of where it went before.

    ``stderr`` adds lines on stderr (``stream`` stands for it, in tests). A file that cannot be written is no
    error: a warning names its folder, and the lines go to stderr alone until it can. Colours appear on a terminal only.
    """
    logger.remove()
    logger.enable("selfheald")
    _Bridge.install()
    journal = stream is None and stderr_is_journal()
    spare = _Stderr(stream, journal)
    file, problem = None, None
    if log.file is not None:
        # A copy of loguru's logger is independent of it, and can be made only while no sink is there.
        file = _File(log, log.file, copy.deepcopy(logger), spare, alone=not stderr)
        problem = file.open()
    if stderr:
        # The journal is searched, as a file is.
        line = _json_line if log.as_json else _full_line if journal else _short_line
        coloured = not log.as_json and spare.isatty() and colour_allowed()
        _add(spare, line, log.level, coloured=coloured, journal=journal)
    if file is not None:
        _add(file, _json_line if log.as_json else _full_line, log.level)
    if log.file is not None and problem is not None:
        event_log(
            "log_unwritable",
            f"No log file: {log.file.parent} cannot be written ({problem}); the log goes to stderr alone until it can",
            "WARNING",
        )


def configure_daemon(config: Config) -> dict[str, str | None]:
    """As :func:`configure`, for a daemon.

    Where stderr is the journal of a service manager, that keeps and rotates what it gets: a file is written too only
    where somebody has named one, or the service has a folder for it. Returns where the log is to be read: a ``file``,
    and the command that shows the ``journal``.
    """
    wanted = config.log
    if stderr_is_journal() and "log.file" not in config.sources.origins:
        wanted = wanted.model_copy(update={"file": None})
    configure(wanted)
    return {"file": None if wanted.file is None else str(wanted.file), "journal": journal_command()}


def close() -> None:
    """Let go of the file; nothing is logged from then on."""
    logger.remove()
    _Bridge.remove()
    logger.disable("selfheald")


def event_log(event: str, message: str, level: str = "INFO", **fields: Any) -> None:
    """Log one ``event`` (a past-tense word such as ``step_completed``) with a sentence for people.

    ``fields`` are those of :data:`KEYS`, or others, which JSON lines carry after these. Times are ISO text or
    aware ``datetime``, durations seconds. ``exception`` may be an exception: its kind, text and place are
    logged, never the values of variables.
    """
    logger.opt(depth=1).bind(event=event, **fields).log(level, message)


def short_path(path: str) -> str:
    """The last three parts of a path, which tell a workspace: ``…/alpha/dbt/simulation.duckdb``."""
    parts = PurePath(path).parts
    return path if len(parts) <= 4 else str(PurePath("…", *parts[-3:]))


def json_record(record: Record) -> dict[str, Any]:
    """A loguru record as the object that a JSON line holds."""
    extra = {key: value for key, value in record["extra"].items() if not key.startswith("_")}
    found: dict[str, Any] = dict.fromkeys(KEYS)
    found |= extra
    found["timestamp"] = _instant(record["time"])
    found["level"] = record["level"].name
    found["message"] = record["message"]
    found["exception"] = _exception_text(record)
    return {key: _plain(value) for key, value in found.items()}


def _json_line(record: Record) -> str:
    return json.dumps(json_record(record), allow_nan=False)


def _full_line(record: Record) -> str:
    return _human_line(record, str)


def _short_line(record: Record) -> str:
    return _human_line(record, short_path)


def _human_line(record: Record, shown: Callable[[str], str]) -> str:
    """``[database] message (code): exception``, each only where there is one."""
    extra = record["extra"]
    text = str(record["message"])
    if extra.get("database"):
        text = f"[{shown(str(extra['database']))}] {text}"
    if extra.get("error_code"):
        text = f"{text} ({extra['error_code']})"
    if exception := _exception_text(record):
        text = f"{text}: {exception}"
    return one_line(text)


def _add(
    sink: _Stderr | _File,
    line: Callable[[Record], str],
    level: str,
    *,
    coloured: bool = False,
    journal: bool = False,
) -> None:
    logger.add(
        sink,
        format=_journal_format(line) if journal else _format(line, coloured=coloured),
        level=level,
        colorize=coloured,
        catch=True,
        backtrace=False,
        diagnose=False,
    )


def _format(line: Callable[[Record], str], *, coloured: bool) -> Callable[[Record], str]:
    """A loguru format for one sink. The line goes in as a value: neither braces nor tags count in it."""
    name = f"_{line.__name__}"
    pattern = f"{{extra[{name}]}}\n"
    if line is not _json_line:
        level = "<level>{level.name: <8}</level>" if coloured else "{level.name: <8}"
        pattern = f"{{time:YYYY-MM-DD HH:mm:ss.SSS}} {level} {pattern}"

    def formatted(record: Record) -> str:
        record["extra"][name] = line(record)
        return pattern

    return formatted


def _journal_format(line: Callable[[Record], str]) -> Callable[[Record], str]:
    def formatted(record: Record) -> str:
        record["extra"]["_journal_line"] = as_journal_line(line(record), record["level"].name)
        return "{extra[_journal_line]}\n"

    return formatted


def _exception_text(record: Record) -> str | None:
    """``KeyError: 'x' (retry.py:12 in delay < daemon.py:90 in heal)``, innermost frame first."""
    given = record["extra"].get("exception")
    if given is None and record["exception"] is not None:
        given = record["exception"].value
    if not isinstance(given, BaseException):
        return None if given is None else str(given)
    frames = reversed(traceback.extract_tb(given.__traceback__)[-_FRAMES:])
    places = " < ".join(f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}" for frame in frames)
    try:
        text = f"{type(given).__name__}: {given}"
    except Exception:  # noqa: BLE001 - any exception's own __str__ may fail
        text = type(given).__name__
    return f"{text} ({places})" if places else text


def _instant(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _plain(value: Any) -> Any:
    """A value in JSON's own types, without halves of surrogate pairs, which strict readers refuse."""
    if isinstance(value, str):
        return _SURROGATE.sub(escaped, value)
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, datetime):
        return _instant(value)
    if isinstance(value, Mapping):
        return {_plain(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    return _plain(str(value))


class _Stderr:
    """stderr as it is at each moment (progress displays exchange it); one that is gone is no error."""

    def __init__(self, stream: TextIO | None, journal: bool) -> None:
        self._stream = stream
        self.journal = journal

    def isatty(self) -> bool:
        stream = self._stream or sys.stderr
        return stream is not None and not stream.closed and stream.isatty()

    def write(self, message: str) -> None:
        stream = self._stream or sys.stderr
        if stream is None:
            return
        with suppress(OSError, ValueError):
            try:
                stream.write(message)
            except UnicodeEncodeError:
                encoding = stream.encoding or "ascii"
                stream.write(message.encode(encoding, "backslashreplace").decode(encoding))
            stream.flush()


class _File:
    """The log file: ``private``, a loguru logger of its own, rotates it; its failures never reach the program.

    While the file cannot be written, each line tries it again; one line on ``stderr`` says when that begins. If the
    file is ``alone``, and nothing else shows its lines, they go there too.
    """

    def __init__(self, log: LogConfig, path: Path, private: Logger, stderr: _Stderr, *, alone: bool) -> None:
        self._log = log
        self._path = path
        self._logger = private
        self._stderr = stderr
        self._alone = alone
        self._failing = False
        self._sink: int | None = None

    def open(self) -> str | None:
        """Open the file. What is wrong with it, or None."""
        try:
            self._add()
        except (OSError, ValueError) as error:
            self._failing = True
            return _reason(error)
        return None

    def _add(self) -> None:
        self._sink = self._logger.add(
            # loguru would take braces in a path for a pattern of its own.
            str(self._path).replace("{", "{{").replace("}", "}}"),
            format="{message}",
            level=0,
            rotation=self._log.rotation,
            retention=self._log.retention,
            encoding="utf-8",
            errors="backslashreplace",
            watch=True,
            catch=False,
            backtrace=False,
            diagnose=False,
        )

    def write(self, message: Message) -> None:
        try:
            if self._sink is None:
                self._add()
                if _ends_within_a_line(self._path):
                    self._logger.opt(raw=True).info("\n")
            self._logger.opt(raw=True).info(str(message))
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                self._let_go()  # what found no room is in its buffer still, and would fill that up
            if not self._failing:
                self._failing = True
                self._complain(_reason(error))
            if self._alone:
                self._stderr.write(str(message))
        else:
            self._failing = False

    def stop(self) -> None:
        """Called by loguru when it lets go of this sink."""
        self._let_go()

    def _let_go(self) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            with suppress(OSError, ValueError):
                self._logger.remove(sink)

    def _complain(self, reason: str) -> None:
        now = datetime.now(UTC)
        text = one_line(f"The log file {self._path} cannot be written: {reason}")
        line = f"{now.astimezone():%Y-%m-%d %H:%M:%S}.000 WARNING  {text}"
        if self._log.as_json:
            told = {"timestamp": _instant(now), "level": "WARNING", "message": text, "event": "log_unwritable"}
            line = json.dumps(dict.fromkeys(KEYS) | told)
        if self._stderr.journal:
            line = as_journal_line(line if self._log.as_json else text, "WARNING")
        self._stderr.write(f"{line}\n")


def _ends_within_a_line(path: Path) -> bool:
    """True if the end of the file is half a line: the disk was full before all of it was written."""
    with path.open("rb") as file:
        if not file.seek(0, os.SEEK_END):
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


class _Bridge(logging.Handler):
    """What libraries tell the standard library's ``logging``, from WARNING up, becomes lines of this log."""

    def emit(self, record: logging.LogRecord) -> None:
        exception = record.exc_info[1] if record.exc_info else None
        level = "ERROR" if record.levelno >= logging.ERROR else "WARNING"
        try:
            message = record.getMessage()
        except (TypeError, ValueError, KeyError):
            message = str(record.msg)
        event_log("library_message", f"{record.name}: {message}", level, exception=exception)

    @classmethod
    def install(cls) -> None:
        root = logging.getLogger()
        if not any(isinstance(handler, cls) for handler in root.handlers):
            root.addHandler(cls(logging.WARNING))

    @classmethod
    def remove(cls) -> None:
        root = logging.getLogger()
        for handler in [handler for handler in root.handlers if isinstance(handler, cls)]:
            root.removeHandler(handler)
