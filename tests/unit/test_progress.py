"""What a waiting person reads."""

from __future__ import annotations

import json
import os
import select
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from selfheald.cli import progress as progress_module
from selfheald.cli.output import exit_code, print_error, print_json
from selfheald.cli.progress import Progress, describe_ready, describe_size
from selfheald.cli.wait import split_command
from selfheald.errors import HINTS, ConcurrentInitializationError, InitializationError, InitializationTimeoutError
from selfheald.explanation import describe, describe_holder
from selfheald.marker import Status
from selfheald.workspace import Database

NOW = 1_795_449_600.0  # 2026-11-23T16:00:00Z
WRITER = {"pid": 4242, "command": "python sim.py", "mode": "write"}


def steps(running: str | None) -> list[dict[str, Any]]:
    """The steps as a status record has them."""
    status = Status(Database(Path("/w/simulation.duckdb")))
    if running is not None:
        status.begin(running)
    return [step.as_dict() for step in status.steps]


def in_progress(running: str | None, **changes: Any) -> dict[str, Any]:
    return {"state": "in_progress", "steps": steps(running), "missing_tables_found": ["a", "b"], **changes}


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        ({}, None),
        ({"state": "not_started"}, None),
        ({"state": "completed"}, None),
        ({"state": "failed", "reason": "needs_person"}, None),
        ({"state": "not_started", "reason": "queued", "queue_position": 2}, "queued: 2 before you"),
        ({"state": "not_started", "reason": "queued"}, "queued"),
        (
            {"state": "not_started", "reason": "busy", "holder": WRITER},
            "busy: PID 4242 (python sim.py) has it open for writing",
        ),
        ({"state": "not_started", "reason": "busy", "holder": None}, "busy: another process is writing to it"),
        ({"state": "not_started", "reason": "queued", "queue_position": 0}, "queued: next"),
        (in_progress(None), None),
        (in_progress("check_tables"), None),
        (in_progress("load_seeds"), "Loading seed data…"),
        (in_progress("build_foundation"), "Building foundation models…"),
        (
            in_progress("build_foundation", progress={"done": 1, "total": 3, "node": "int_baseline_workforce"}),
            "Building foundation models… 1/3 int_baseline_workforce",
        ),
        (
            in_progress("build_foundation", progress={"done": 0, "total": 3, "node": None}),
            "Building foundation models… 0/3",
        ),
        (in_progress("publish", progress={"done": 3, "total": 3, "node": "x"}), "Publishing…"),
    ],
)
def test_describe(status: dict[str, Any], sentence: str | None) -> None:
    assert describe(status) == sentence


@pytest.mark.parametrize(
    ("attempt", "attempts", "due", "sentence"),
    [
        (1, 5, "2026-11-23T16:00:04.000Z", "no room; attempt 2 of 5 in 4 s"),
        (1, 0, "2026-11-23T16:00:04.000Z", "no room; attempt 2 in 4 s"),
        (None, 5, "2026-11-23T15:59:00.000Z", "no room; attempt 1 of 5 in 0 s"),
        (4, 5, "no time", "no room; attempt 5 of 5 in 0 s"),
    ],
)
def test_describe_a_failure_that_is_tried_again(attempt: int | None, attempts: int, due: str, sentence: str) -> None:
    status = {"state": "failed", "attempt": attempt, "next_attempt_at": due, "error": {"message": "no room"}}
    assert describe(status, attempts=attempts, now=NOW) == sentence


def test_describe_holder() -> None:
    assert describe_holder({**WRITER, "mode": "read"}) == "PID 4242 (python sim.py) has it open for reading"
    assert describe_holder({"pid": None, "command": None, "mode": "write"}) == "another process has it open for writing"


def test_describe_size() -> None:
    assert describe_size({"missing_tables_found": ["a", "b"], "eta_seconds": 4.6}) == (
        "Initializing 2 missing tables (about 5 s)"
    )
    assert describe_size({"missing_tables_found": ["a"], "eta_seconds": None}) == "Initializing 1 missing table"


def test_describe_ready() -> None:
    status = {"tables_created": ["a", "b"]}
    assert describe_ready(status, 1.26, made=True) == "Ready in 1.3 s: 2 tables made, existing tables untouched"
    assert describe_ready({"tables_created": ["a"]}, 2, made=True).startswith("Ready in 2.0 s: 1 table made")
    unchanged = "Ready after 1.3 s: all tables are there, nothing was changed"
    assert describe_ready(status, 1.26, made=False) == unchanged
    assert describe_ready({"tables_created": []}, 1.26, made=True) == unchanged
    assert describe_ready(None, 1.26, made=True) == unchanged


