"""Selfheald on a command line and in scripts: pipes, terminals, Ctrl-C, exec, and a shell that can wait by itself."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import Copied
from fixtures.waiting import DEADLINE, wait_for
from processes import (
    ENDLESS,
    EXAMPLES,
    NAME,
    Daemon,
    Selfheald,
    arguments,
    change,
    children,
    command,
    digests,
    marker,
    members,
    running,
    status,
)
from terminals import ESCAPE, terminal


class TestExec:
    """``selfheald exec`` waits, and becomes the command."""

    def test_it_becomes_the_command(
        self, selfheald: Selfheald, daemon: Daemon, workspace: Path, complete: Copied
    ) -> None:
        database = complete(workspace / "here")
        script = 'echo "$DATABASE_PATH"; echo "$$"; echo "$1"; exit 7'
        with selfheald.started("exec", database.parent, "--", "sh", "-c", script, "sh", "--json") as process:
            assert process.wait() == 7
            assert process.stdout.splitlines() == [str(database), str(process.pid), "--json"]

    def test_the_database_is_that_of_the_environment(
        self, selfheald: Selfheald, daemon: Daemon, workspace: Path, complete: Copied
    ) -> None:
        database = complete(workspace / "here")
        given = {"DATABASE_PATH": f"{workspace}/./here/{NAME}"}
        done = selfheald.ok("exec", "--", "sh", "-c", 'echo "$DATABASE_PATH"', env=given)
        assert done.stdout == f"{database}\n"

    def test_a_command_that_is_not_there(
        self, selfheald: Selfheald, daemon: Daemon, workspace: Path, complete: Copied
    ) -> None:
        complete(workspace / "here")
        done = selfheald.run("exec", workspace / "here", "--", "no-such-command")
        assert done.returncode == 127
        assert "no-such-command" in done.stderr


class TestScript:
    """``examples/wait.sh``: the whole protocol without anything of ours."""

    def test_ready_and_not(self, selfheald: Selfheald, daemon: Daemon, workspace: Path, complete: Copied) -> None:
        script = ["sh", str(EXAMPLES / "wait.sh")]
        ready = complete(workspace / "o'ne two")
        broken = workspace / "broken" / NAME
        broken.parent.mkdir()
        broken.write_bytes(b"this is no database" * 1000)
        for database, code in ((ready, 0), (broken, 1)):
            with running([*script, str(database), "30"], selfheald.folder, selfheald.environment) as waiter:
                assert waiter.wait() == code, waiter.stderr
        assert marker(ready)["origin"] == "adopted"
        assert status(broken)["error"]["code"] == "not_a_database"


class TestPipes:
    """Without a terminal there are lines, and nothing that a file could not hold."""

    def test_lines_alone(self, selfheald: Selfheald, daemon: Daemon, workspace: Path, complete: Copied) -> None:
        database = complete(workspace / "here")
        commands = [
            ("wait", workspace / "here"),
            ("check", database),
            ("ensure", database),
            ("ensure", database, "--dry-run"),
            ("status", workspace),
            ("config", "show"),
            ("--help",),
            ("wait", "--help"),
            ("--version",),
        ]
        for words in commands:
            done = selfheald.ok(*words)
            assert ESCAPE not in done.stdout + done.stderr, words
            assert "\r" not in done.stdout + done.stderr, words

    def test_progress_while_it_is_made(
        self, selfheald: Selfheald, daemon: Daemon, workspace: Path, complete: Copied
    ) -> None:
        """Promise 9: something within 2 s, each step, and what became of it; all on stderr."""
        database = complete(workspace / "here")
        change(database, "drop table int_employee_benefits")
        began = time.monotonic()
        with selfheald.started("wait", database) as waiter:
            wait_for(lambda: waiter.stderr, what="the first word")
            first = time.monotonic() - began
            assert waiter.wait() == 0
            assert waiter.stdout == ""
            lines = waiter.stderr.splitlines()
        assert first < 2
        assert lines[0] == f"Waiting for {database}"
        assert any(line.startswith("Building foundation models") for line in lines), lines
        assert lines[-1].startswith("Ready in ")
        assert lines[-1].endswith("1 table made, existing tables untouched")

    def test_a_reader_that_goes_away(self, selfheald: Selfheald, tmp_path: Path) -> None:
        """Like ``selfheald config schema | head -1``."""
        with (
            subprocess.Popen(
                command("config", "schema"),
                env=selfheald.environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            ) as process,
        ):
            assert process.stdout is not None
            process.stdout.close()
            assert process.stderr is not None
            assert process.stderr.read() == ""
            process.wait(DEADLINE)


class TestTerminal:
    """With a terminal."""

    def test_progress_is_shown(self, selfheald: Selfheald, complete: Copied, tmp_path: Path) -> None:
        database = complete(tmp_path / "here [/bold] x")
        change(database, "drop table int_employee_benefits")
        with terminal(command("ensure", database), selfheald.settings() | {"TERM": "xterm-256color"}) as screen:
            assert screen.wait() == 0
        text = screen.text
        assert "Building foundation models" in text
        assert "Ready in " in text
        assert ESCAPE in text
        assert "Traceback" not in text
        # The cursor is shown again.
        assert text.rfind(f"{ESCAPE}[?25l") < text.rfind(f"{ESCAPE}[?25h")

    @pytest.mark.parametrize("words", [("status",), ("check",), ("--help",), ("wait", "--help")], ids=" ".join)
    def test_no_colours_where_none_are_wanted(
        self, words: tuple[str, ...], selfheald: Selfheald, complete: Copied, tmp_path: Path
    ) -> None:
        complete(tmp_path / "here")
        place = [] if "--help" in words else [tmp_path / "here"]
        environment = selfheald.settings() | {"TERM": "xterm-256color", "NO_COLOR": "1"}
        with terminal(command(*words, *place), environment) as screen:
            screen.wait()
        assert "here" in screen.text or "simulation" in screen.text
        colours = [part for part in screen.text.split(ESCAPE)[1:] if part[:2] in ("[3", "[9", "[4")]
        assert colours == []

    @pytest.mark.parametrize("answer", ["y", "n"])
    def test_a_corrupt_database_is_asked_about(
        self, answer: str, selfheald: Selfheald, complete: Copied, tmp_path: Path
    ) -> None:
        """It takes a person's word, and the old file is kept."""
        database = complete(tmp_path / "here")
        damage(database)
        damaged = database.read_bytes()
        with terminal(command("ensure", database), selfheald.settings() | {"TERM": "xterm"}) as screen:
            screen.expect("[y/N]")
            screen.send(f"{answer}\n")
            assert screen.wait() == (0 if answer == "y" else 1), screen.text
        kept = list(database.parent.glob(f"{NAME}.corrupt-*"))
        if answer == "y":
            assert [file.read_bytes() for file in kept] == [damaged]
            assert marker(database)["origin"] == "dbt"
        else:
            assert kept == []
            assert database.read_bytes() == damaged


