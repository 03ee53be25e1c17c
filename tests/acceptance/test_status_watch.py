"""``status`` on terminals of all sizes, live and not, and with names that strangers chose."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from fixtures.waiting import wait_for
from processes import NAME, OWN_PROJECT, Daemon, Record, Running, Selfheald, command, holding, wait_until_marked
from projects import own_database
from rich.cells import cell_len
from terminals import ESCAPE, Screen, plain, terminal

from selfheald.client import status_path

#: Enters and leaves the other screen, hides and shows the cursor.
OTHER, BACK, HIDE, SHOW = (f"{ESCAPE}[?{words}" for words in ("1049h", "1049l", "25l", "25h"))
#: Names that could break a line, a table or a terminal; rich's markup; one that is no UTF-8.
HOSTILE = [b"[bold]x[/bold]", b"tab\there", b"new\nline", b"esc\x1b[2J\x1b]0;gone\x07", b"\xff\xfe", "é漢字".encode()]
#: What a record of a stranger's could do to a terminal.
POISON = "\x1b[2J\x1b]0;gone\x07\r\n[red]x"


@pytest.fixture(scope="module")
def watched(shared_selfheald: Selfheald, shared_root: Path) -> Iterator[Daemon]:
    with shared_selfheald.daemon(shared_root, DBT__PROJECT_DIR=str(OWN_PROJECT), WATCH__RESCAN=600) as daemon:
        yield daemon


def broken(folder: Path) -> Path:
    folder.mkdir(parents=True)
    database = folder / NAME
    database.write_bytes(b"this is no database" * 1000)
    return database


def on_terminal(selfheald: Selfheald, **more: str) -> dict[str, str]:
    return selfheald.settings() | {"TERM": "xterm-256color"} | more


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Workspaces with hostile names, each with a record that is hostile too."""
    root = tmp_path_factory.mktemp("strangers")
    for number, name in enumerate(HOSTILE):
        database = broken(root / os.fsdecode(name))
        file = status_path(database)
        file.parent.mkdir()
        error = {"code": POISON, "message": POISON, "hint": POISON, "log": POISON, "path": POISON}
        again = {"next_attempt_at": POISON} if number % 2 else {}
        holder = {"pid": POISON, "command": POISON, "mode": POISON}
        file.write_text(
            json.dumps({"state": "failed", "error": error, "holder": holder, "warnings": [POISON], **again})
        )
        attempt = {"outcome": POISON, "trigger": POISON, "error": error, "tables_created": [POISON]}
        file.with_name(f"{NAME}.history").write_text(json.dumps(attempt) + "\n")
    return root


