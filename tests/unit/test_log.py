"""The log: one line for each event, whatever stands in it, and no failure of a sink reaches the program."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from selfheald import log
from selfheald.config import LogConfig

REPOSITORY = Path(__file__).parents[2]
DATABASE = "/srv/simulations/alpha/dbt/simulation.duckdb"
nasty = st.text(st.characters(codec=None), max_size=30) | st.text("\n\r\x1b[]{}<>%\udcff\u2028\u202eéa\\", max_size=20)


@pytest.fixture(autouse=True)
def _let_go_of_the_log() -> Iterator[None]:
    yield
    log.close()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def configured(file: Path | str = "", **values: Any) -> io.StringIO:
    """Configure the log; what stands for stderr."""
    stream = io.StringIO()
    log.configure(LogConfig.model_validate({"file": str(file), **values}), stream=stream)
    return stream


def records(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.split("\n")[:-1]]


# --- lines for people


def test_a_line_for_people(tmp_path: Path) -> None:
    file = tmp_path / "selfheald.log"
    stream = configured(file)
    log.event_log("step_completed", "load_seeds completed in 0.4 s", database=DATABASE)
    log.event_log("heal_failed", "dbt failed", "ERROR", error_code="dbt_failed")
    first, second = stream.getvalue().splitlines()
    time = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}"
    assert re.fullmatch(rf"{time} INFO     \[…/alpha/dbt/simulation\.duckdb\] load_seeds completed in 0\.4 s", first)
    assert re.fullmatch(rf"{time} ERROR    dbt failed \(dbt_failed\)", second)
    # In the file the whole path, so that it can be searched for.
    assert file.read_text(encoding="utf-8").splitlines() == [first.replace("…/alpha", "/srv/simulations/alpha"), second]


def test_time_is_local(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = configured()
    log.event_log("x", "now")
    written = datetime.strptime(stream.getvalue()[:19], "%Y-%m-%d %H:%M:%S").astimezone()
    assert abs((datetime.now().astimezone() - written).total_seconds()) < 60


def test_level_counts_for_all_sinks(tmp_path: Path) -> None:
    file = tmp_path / "x.log"
    stream = configured(file, level="WARNING")
    log.event_log("x", "quiet")
    log.event_log("x", "loud", "WARNING")
    assert "quiet" not in stream.getvalue() + file.read_text()
    assert stream.getvalue().count("loud") == file.read_text().count("loud") == 1


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/a/b", "/a/b"),
        ("/s/a/simulation.duckdb", "/s/a/simulation.duckdb"),
        (DATABASE, "…/alpha/dbt/simulation.duckdb"),
        ("", ""),
    ],
)
def test_short_paths(path: str, shown: str) -> None:
    assert log.short_path(path) == shown


@pytest.mark.parametrize(
    ("terminal", "no_colour", "coloured"), [(True, "", True), (True, "1", False), (False, "", False)]
)
def test_colours_on_a_terminal_only(
    terminal: bool, no_colour: str, coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", no_colour)
    stream = Terminal() if terminal else io.StringIO()
    log.configure(LogConfig.model_validate({"file": ""}), stream=stream)
    log.event_log("x", "<red>{level}</red> %s")
    assert ("\x1b[" in stream.getvalue()) is coloured
    assert stream.getvalue().endswith("<red>{level}</red> %s\n")


def test_json_is_never_coloured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = Terminal()
    log.configure(LogConfig.model_validate({"file": "", "json": True}), stream=stream)
    log.event_log("x", "plain")
    assert records(stream.getvalue())[0]["message"] == "plain"


# --- JSON


def test_json_lines_have_all_keys_always(tmp_path: Path) -> None:
    file = tmp_path / "x.log"
    stream = configured(file, json=True)
    log.event_log("started", "bare")
    log.event_log(
        "step_completed",
        "seeds",
        "SUCCESS",
        attempt_id="a1",
        step_name="load_seeds",
        database=Path(DATABASE),
        started_at="2026-11-23T16:00:00.000Z",
        completed_at=datetime(2026, 11, 23, 16, 0, 1, 500_000, UTC),
        duration_seconds=1.5,
        success=True,
        error_code=None,
        tables={"seed": ("a", "b")},
    )
    assert file.read_text() == stream.getvalue()
    bare, full = records(stream.getvalue())
    assert tuple(bare) == log.KEYS
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", bare.pop("timestamp"))
    assert {key: value for key, value in bare.items() if value is not None} == {
        "level": "INFO",
        "message": "bare",
        "event": "started",
    }
    assert tuple(full) == (*log.KEYS, "tables")
    del full["timestamp"]
    assert full == {
        "level": "SUCCESS",
        "message": "seeds",
        "event": "step_completed",
        "attempt_id": "a1",
        "step_name": "load_seeds",
        "database": DATABASE,
        "started_at": "2026-11-23T16:00:00.000Z",
        "completed_at": "2026-11-23T16:00:01.500Z",
        "duration_seconds": 1.5,
        "success": True,
        "error_code": None,
        "exception": None,
        "tables": {"seed": ["a", "b"]},
    }


def test_json_says_null_for_what_json_cannot_say() -> None:
    stream = configured(json=True)
    log.event_log("x", "y", duration_seconds=float("nan"), odd={1: {2}}, thing=object)
    (found,) = records(stream.getvalue())
    assert found["duration_seconds"] is None
    assert found["odd"] == {"1": [2]}
    assert found["thing"] == "<class 'object'>"


# --- what strangers write


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(message=nasty, database=nasty, step=nasty)
def test_a_line_is_always_a_line(message: str, database: str, step: str, tmp_path: Path) -> None:
    for as_json in (False, True):
        file = tmp_path / "x.log"
        file.unlink(missing_ok=True)
        stream = configured(file, json=as_json)
        log.event_log("x", message, database=database, step_name=step)
        log.close()
        content = file.read_bytes()
        for text in (stream.getvalue(), content.decode("utf-8")):
            assert text.endswith("\n")
            assert len(text.splitlines()) == 1
            assert text[:-1].isprintable() or not re.search(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e]", text[:-1])
            if as_json:
                (found,) = records(text)
                found["message"].encode("utf-8")
                if not re.search("[\ud800-\udfff]", message):
                    assert found["message"] == message


def test_a_path_that_is_no_utf8_reaches_every_sink(tmp_path: Path) -> None:
    file = tmp_path / "x.log"
    stream = configured(file)
    log.event_log("x", "found", database=Path(os.fsdecode(b"/srv/\xff\n/d")))
    assert r"/srv/\xff\n/d" in file.read_text(encoding="utf-8")
    assert r"/srv/\xff\n/d" in stream.getvalue()


def test_an_ascii_terminal_takes_every_line() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", errors="strict")
    log.configure(LogConfig.model_validate({"file": ""}), stream=stream)
    log.event_log("x", "päth", database=DATABASE)
    assert b"[\\u2026/alpha/dbt/simulation.duckdb] p\\xe4th\n" in raw.getvalue()


# --- exceptions


def failing(secret: str) -> None:
    row = {"salary": secret}
    raise ValueError(f"bad row\n{len(row)}")


def test_exceptions_show_their_place_but_no_values(tmp_path: Path) -> None:
    for as_json in (False, True):
        file = tmp_path / f"{as_json}.log"
        stream = configured(file, json=as_json)
        try:
            failing("s3cret")
        except ValueError as error:
            log.event_log("crashed", "it failed", "ERROR", exception=error)
        text = stream.getvalue() + file.read_text()
        assert "s3cret" not in text
        assert text.count("\n") == 2
        assert re.search(r"ValueError: bad row\\n1 \(test_log\.py:\d+ in failing < test_log\.py:\d+ in ", text)


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def test_an_exception_that_cannot_speak_is_still_named() -> None:
    stream = configured()
    log.event_log("x", "y", exception=Unspeakable())
    assert stream.getvalue().endswith("y: Unspeakable\n")


# --- sinks that fail


def test_a_folder_that_cannot_be_made_means_stderr_alone(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for as_json in (False, True):
        for stderr in (True, False):
            stream = io.StringIO()
            config = LogConfig.model_validate({"file": str(tmp_path / "file" / "x.log"), "json": as_json})
            log.configure(config, stderr=stderr, stream=stream)
            log.event_log("x", "goes on")
            warning, line = stream.getvalue().splitlines()
            assert f"No log file: {tmp_path}/file cannot be written" in warning
            assert "WARNING" in warning
            assert "goes on" in line


def test_a_folder_of_others_means_stderr_alone(tmp_path: Path) -> None:
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root and setpriv to become another user")
    script = (
        f"import sys; sys.path.insert(0, {str(REPOSITORY)!r})\n"
        "from selfheald import log; from selfheald.config import LogConfig\n"
        "log.configure(LogConfig(file='/var/log/selfheald-test/x.log')); log.event_log('x', 'goes on')"
    )
    become = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--", sys.executable]
    if subprocess.run(
        [*become, "-c", script.splitlines()[0] + "; import selfheald.log"], cwd="/", check=False
    ).returncode:
        pytest.skip("another user cannot read the package or its interpreter here")
    result = subprocess.run([*become, "-W", "error", "-c", script], cwd="/", capture_output=True, text=True, check=True)
    warning, line = result.stderr.splitlines()
    assert "/var/log/selfheald-test cannot be written (Permission denied)" in warning
    assert line.endswith("goes on")


def test_a_log_file_that_disappears_is_made_anew(tmp_path: Path) -> None:
    file = tmp_path / "logs" / "x.log"
    configured(file)
    log.event_log("x", "line one")
    file.unlink()
    log.event_log("x", "line two")
    shutil.rmtree(file.parent)
    log.event_log("x", "line three")
    assert file.read_text().count("\n") == 1
    file.rename(file.with_name("moved"))
    log.event_log("x", "fourth")
    assert "fourth" in file.read_text()


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("stderr", [False, True])
def test_while_the_file_cannot_be_made_lines_go_to_stderr(
    as_json: bool, stderr: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", stream := io.StringIO())
    file = tmp_path / "logs" / "x.log"
    log.configure(LogConfig.model_validate({"file": str(file), "json": as_json}), stderr=stderr)
    shutil.rmtree(file.parent)
    file.parent.write_text("in the way")
    log.event_log("x", "line one")
    log.event_log("x", "line two")
    file.parent.unlink()
    log.event_log("x", "line three")
    said = stream.getvalue()
    assert said.count("cannot be written") == 1
    assert (said.count("line one"), said.count("line two"), said.count("line three")) == (1, 1, int(stderr))
    assert "line three" in file.read_text()
    assert "Traceback" not in said
    if as_json:
        assert all(set(record) >= set(log.KEYS) for record in records(said))


# loguru cannot close a file whose last bytes found no room: the interpreter does, with a warning.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk_is_no_exception() -> None:
    stream = configured("/dev/full")
    log.event_log("x", "goes on")
    assert "goes on" in stream.getvalue()


def test_a_file_that_cannot_be_opened_at_first_is_opened_when_it_can(tmp_path: Path) -> None:
    (tmp_path / "logs").touch()
    file = tmp_path / "logs" / "x.log"
    stream = configured(file)
    log.event_log("x", "line one")
    (tmp_path / "logs").unlink()
    log.event_log("x", "line two")
    assert file.read_text().count("\n") == 1
    assert "line two" in file.read_text()
    assert stream.getvalue().count("cannot be written") == 1


def test_a_line_begins_on_a_line_of_its_own_after_half_a_one(tmp_path: Path) -> None:
    """A full disk takes what still finds room."""
    (tmp_path / "logs").touch()
    file = tmp_path / "logs" / "x.log"
    configured(file)
    (tmp_path / "logs").unlink()
    (tmp_path / "logs").mkdir()
    file.write_text("half a li")
    log.event_log("x", "whole")
    half, whole = file.read_text().splitlines()
    assert (half, whole.endswith("whole")) == ("half a li", True)


def test_a_stderr_that_is_closed_or_missing_is_no_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = configured()
    stream.close()
    log.event_log("x", "y")
    log.configure(LogConfig.model_validate({"file": ""}), stream=stream)
    monkeypatch.setattr(sys, "stderr", None)
    log.configure(LogConfig.model_validate({"file": ""}))
    log.event_log("x", "y")


# --- rotation


def test_rotation_and_retention(tmp_path: Path) -> None:
    file = tmp_path / "a {b} [c].log"
    configured(file, rotation="1 kB", retention=2, level="DEBUG")
    for number in range(60):
        log.event_log("x", f"{number:03} " + "x" * 60)
    log.close()
    files = list(tmp_path.iterdir())
    assert file in files
    assert len(files) == 3
    assert all(one.stat().st_size <= 1000 for one in files)
    assert "059" in file.read_text()


def test_no_rotation(tmp_path: Path) -> None:
    file = tmp_path / "x.log"
    configured(file, rotation="", retention="")
    for _ in range(50):
        log.event_log("x", "x" * 60)
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(("rotation", "retention"), [("1 day", "30 days"), ("00:00", "2 weeks"), ("12 hours", 3)])
def test_periods_are_understood(rotation: str, retention: Any, tmp_path: Path) -> None:
    configured(tmp_path / "x.log", rotation=rotation, retention=retention)
    log.event_log("x", "y")
    assert "y" in (tmp_path / "x.log").read_text()


def test_configuring_again_replaces(tmp_path: Path) -> None:
    first = configured(tmp_path / "a.log")
    second = configured(tmp_path / "b.log")
    log.event_log("x", "once")
    assert first.getvalue() == (tmp_path / "a.log").read_text() == ""
    assert second.getvalue().count("once") == (tmp_path / "b.log").read_text().count("once") == 1


# --- around it


def test_libraries_warnings_become_lines() -> None:
    stream = configured(json=True)
    logging.getLogger("some.library").warning("odd %s", "thing\n")
    logging.getLogger("some.library").info("not of interest")
    try:
        failing("x")
    except ValueError:
        logging.getLogger("some.library").exception("broke")
    warning, error = records(stream.getvalue())
    assert (warning["level"], warning["message"], warning["event"]) == (
        "WARNING",
        "some.library: odd thing\n",
        "library_message",
    )
    assert error["level"] == "ERROR"
    assert error["exception"].startswith("ValueError: bad row")


def test_silent_until_configured() -> None:
    script = (
        f"import sys; sys.path.insert(0, {str(REPOSITORY)!r})\n"
        "from selfheald import log\n"
        "code = compile('event_log(\"x\", \"heard\", \"ERROR\")', 'x', 'exec')\n"
        "exec(code, {'__name__': 'selfheald.something', 'event_log': log.event_log})\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stderr == result.stdout == ""
