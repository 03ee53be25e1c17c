"""The short way of ``selfheald wait`` says and does what the whole command would."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
import typer.main
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from selfheald import client
from selfheald.cli import app
from selfheald.marker import Status, write_marker
from selfheald.quick_wait import Order, is_answered, order_in
from selfheald.workspace import Database

NAME = "simulation.duckdb"
WORDS = st.sampled_from(
    [
        "--json",
        "--timeout",
        "--timeout=5",
        "5",
        "0",
        "2.5",
        ".5",
        "-1",
        "x",
        "1e3",
        "²",
        "",
        "w",
        "/w",
        "--",
        "-h",
        "--or-ensure",
    ]
)


@pytest.fixture
def database(tmp_path: Path) -> Database:
    """A file that stands for a database that is ready; its marker and its status."""
    database = Database.at(tmp_path / "w" / NAME)
    database.folder.mkdir()
    database.path.write_bytes(b"content")
    status = Status(database)
    status.begin("check_tables")
    status.end("check_tables")
    identity = client.file_identity(database.path)
    assert identity is not None
    assert write_marker(database, identity, [], fingerprint="f", origin="dbt", answers=None, checked_at=time.time())
    return database


@given(st.lists(WORDS, max_size=5))
def test_what_it_reads_the_whole_command_reads_alike(words: list[str]) -> None:
    order = order_in(["wait", *words])
    if order is not None:
        wait = typer.main.get_command(app).commands["wait"]  # type: ignore[attr-defined]
        read = wait.make_context("wait", list(words)).params
        assert (read["db"] and str(read["db"]), read["json"]) == (order.db, order.json)
        assert read["or_ensure"] is False
        assert read["config"] is None
        assert read["timeout"] >= 0


@pytest.mark.parametrize(
    ("words", "order"),
    [
        (["wait"], Order(None, False)),
        (["wait", "w"], Order("w", False)),
        (["wait", "w", "--timeout", "5", "--json"], Order("w", True)),
        (["wait", "--timeout", "0.5"], Order(None, False)),
    ],
)
def test_it_reads_what_scripts_write(words: list[str], order: Order) -> None:
    assert order_in(words) == order


@pytest.mark.parametrize(
    "words",
    [
        [], ["status"], ["exec", "w"], ["wait", "a", "b"], ["wait", "w", "--or-ensure"], ["wait", "--timeout"],
        ["wait", "--timeout", "-1"], ["wait", "--timeout", "soon"], ["wait", "--help"], ["wait", "--", "w"],
        ["wait", ""], ["--version", "wait"], ["wait", "--config", "c"],
    ],
)  # fmt: skip
def test_all_else_is_left_to_the_whole_command(words: list[str]) -> None:
    assert order_in(words) is None


@pytest.mark.parametrize("options", [[], ["--json"], ["--timeout", "5", "--json"]])
def test_it_says_what_the_whole_command_says(
    database: Database, options: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["wait", str(database.folder), *options]
    assert is_answered(words, {})
    told = capfd.readouterr()
    whole = CliRunner().invoke(app, words)
    assert whole.exit_code == 0
    assert _timeless(told.err) == _timeless(whole.stderr)
    assert _document(told.out) == _document(whole.stdout)
    assert bool(told.out) == ("--json" in options)


def test_without_an_answer_it_says_nothing(database: Database, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["wait", str(database.path)]
    assert not is_answered(words, {"_SELFHEALD_COMPLETE": "complete_bash"})
    os.utime(database.path, ns=(1, 1))
    assert not is_answered(words, {})
    database.marker.unlink()
    assert not is_answered(words, {})
    assert not is_answered(["wait", str(database.folder / "none" / "below")], {})
    assert not is_answered(["wait", "\0"], {})
    assert capfd.readouterr() == ("", "")


def _timeless(text: str) -> str:
    return re.sub(r"\d+\.\d+ s", "0 s", text)


def _document(text: str) -> Any:
    return {**json.loads(text), "waited_seconds": 0.0} if text else None