class TestWithoutATerminal:
    def test_a_line_for_each_change(self, capsys: pytest.CaptureFixture[str]) -> None:
        with Progress("Waiting for [/w]") as progress:
            progress.say("queued")
            progress.say("queued")
            progress.say(None)
            progress.say("")
            progress.say("Publishing…")
            progress.final("Ready")
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.splitlines() == ["Waiting for [/w]", "queued", "Publishing…", "Ready"]

    def test_words_of_strangers(self, capsys: pytest.CaptureFixture[str]) -> None:
        """What a status file says comes from whoever wrote it."""
        poison = "\x1b[2J\x1b]0;gone\x07\nx"
        running = [{"name": "build_foundation", "display_name": poison, "status": "running"}]
        with Progress(poison) as progress:
            progress.on_status({"state": "in_progress", "steps": running, "warnings": [poison]})
            progress.leave(poison)
            progress.final(poison)
        printed = capsys.readouterr().err
        assert len(printed.splitlines()) >= 4
        assert all(line.isprintable() for line in printed.splitlines()), printed
        print_error(InitializationError(poison, path=poison, hint=poison, log=poison))
        assert all(line.isprintable() for line in capsys.readouterr().err.splitlines())

    def test_quiet_is_quiet(self, capsys: pytest.CaptureFixture[str]) -> None:
        with Progress("Waiting", quiet=True) as progress:
            progress.say("queued")
            progress.final("Ready")
        assert capsys.readouterr() == ("", "")

    def test_an_initialization_begins_with_how_much_there_is_to_do(self, capsys: pytest.CaptureFixture[str]) -> None:
        with Progress("Waiting") as progress:
            progress.on_status({"state": "not_started", "reason": "queued", "queue_position": 0})
            progress.on_status(in_progress("load_seeds", attempt_id="a"))
            progress.on_status(in_progress("load_seeds", attempt_id="a"))
            progress.on_status(in_progress("publish", attempt_id="a"))
            progress.on_status({"state": "completed", "attempt_id": "a"})
        assert capsys.readouterr().err.splitlines()[2:] == [
            "Initializing 2 missing tables",
            "Loading seed data…",
            "Publishing…",
        ]

    @pytest.mark.anyio
    async def test_nobody_is_left_silent(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(progress_module, "REPEAT_SECONDS", 0.02)
        told = ""
        with Progress("Waiting") as progress:
            async with anyio.create_task_group() as group:
                group.start_soon(progress.keep_talking)
                with anyio.fail_after(10):
                    while told.count("Waiting (0 s)") < 2:
                        await anyio.sleep(0.005)
                        told += capsys.readouterr().err
                    progress.on_status({"state": "not_started", "reason": "queued", "queue_position": 3})
                    while "queued: 3 before you (" not in told:
                        await anyio.sleep(0.005)
                        told += capsys.readouterr().err
                group.cancel_scope.cancel()


def test_on_a_terminal_brackets_in_a_path_are_only_brackets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "w", encoding="utf-8") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        with Progress("Waiting for /w/[/x]/a") as progress:
            progress.say("Checking /w/[red]/b")
        monkeypatch.undo()
        terminal.flush()
        shown = b""
        while b"Checking /w/[red]/b" not in shown:
            assert select.select([ours], [], [], 10)[0], shown
            shown += os.read(ours, 100_000)
    os.close(ours)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InitializationError("m", code="database_corrupt"), 1),
        (InitializationError("m", code="locked"), 1),
        (InitializationError("m", code="config_invalid"), 2),
        (InitializationError("m", code="no_daemon"), 4),
        (InitializationTimeoutError("m", timeout_seconds=300), 3),
        (InitializationTimeoutError("m", timeout_seconds=60, step="build_foundation"), 1),
        (InitializationTimeoutError("m"), 1),
        (ConcurrentInitializationError("m"), 1),
    ],
)
def test_exit_codes(error: InitializationError, code: int) -> None:
    assert exit_code(error) == code


def test_an_error_is_two_lines_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    print_error(InitializationError("torn", code="database_corrupt", path="/w/x", log="/w/log"))
    print_error(InitializationError("torn: /w/x", code="database_corrupt", path="/w/x"))
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == [
        "error[database_corrupt]: torn (/w/x)",
        f"  {HINTS['database_corrupt']} Log: /w/log",
        "error[database_corrupt]: torn: /w/x",
        f"  {HINTS['database_corrupt']}",
    ]


def test_json_is_one_document_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"path": Path("/w"), "name": "ü"})
    printed = capsys.readouterr()
    assert (json.loads(printed.out), printed.err) == ({"path": "/w", "name": "ü"}, "")


@pytest.mark.parametrize(
    ("arguments", "ours", "command"),
    [
        (["exec", "w", "--", "python", "sim.py", "--fast"], ["exec", "w"], ["python", "sim.py", "--fast"]),
        (["exec", "--", "sh", "--", "x"], ["exec"], ["sh", "--", "x"]),
        (["exec", "w", "--timeout", "1", "--", "true"], ["exec", "w", "--timeout", "1"], ["true"]),
        (["exec", "w"], ["exec", "w"], []),
        (["exec", "w", "--"], ["exec", "w"], []),
        (["wait", "--", "-odd"], ["wait", "--", "-odd"], []),
        ([], [], []),
    ],
)
def test_the_command_of_exec_is_parted_from_our_own_words(
    arguments: list[str], ours: list[str], command: list[str]
) -> None:
    assert split_command(arguments) == (ours, command)
