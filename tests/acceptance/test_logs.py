"""``selfheald logs``: what a daemon wrote, filtered, coloured, followed, and where to look when it is not in a file."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import Copied
from fixtures.waiting import DEADLINE, wait_for
from processes import NAME, Selfheald, command, wait_until_marked
from test_journal import journal_of

OLD = "2026-03-01 10:00:00.000 WARNING  [/srv/old/simulation.duckdb] long ago\n"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str], complete: Copied) -> Path:
    """A log of two lives of a daemon: one wrote text, the next JSON; and what was rotated away before."""
    folder = tmp_path_factory.mktemp("written")
    root, log = folder / "root", folder / "selfheald.log"
    for name in ("good", "bad"):
        (root / name).mkdir(parents=True)
    (folder / "selfheald.log.1").write_text(OLD)
    for as_json in ("false", "true"):
        settings = {"LOG__FILE": str(log), "LOG__JSON": as_json, "LOG__LEVEL": "DEBUG"}
        with Selfheald(folder, environment).daemon(root, **settings):
            if as_json == "false":
                wait_until_marked(complete(root / "good"))
            else:
                (root / "bad" / NAME).write_bytes(b"no database at all" * 1000)
                wait_for(lambda: "not_a_database" in log.read_text())
    return log


def logs(selfheald: Selfheald, log: Path, *arguments: object) -> list[str]:
    return selfheald.ok("logs", "--file", log, *arguments).stdout.splitlines()


def test_both_forms_and_what_was_rotated_away(selfheald: Selfheald, written: Path) -> None:
    shown = logs(selfheald, written)
    assert shown[0] + "\n" == OLD
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} [A-Z]+ +\S", line) for line in shown), shown
    assert sum("ready: watching" in line for line in shown) == 2
    assert sum("not_a_database" in line for line in shown) == 1
    assert shown == sorted(shown, key=lambda line: line[:23])
    assert logs(selfheald, written, "-n", 2) == shown[-2:]
    assert logs(selfheald, written, "-n", 0) == []
    assert logs(selfheald, written, "-n", len(shown) - 1) == shown[1:]


def test_filters(selfheald: Selfheald, written: Path) -> None:
    root = written.parent / "root"
    shown = logs(selfheald, written)
    assert logs(selfheald, written, "--level", "error") == [line for line in shown if " ERROR " in line]
    bad = logs(selfheald, written, "--database", root / "bad" / NAME)
    assert bad == [line for line in shown if f"[{root}/bad/{NAME}]" in line] != []
    assert logs(selfheald, written, "--database", root / "bad") == bad
    assert len(logs(selfheald, written, "--database", root)) > len(bad)
    (root.parent / "link").symlink_to(root)
    assert logs(selfheald, written, "--database", root.parent / "link" / "bad") == bad
    assert logs(selfheald, written, "--since", "1 hour ago") == shown[1:]
    assert logs(selfheald, written, "--since", "1 hour ago", "-n", 1, "--level", "ERROR", "--database", root) == [
        line for line in shown if " ERROR " in line
    ]
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    assert logs(selfheald, written, "--since", tomorrow) == []


def test_json(selfheald: Selfheald, written: Path) -> None:
    records = [json.loads(line) for line in logs(selfheald, written, "--json")]
    assert len(records) == len(logs(selfheald, written))
    assert len({frozenset(record) for record in records}) == 1
    (failed,) = [record for record in records if record["level"] == "ERROR"]
    assert failed["error_code"] == "not_a_database"
    assert records[0] | {"timestamp": None} == dict.fromkeys(records[0]) | {
        "level": "WARNING", "database": "/srv/old/simulation.duckdb", "message": "long ago",
    }  # fmt: skip


@pytest.mark.parametrize(
    "arguments", [("--level", "LOUD"), ("--since", "soon"), ("-n", "-1"), ("--file", "/nowhere/log")]
)
def test_what_is_refused(arguments: tuple[str, str], selfheald: Selfheald, written: Path) -> None:
    done = selfheald.run("logs", "--file", written, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr


def test_followed_over_rotation_until_ctrl_c(selfheald: Selfheald, tmp_path: Path) -> None:
    log = tmp_path / "log" / "selfheald.log"
    now = datetime.now().astimezone()

    def line(text: str, level: str = "INFO") -> str:
        return f"{now:%Y-%m-%d %H:%M:%S}.000 {level: <8} {text}\n"

    with selfheald.started("logs", "-f", "--level", "INFO", LOG__FILE=str(log)) as following:
        wait_for(lambda: following.stderr == f"waiting for {log}\n", what=lambda: following.stderr)
        log.parent.mkdir()
        log.write_text(line("one") + line("hidden", "DEBUG"))
        wait_for(lambda: "one" in following.stdout)
        with log.open("a") as more:
            more.write(line("two"))
        log.rename(tmp_path / "log" / "selfheald.log.1")
        log.write_text(line("three"))
        wait_for(lambda: "three" in following.stdout)
        os.truncate(log, 0)
        log.write_text(line("4"))
        wait_for(lambda: following.stdout.endswith("INFO     4\n"), what=lambda: following.stdout)
        following.process.send_signal(signal.SIGINT)
        assert following.wait() == 130
        assert following.stdout == line("one") + line("two") + line("three") + line("4")
        assert following.stderr == f"waiting for {log}\n"


@pytest.mark.parametrize("coloured", [True, False])
def test_colours_on_a_terminal(coloured: bool, selfheald: Selfheald, written: Path) -> None:
    ours, theirs = pty.openpty()
    more = {"TERM": "xterm"} | ({} if coloured else {"NO_COLOR": "1"})
    process = subprocess.Popen(
        command("logs", "--file", written, "--level", "ERROR"), stdin=theirs, stdout=theirs, stderr=theirs,
        env=selfheald.environment | more,
    )  # fmt: skip
    os.close(theirs)
    assert process.wait(DEADLINE) == 0
    output = os.read(ours, 65536).decode()
    os.close(ours)
    assert "not_a_database" in output
    assert ("\x1b[31m\x1b[1mERROR" in output) is coloured, output
    assert ("\x1b" in output) is coloured


def test_no_byte_of_a_log_moves_a_cursor(selfheald: Selfheald, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(OLD.encode().replace(b"long ago", b"\x1b[2J\xff\rx"))
    assert logs(selfheald, log) == [OLD.replace("long ago", "\\x1b[2J\\xff\\rx").rstrip("\n")]


def test_where_the_daemon_logs_elsewhere(
    selfheald: Selfheald, tmp_path: Path, environment: dict[str, str], root: Path
) -> None:
    named: dict[str, Any] = {"LOG__FILE": str(tmp_path / "nowhere.log"), "WATCH__ROOTS": [str(root)]}
    mine = {name: value for name, value in environment.items() if name != "SELFHEALD_LOG__FILE"}
    mine["XDG_STATE_HOME"] = str(tmp_path / "state")
    with journal_of(tmp_path, mine, "run", root) as journal:
        journal.line("ready: watching")
        for arguments in ([], ["-f"]):
            done = selfheald.run("logs", *arguments, **named)
            assert (done.returncode, done.stdout) == (2, "")
            assert re.search(r"Read it with: journalctl (_PID=\d+|(--user )?-u \S+\.service)$", done.stderr.strip())
        journal.end()
    with selfheald.daemon(root, LOG__FILE=str(tmp_path / "else where.log")):
        done = selfheald.run("logs", **named)
        assert done.stderr.strip().endswith(f"Read it with: selfheald logs --file '{tmp_path}/else where.log'")
    done = selfheald.run("logs", LOG__FILE="")
    assert (done.returncode, "stderr alone" in done.stderr) == (2, True)
