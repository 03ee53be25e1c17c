"""One daemon for each root."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from fixtures.processes import run_python, started

from selfheald import presence
from selfheald.client import daemon_root
from selfheald.errors import InitializationError
from selfheald.locks import held
from selfheald.presence import claim, daemon_record

NAME = "simulation.duckdb"
CLAIM = """
import sys, pathlib
from selfheald.presence import claim
with claim([pathlib.Path(sys.argv[1])], "simulation.duckdb", []) as presence:
    presence.tell("ready", "native")
    print("claimed", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "PATIENCE_SECONDS", 0.05)


def test_a_root_is_held_for_as_long_as_the_body_runs(tmp_path: Path) -> None:
    with claim([tmp_path], NAME, []):
        assert held(tmp_path / ".selfheald" / "daemon.lock")
        assert daemon_root(tmp_path / "w" / NAME) == tmp_path
    assert not held(tmp_path / ".selfheald" / "daemon.lock")
    with claim([tmp_path], NAME, []):
        pass


def test_a_body_that_raises_frees_its_roots(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), claim([tmp_path], NAME, []):
        raise ZeroDivisionError
    assert not held(tmp_path / ".selfheald" / "daemon.lock")


def test_it_says_who_it_is(tmp_path: Path) -> None:
    assert daemon_record(tmp_path)["state"] == "down"
    with claim([tmp_path], NAME, ["target", ".git"]) as claimed:
        assert daemon_record(tmp_path)["state"] == "starting"
        claimed.tell("ready", "native")
        record = json.loads((tmp_path / ".selfheald" / "daemon.json").read_text())
        assert record["host"]
        assert record["version"]
        assert record["started_at"].endswith("Z")
        told = {
            "format": 1,
            "root": str(tmp_path),
            "pid": os.getpid(),
            "state": "ready",
            "watcher": "native",
            "database": NAME,
            "exclude": [".git", "target"],
        }
        assert record | told == record
        shown = daemon_record(tmp_path)
        assert shown.keys() == {"root", "pid", "host", "version", "state", "watcher"}
        assert (shown["pid"], shown["state"], shown["watcher"]) == (os.getpid(), "ready", "native")
    shown = daemon_record(tmp_path)
    assert (shown["pid"], shown["state"], shown["watcher"]) == (None, "down", None)


def test_a_second_daemon_names_the_first(tmp_path: Path) -> None:
    with started(CLAIM, tmp_path) as first:
        with pytest.raises(InitializationError) as caught, claim([tmp_path], NAME, []):
            pass
        assert caught.value.code == "concurrent_initialization"
        assert f"PID {first.pid} " in caught.value.message
        assert caught.value.path == str(tmp_path)
        assert daemon_record(tmp_path)["pid"] == first.pid


def test_a_root_below_another_daemon_s_is_taken_too(tmp_path: Path) -> None:
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    with started(CLAIM, tmp_path) as first:
        with pytest.raises(InitializationError) as caught, claim([below], NAME, []):
            pass
        assert f"PID {first.pid} " in caught.value.message
        assert f"watches {tmp_path} already" in caught.value.message
        assert list(below.iterdir()) == []


def test_one_root_that_is_taken_frees_the_others(tmp_path: Path) -> None:
    free, taken = tmp_path / "free", tmp_path / "taken"
    free.mkdir()
    taken.mkdir()
    with started(CLAIM, taken):
        with pytest.raises(InitializationError), claim([free, taken], NAME, []):
            pass
        assert not held(free / ".selfheald" / "daemon.lock")
        assert held(taken / ".selfheald" / "daemon.lock")


def test_a_dead_daemon_is_none(tmp_path: Path) -> None:
    with started(CLAIM, tmp_path) as first:
        first.kill()
        first.wait()
        assert daemon_record(tmp_path)["state"] == "down"
        with claim([tmp_path], NAME, []):
            assert daemon_record(tmp_path)["state"] == "ready"


def test_a_root_that_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for root, what in ((tmp_path / "no", "does not exist"), (tmp_path / "file", "is not a folder")):
        with pytest.raises(InitializationError) as caught, claim([root], NAME, []):
            pass
        assert caught.value.code == "config_invalid"
        assert what in caught.value.message


def test_a_root_that_may_not_be_written(open_path: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from selfheald.errors import InitializationError\n"
        "from selfheald.presence import claim\n"
        "become_nobody()\n"
        "try:\n"
        "    with claim([pathlib.Path(sys.argv[1])], 'x', []): pass\n"
        "except InitializationError as error: print(error.code)\n"
    )
    assert run_python(code, open_path) == "permission_denied\n"


def test_a_root_that_was_deleted_and_made_again_is_claimed_again(tmp_path: Path) -> None:
    root, other = tmp_path / "root", tmp_path / "other"
    root.mkdir()
    other.mkdir()
    with claim([root, other], NAME, []) as claimed:
        kept = claimed.locks[other]
        shutil.rmtree(root)
        claimed.renew()
        claimed.tell("ready", "degraded")
        assert not root.exists()
        root.mkdir()
        assert daemon_root(root / NAME) is None
        claimed.renew()
        claimed.tell("ready", "native")
        assert daemon_root(root / NAME) == root
        assert daemon_record(root)["watcher"] == "native"
        assert claimed.locks[other] is kept
    assert not held(root / ".selfheald" / "daemon.lock")


def test_a_root_that_another_daemon_claimed_meanwhile_is_not_taken_from_it(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    with claim([root], NAME, []) as claimed:
        shutil.rmtree(root)
        root.mkdir()
        with started(CLAIM, root) as other:
            claimed.renew()
            assert daemon_record(root)["pid"] == other.pid
        assert not held(root / ".selfheald" / "daemon.lock")
        claimed.renew()
        assert held(root / ".selfheald" / "daemon.lock")
