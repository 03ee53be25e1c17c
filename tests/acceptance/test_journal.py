"""The log of a daemon whose stderr is the journal of a service manager: a socket, named in the environment."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from fixtures.waiting import DEADLINE, wait_for
from processes import NAME, command


class Journal:
    """The journal's end of a socket, and the process that writes to the other."""

    def __init__(self, end: socket.socket, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._end = end
        self._text = b""

    @property
    def lines(self) -> list[str]:
        """All so far."""
        try:
            while more := self._end.recv(65536):
                self._text += more
        except BlockingIOError:
            pass
        return self._text.decode().splitlines()

    def line(self, pattern: str) -> str:
        """Wait for a line with this in it."""
        return wait_for(lambda: next(filter(re.compile(pattern).search, self.lines), ""), what=lambda: self.lines)

    def end(self) -> int:
        """End the process, if it runs still; its exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(DEADLINE)


@contextmanager
def journal_of(
    folder: Path, environment: Mapping[str, str], *arguments: object, named: bool = True
) -> Iterator[Journal]:
    """A command that writes to a journal."""
    ours, theirs = socket.socketpair()
    with ours:
        ours.setblocking(False)
        with theirs:
            found = os.fstat(theirs.fileno())
            name = f"{found.st_dev}:{found.st_ino if named else found.st_ino + 1}"
            process = subprocess.Popen(
                command(*arguments),
                cwd=folder,
                env={**environment, "JOURNAL_STREAM": name, "FORCE_COLOR": "1"},
                stdin=subprocess.DEVNULL,
                stdout=theirs.fileno(),
                stderr=theirs.fileno(),
                start_new_session=True,
            )
        try:
            yield Journal(ours, process)
        finally:
            process.kill()
            process.wait(DEADLINE)


@pytest.fixture
def environment_of_a_service(environment: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """Nobody has named a log file; a user's folders are the test's own."""
    mine = {name: value for name, value in environment.items() if name != "SELFHEALD_LOG__FILE"}
    return mine | {f"XDG_{kind}_HOME": str(tmp_path / kind.lower()) for kind in ("STATE", "DATA", "CACHE", "CONFIG")}


def test_lines_carry_their_level_and_no_time(
    environment_of_a_service: dict[str, str], tmp_path: Path, root: Path
) -> None:
    (root / NAME).write_bytes(b"no database at all" * 1000)
    environment = environment_of_a_service | {
        "SELFHEALD_METRICS__LISTEN": "0.0.0.0:0",
        "SELFHEALD_LOG__LEVEL": "DEBUG",
    }
    with journal_of(tmp_path, environment, "run", root) as journal:
        assert journal.line("ready: watching").startswith("<6>ready: watching ")
        # The whole path, which the journal is searched for.
        failed = rf"^<3>\[{re.escape(str(root))}/{NAME}\] .*\(not_a_database\)$"
        assert re.search(failed, journal.line("not_a_database"))
        assert journal.line("metrics.listen").startswith("<4>metrics.listen: other machines can reach")
        assert journal.line("checked").startswith("<7>[")
        assert journal.end() == 0
        lines = journal.lines
    assert all(re.match(r"<[2-7]>\S", line) for line in lines), lines
    assert not any("\x1b" in line or re.search(r"\d\d:\d\d:\d\d\.\d{3} ", line) for line in lines), lines
    assert not list(tmp_path.rglob("selfheald*.log"))


def test_a_folder_for_logs_has_them_too(environment_of_a_service: dict[str, str], tmp_path: Path, root: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    with journal_of(tmp_path, environment_of_a_service | {"LOGS_DIRECTORY": str(logs)}, "run", root) as journal:
        journal.line("^<6>ready: watching")
        assert journal.end() == 0
    assert re.search(r"^\d{4}-.* INFO +ready: watching", (logs / "selfheald.log").read_text(), re.MULTILINE)


def test_json_lines(environment_of_a_service: dict[str, str], tmp_path: Path, root: Path) -> None:
    with journal_of(tmp_path, environment_of_a_service | {"SELFHEALD_LOG__JSON": "true"}, "run", root) as journal:
        journal.line("daemon_ready")
        assert journal.end() == 0
        lines = journal.lines
    assert {json.loads(line.removeprefix("<6>"))["level"] for line in lines} == {"INFO"}


def test_an_error_before_there_is_a_log(environment_of_a_service: dict[str, str], tmp_path: Path, root: Path) -> None:
    wrong = environment_of_a_service | {"SELFHEALD_WATCH__SETTLE": "soon", "SELFHEALD_WATCH__RESCAN": "later"}
    with journal_of(tmp_path, wrong, "run", root) as journal:
        assert journal.process.wait(DEADLINE) == 2
        assert len(journal.lines) >= 3
        assert all(line.startswith("<3>") for line in journal.lines), journal.lines


def test_a_log_file_that_cannot_be_written(
    environment_of_a_service: dict[str, str], tmp_path: Path, root: Path
) -> None:
    (tmp_path / "occupied").touch()
    wrong = environment_of_a_service | {"SELFHEALD_LOG__FILE": str(tmp_path / "occupied" / "log")}
    with journal_of(tmp_path, wrong, "run", root) as journal:
        assert journal.line("No log file").startswith("<4>No log file")
        journal.line("ready: watching")
        assert journal.end() == 0


def test_another_stream_than_the_named_one_is_no_journal(
    environment_of_a_service: dict[str, str], tmp_path: Path, root: Path
) -> None:
    with journal_of(tmp_path, environment_of_a_service, "run", root, named=False) as journal:
        assert re.match(r"\d{4}-", journal.line("ready: watching"))
        assert journal.end() == 0
    assert list(tmp_path.rglob("selfheald.log"))