class TestLive:
    def test_a_view_that_lives(self, selfheald: Selfheald, watched: Daemon, shared_root: Path) -> None:
        root = shared_root / "live"
        ready = own_database(root / "alpha")
        broken(root / "beta")
        wait_until_marked(ready)
        words = command("status", root, "--watch")
        with terminal(words, on_terminal(selfheald), (100, 12)) as screen:
            expect(screen, r"^beta +failed .+ not_a_database: ")
            frame = screen.frame()
            assert frame[0].startswith(f"Daemon PID {watched.pid} watches ")
            assert [line.split()[:2] for line in frame if re.match("alpha|beta", line)] == [
                ["beta", "failed"],
                ["alpha", "ready"],
            ]
            own_database(root / "gamma")
            expect(screen, r"^gamma +ready")
            expect(screen, r"^2 ready, 1 failed")
            expect(screen, r"last minute: [1-9]\d* checked, 1 initialized")
            screen.resize(40, 8)
            wait_for(lambda: max(map(cell_len, screen.frame()[:-1]), default=0) == 40, what=screen.frame)
            assert len(screen.frame()) == 8
            assert screen.frame()[4].startswith("failed beta")
            assert "and 2 more" in "\n".join(screen.frame())
            screen.send("\x03")
            assert screen.wait() == 0
        assert is_left_as_it_was(screen)
        assert plain(screen.text.rpartition(BACK)[2]).strip() == "2 ready, 1 failed"

    def test_it_ends_with_a_signal(self, selfheald: Selfheald, root: Path) -> None:
        with terminal(command("status", root, "--watch"), on_terminal(selfheald)) as screen:
            screen.expect("No databases here.")
            assert screen.frame()[0].startswith(f"No daemon watches {root} (start one: selfheald run {root})"[:79])
            screen.process.send_signal(signal.SIGTERM)
            assert screen.wait() == 128 + signal.SIGTERM
        assert is_left_as_it_was(screen)

    def test_no_colours_where_none_are_wanted(self, selfheald: Selfheald, root: Path) -> None:
        broken(root / "beta")
        with terminal(command("status", root, "--watch"), on_terminal(selfheald, NO_COLOR="1")) as screen:
            screen.expect("beta")
            screen.send("\x03")
            assert screen.wait() == 0
        assert not re.search(r"\x1b\[[0-9;]*[34]\dm", screen.text)

    def test_a_terminal_that_can_do_nothing(self, selfheald: Selfheald, root: Path) -> None:
        broken(root / "beta")
        with terminal(command("status", root, "--watch"), on_terminal(selfheald, TERM="dumb")) as screen:
            screen.expect("1 waiting")
            screen.send("\x03")
            assert screen.wait() == 0
        assert ESCAPE not in screen.text