class TestInterrupted:
    """Ctrl-C: the process and all that it started are gone at once, and the next one works."""

    def test_wait(self, selfheald: Selfheald, root: Path) -> None:
        database = root / "here" / NAME
        database.parent.mkdir()
        with selfheald.daemon(root, DBT__PRE_SQL=ENDLESS) as daemon:
            with selfheald.started("wait", database) as waiter:
                wait_for(lambda: "Initializing" in waiter.stderr, what=lambda: waiter.stderr)
                waiter.process.send_signal(signal.SIGINT)
                assert waiter.wait(3) not in (0, 3, 4)
            assert not marker_of(database).exists()
            daemon.kill()

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_ensure(self, number: signal.Signals, selfheald: Selfheald, complete: Copied, tmp_path: Path) -> None:
        database = complete(tmp_path / "here")
        change(database, "drop table int_employee_benefits")
        before = digests(database)
        with selfheald.started("ensure", database, DBT__PRE_SQL=ENDLESS) as process:

            def at_work() -> list[int]:
                return [pid for pid in children(process.pid) if arguments(pid)[-2:] == ["build", ""]]

            [child] = wait_for(at_work, what=lambda: process.stderr)
            process.process.send_signal(number)
            assert process.wait(5) != 0
        wait_for(lambda: not members(child), 2.0, "the child's group is gone")
        assert not marker_of(database).exists()
        assert digests(database) == before
        if number == signal.SIGINT:
            assert not list(database.parent.glob(".selfheald/staging-*"))
            assert status(database)["error"]["code"] == "interrupted"
            made = selfheald.document("ensure", database)
            assert (made["outcome"], made["tables_created"]) == ("initialized", ["int_employee_benefits"])


def damage(database: Path) -> None:
    """Cut a database's end off, as a disk that was full does."""
    os.truncate(database, database.stat().st_size // 2)


def marker_of(database: Path) -> Path:
    return database.with_name(f"{database.name}.ready")
