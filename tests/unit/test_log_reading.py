"""The log read back: both forms, rotated files, and a file that grows, is truncated, moved away, or not there yet."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loguru import logger

from selfheald import log
from selfheald.config import LogConfig
from selfheald.journal import command_for
from selfheald.log_reading import LEVELS, Entry, Filter, Follower, lines_of, moment, parsed, rotated
from selfheald.printable import one_line

PACK: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress}
NOW = datetime(2026, 3, 5, 15, 0, tzinfo=UTC)
DATABASE = "/srv/alpha [old]/simulation.duckdb"


@pytest.fixture(autouse=True)
def _let_go_of_the_log() -> Iterator[None]:
    yield
    log.close()


@given(message=st.text(max_size=40), level=st.sampled_from(["DEBUG", "INFO", "SUCCESS", "WARNING", "ERROR"]))
@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("as_json", [True, False])
def test_what_was_logged_is_read_back(as_json: bool, message: str, level: str) -> None:
    stream = io.StringIO()
    log.configure(LogConfig.model_validate({"file": "", "level": "DEBUG", "json": as_json}), stream=stream)
    before = datetime.now(UTC)
    log.event_log("step_completed", message, level, database="/srv/alpha/simulation.duckdb", error_code="dbt_failed")
    entry = parsed(stream.getvalue().removesuffix("\n"), log.KEYS)
    assert entry is not None
    assert (entry.level, entry.database) == (level, "/srv/alpha/simulation.duckdb")
    assert entry.time is not None
    assert abs(entry.time - before) < timedelta(seconds=5)
    assert entry.fields["error_code"] == "dbt_failed"
    assert one_line(entry.message).strip() == f"{one_line(message)} (dbt_failed)".strip()
    assert set(entry.fields) >= set(log.KEYS)


@pytest.mark.parametrize(
    "line",
    [
        "", "Traceback (most recent call last):", "{", "[]", '{"a": 1}', '{"timestamp": "soon", "level": "INFO"}',
        '{"timestamp": "2026-03-05T15:00:00.000Z", "level": "LOUD", "message": ""}', "2026-03-05 15:00:00.000 LOUD x",
        "2026-99-05 15:00:00.000 INFO     x", '{"timestamp": null, "level": "INFO", "message": ""}', "{" * 2000,
    ],
)  # fmt: skip
def test_what_is_no_line_of_the_log(line: str) -> None:
    assert parsed(line, log.KEYS) is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("10 min ago", NOW - timedelta(minutes=10)),
        ("10min", NOW - timedelta(minutes=10)),
        ("2 hours ago", NOW - timedelta(hours=2)),
        ("1.5h", NOW - timedelta(minutes=90)),
        ("30s", NOW - timedelta(seconds=30)),
        ("3 days ago", NOW - timedelta(days=3)),
        ("1 week ago", NOW - timedelta(days=7)),
        ("today", NOW.replace(hour=0)),
        ("Yesterday", NOW.replace(hour=0) - timedelta(days=1)),
        ("14:30", NOW.replace(hour=14, minute=30)),
        ("14:30:05", NOW.replace(hour=14, minute=30, second=5)),
        ("2026-03-01", NOW.replace(day=1, hour=0)),
        ("2026-03-01 10:00", NOW.replace(day=1, hour=10)),
        ("2026-03-01T10:00:00+01:00", NOW.replace(day=1, hour=9)),
        ("2026-03-01T10:00:00Z", NOW.replace(day=1, hour=10)),
    ],
)
def test_times_as_people_write_them(text: str, found: datetime) -> None:
    assert moment(text, NOW) == found


@pytest.mark.parametrize(
    "text", ["", "soon", "10", "10 fortnights ago", "25:00", "2026-13-01", "9e99 days ago", "9" * 400 + "d"]
)
def test_times_that_are_none(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - of many kinds, and all mean the same
        moment(text, NOW)


def entry(level: str = "INFO", database: str | None = None, time: datetime | None = NOW) -> Entry:
    return Entry(time, level, database, "", {})


@pytest.mark.parametrize(
    ("wanted", "given_", "is_wanted"),
    [
        (Filter(), entry("DEBUG"), True),
        (Filter(level="WARNING"), entry("INFO"), False),
        (Filter(level="WARNING"), entry("ERROR"), True),
        (Filter(since=NOW), entry(time=NOW), True),
        (Filter(since=NOW), entry(time=NOW - timedelta(seconds=1)), False),
        (Filter(since=NOW), entry(time=None), False),
        (Filter(databases=frozenset({DATABASE})), entry(database=DATABASE), True),
        (Filter(databases=frozenset({DATABASE})), entry(database=None), False),
        (Filter(databases=frozenset({"/srv"})), entry(database=DATABASE), True),
        (Filter(databases=frozenset({"/"})), entry(database=DATABASE), True),
        (Filter(databases=frozenset({"/srv/al"})), entry(database=DATABASE), False),
    ],
)
def test_which_entries_are_wanted(wanted: Filter, given_: Entry, is_wanted: bool) -> None:
    assert wanted.wants(given_) is is_wanted


def test_levels_are_in_order() -> None:
    assert sorted(LEVELS, key=lambda level: logger.level(level).no) == list(LEVELS)


def test_files_that_were_rotated_away(tmp_path: Path) -> None:
    names = [
        "selfheald.2026-03-01_10-00-00_000001.log", "selfheald.log.1", "selfheald.log.2.gz", "selfheald.log.3.xz",
        "selfheald.2026-02-01_10-00-00_000001.log.bz2",
    ]  # fmt: skip
    for age, name in enumerate(names):
        path = tmp_path / name
        path.write_bytes(PACK.get(path.suffix, bytes)(f"{name}\nhalf".encode()))
        os.utime(path, (1000 - age, 1000 - age))
    for other in ("selfheald.log", "selfheald.toml", "selfheald.other.log", "else.log.1", "selfheald.log.bak"):
        (tmp_path / other).touch()
    found = rotated(tmp_path / "selfheald.log")
    assert [path.name for path in found] == names
    assert [list(lines_of(path)) for path in found] == [[name, "half"] for name in names]
    (tmp_path / names[2]).write_bytes(b"not packed at all")
    assert list(lines_of(tmp_path / names[2])) == []
    assert list(lines_of(tmp_path / "nowhere")) == []
    assert rotated(tmp_path / "nowhere" / "selfheald.log") == []


def test_loguru_s_own_rotation_is_found(tmp_path: Path) -> None:
    file = tmp_path / "selfheald.log"
    log.configure(LogConfig.model_validate({"file": str(file), "rotation": 1000}), stream=io.StringIO())
    for number in range(60):
        log.event_log("x", f"line {number}")
    log.close()
    found = [*reversed(rotated(file)), file]
    assert len(found) > 2
    assert [line.split()[-1] for path in found for line in lines_of(path)] == list(map(str, range(60)))


def test_a_file_that_is_followed(tmp_path: Path) -> None:
    file = tmp_path / "selfheald.log"
    follower = Follower(file)

    def new() -> list[str]:
        return list(follower.read())

    try:
        assert new() == []
        file.write_text("one\ntwo\nhal")
        assert new() == ["one", "two"]
        with file.open("a") as more:
            more.write("f\nthree\n")
        assert new() == ["half", "three"]
        # Rotated away with lines that nobody has read yet, and half a line.
        with file.open("a") as more:
            more.write("four\nrest")
        file.rename(tmp_path / "selfheald.log.1")
        file.write_text("five\n")
        assert new() == ["four", "rest", "five"]
        # Truncated, as by another program that copies and empties it.
        file.write_text("six\n")
        os.truncate(file, 0)
        assert new() == []
        file.write_text("7\n")
        assert new() == ["7"]
        # Deleted, and made anew later.
        file.unlink()
        assert new() == []
        file.write_bytes(b"\xff eight\n")
        assert new() == ["\\xff eight"]
        assert new() == []
    finally:
        follower.close()


@pytest.mark.parametrize(
    ("group", "command"),
    [
        ("0::/system.slice/selfheald.service", "journalctl -u selfheald.service"),
        (
            "0::/user.slice/user-1000.slice/user@1000.service/app.slice/selfheald.service",
            "journalctl --user -u selfheald.service",
        ),
        ("0::/user.slice/user-1000.slice/user@1000.service", "journalctl -u user@1000.service"),
        ("0::/", "journalctl _PID=7"),
        ("", "journalctl _PID=7"),
    ],
)
def test_the_journal_s_command(group: str, command: str) -> None:
    assert command_for(group, 7) == command