class TestLines:
    def test_a_line_for_each_change(
        self, selfheald: Selfheald, watched: Daemon, shared_root: Path, tmp_path: Path
    ) -> None:
        root = shared_root / "lines"
        wait_until_marked(own_database(root / "alpha"))
        bad = broken(root / "beta")
        wait_for(lambda: status_path(bad).exists())
        with selfheald.started("status", root, "--watch") as process:
            wait_for(lambda: "1 ready, 1 failed" in process.stdout, what=lambda: process.stdout + process.stderr)
            outside = own_database(tmp_path / "gamma")
            with holding(outside) as notebook:
                made = outside.parent.rename(root / "gamma") / NAME
                wait_for(lambda: f"\tbusy\t{made}" in process.stdout, what=lambda: process.stdout)
                notebook.close()
            wait_for(lambda: f"\tready\t{made}" in process.stdout, what=lambda: process.stdout)
            made.with_name(f"{NAME}.ready").unlink()
            (bad.parent / ".selfheald" / f"{NAME}.status").unlink()
            bad.unlink()
            wait_for(lambda: f"\tgone\t{bad}" in process.stdout, what=lambda: process.stdout)
            process.process.send_signal(signal.SIGINT)
            assert process.wait() == 0
            assert process.stderr == ""
            lines = [line.split("\t") for line in process.stdout.splitlines()]
        assert all(re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", line[0]) for line in lines)
        assert lines[0][1].startswith(f"Daemon PID {watched.pid} ")
        assert lines[1][1:3] == ["failed", str(bad)]
        assert lines[2][1] == "1 ready, 1 failed"
        assert {line[1] for line in lines if line[2:3] == [str(made)]} >= {"busy", "building", "ready"}
        said = [line[1:] for line in lines if line[2:3] == [str(made)]]
        assert all(one != other for one, other in pairwise(said)), said

    def test_documents(self, selfheald: Selfheald, watched: Daemon, shared_root: Path) -> None:
        root = shared_root / "documents"
        ready = own_database(root / "alpha")
        wait_until_marked(ready)
        with selfheald.started("status", root, "--watch", "--json") as process:
            [first] = wait_for(lambda: documents(process), what=lambda: process.stderr)
            made = own_database(root / "beta")

            def last_of_made() -> bool:
                return [entry["ready"] for each in documents(process) for entry in each["databases"][-1:]][-1:] == [
                    True
                ] and documents(process)[-1]["databases"][-1]["database"] == str(made)

            wait_for(last_of_made, what=lambda: process.stdout)
            process.process.send_signal(signal.SIGINT)
            assert process.wait() == 0
            *_, last = documents(process)
        keys = {"format", "daemons", "summary", "databases", "gone", "at"}
        assert set(first) == set(last) == keys
        assert [entry["database"] for entry in first["databases"]] == [str(ready)]
        assert [entry["database"] for entry in last["databases"]] == [str(made)]
        assert first["summary"]["ready"] == 1
        assert last["summary"]["ready"] == 2
        assert first["daemons"][0]["pid"] == watched.pid

    def test_what_has_no_end_cannot_fail(self, selfheald: Selfheald, root: Path) -> None:
        done = selfheald.run("status", root, "--watch", "--fail")
        assert done.returncode == 2
        assert "--watch" in done.stderr


class TestStrangers:
    """Names and records are data: they are shown, and do nothing."""

    def test_in_a_pipe(self, selfheald: Selfheald, strangers: Path) -> None:
        listed = selfheald.ok("status", strangers).stdout
        assert len(listed.splitlines()) == len(HOSTILE) + 2, "each is one line"
        assert all(line.count("\t") == 2 for line in listed.splitlines()[1:-1])
        for name in HOSTILE:
            told = selfheald.ok("status", strangers / os.fsdecode(name)).stdout
            assert "not ready: " in told
            assert harmless(told)
        assert harmless(listed)
        assert r"/\xff\xfe/" in listed
        assert "/[bold]x[/bold]/" in listed

    @pytest.mark.parametrize("width", [120, 40])
    def test_on_a_terminal(self, width: int, selfheald: Selfheald, strangers: Path) -> None:
        shown = ["status", strangers], ["status", strangers / os.fsdecode(HOSTILE[3])]
        for words in shown:
            with terminal(command(*words), on_terminal(selfheald), (width, 24)) as screen:
                assert screen.wait() == 0
            assert harmless(plain(screen.text).replace("\r\n", "\n"))
            assert "failed" in screen.text or "not ready" in screen.text
        assert "[red]x" in screen.text

    def test_live(self, selfheald: Selfheald, strangers: Path) -> None:
        with terminal(command("status", strangers, "--watch"), on_terminal(selfheald), (100, 24)) as screen:
            screen.expect("failed")
            assert harmless("\n".join(screen.frame()))
            assert any(line.startswith("[bold]x[/bold]") for line in screen.frame())
            screen.send("\x03")
            assert screen.wait() == 0

    def test_a_command_to_be_copied_is_one(self, selfheald: Selfheald, strangers: Path) -> None:
        """In bash, whatever the folder is called."""
        for name in HOSTILE:
            told = selfheald.ok("status", strangers / os.fsdecode(name)).stdout
            line = next(line for line in told.splitlines()[::-1] if line.startswith("  selfheald ensure "))
            printed = subprocess.check_output(["bash", "-c", line.replace("selfheald ensure", "printf %s")])
            assert printed == os.fsencode(strangers) + b"/" + name + b"/" + NAME.encode()


def harmless(text: str) -> bool:
    """True if nothing in it moves a cursor, rings, or names a window."""
    return not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", text)


def is_left_as_it_was(screen: Screen) -> bool:
    """True if the terminal shows its own screen, and a cursor."""
    text = screen.text
    return OTHER in text and text.rfind(BACK) > text.rfind(OTHER) and text.rfind(SHOW) > text.rfind(HIDE)


def expect(screen: Screen, pattern: str) -> None:
    """Wait until a line of what is shown matches."""
    wait_for(lambda: re.search(pattern, "\n".join(screen.frame()), re.MULTILINE), what=screen.frame)


def documents(process: Running) -> list[Record]:
    return [json.loads(line) for line in process.stdout.splitlines(keepends=True) if line.endswith("\n")]
