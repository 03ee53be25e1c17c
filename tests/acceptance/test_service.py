"""The daemon as a service: what a service manager hears of it, and when it hears nothing more."""

from __future__ import annotations

import itertools
import json
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Copied
from fixtures.waiting import throughout, wait_for
from processes import ENDLESS, NAME, Daemon, Selfheald, status, wait_until_marked
from service_manager import Manager, standstill

#: Seconds of the watchdog in these tests.
PERIOD = 1.5


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    with Manager(tmp_path) as manager:
        yield manager


def under(manager: Manager, selfheald: Selfheald, **more: str) -> Selfheald:
    """Starts daemons that are told of the service manager."""
    return Selfheald(selfheald.folder, selfheald.environment | manager.environment | more, selfheald.prefix)


def test_a_life_from_ready_to_stopping(
    manager: Manager, selfheald: Selfheald, root: Path, complete: Copied, tmp_path: Path
) -> None:
    complete(root / "finished")
    (root / "building").mkdir()
    (root / "building" / NAME).touch()
    (root / "broken").mkdir()
    (root / "broken" / NAME).write_bytes(b"no database at all" * 1000)
    # What dbt's side is started with, as it sees it.
    seen = tmp_path / "seen.json"
    script = tmp_path / "variables.py"
    script.write_text(f"import json, os; json.dump(dict(os.environ), open({str(seen)!r}, 'w')); print('{{}}')")
    with under(manager, selfheald).daemon(root, DBT__VARS_COMMAND=[sys.executable, str(script)]) as daemon:
        wait_until_marked(root / "building" / NAME)
        wait_for(lambda: manager.status == "2 ready, 1 failed", what=lambda: manager.statuses)
        (ready,) = manager.said("READY=1")
        # Said once the first scan was done: it knows of all three.
        assert sum(int(word.split()[0]) for word in ready.lines["STATUS"].split(", ")) == 3
        assert "NOTIFY_SOCKET" not in json.loads(seen.read_text())
        before = len(manager.messages)
        throughout(2.5, lambda: len(manager.messages) == before, lambda: manager.messages[before:])
        daemon.stop()
        (stopping,) = manager.said("STOPPING=1")
        assert stopping.lines["STATUS"] == "stopping: 2 ready, 1 failed"
        assert {message.pid for message in manager.messages} == {daemon.pid}
    assert any("1 building" in text and "/8" in text for text in manager.statuses), manager.statuses
    moments = [message.sent_at for message in manager.messages if message.lines.keys() == {"STATUS"}]
    assert all(later - earlier > 0.9 for earlier, later in itertools.pairwise(moments)), moments


def test_a_start_that_fails_tells_why(manager: Manager, selfheald: Selfheald, root: Path) -> None:
    done = under(manager, selfheald).run("run", root / "nowhere")
    assert done.returncode == 2
    (failed,) = manager.messages
    assert failed.lines == {"STATUS": f"config_invalid: the root {root}/nowhere does not exist", "ERRNO": "22"}


def test_a_configuration_that_is_wrong_tells_why(manager: Manager, selfheald: Selfheald, root: Path) -> None:
    assert under(manager, selfheald).run("run", root, WATCH__SETTLE="soon").returncode == 2
    (failed,) = manager.messages
    assert "watch.settle" in failed.lines["STATUS"]


def test_a_loop_that_stands_still_starves_the_watchdog(selfheald: Selfheald, root: Path, tmp_path: Path) -> None:
    with Manager(tmp_path, PERIOD) as manager:
        daemon = under(manager, selfheald, **standstill(tmp_path / "standstill")).daemon(root)
        daemon.start()
        try:
            began = time.monotonic()
            wait_for(lambda: len(manager.said("WATCHDOG=1")) >= 6, what=lambda: manager.messages)
            assert time.monotonic() - began < 4 * PERIOD
            assert daemon.process is not None
            daemon.process.send_signal(signal.SIGUSR1)
            fed = wait_for(lambda: _still_since(manager, PERIOD), what=lambda: manager.messages)
            throughout(PERIOD, lambda: len(manager.said("WATCHDOG=1")) == fed)
            assert daemon.process.poll() is None
        finally:
            daemon.kill()


def _still_since(manager: Manager, seconds: float) -> int:
    """How often the watchdog was fed, once that is so many seconds ago."""
    fed = manager.said("WATCHDOG=1")
    return len(fed) if time.time() - fed[-1].sent_at > seconds else 0


def test_it_is_fed_while_it_builds_and_while_it_stops(selfheald: Selfheald, root: Path, tmp_path: Path) -> None:
    with Manager(tmp_path, PERIOD) as manager:
        settings = {"DBT__PRE_SQL": ENDLESS, "SHUTDOWN__GRACE": 2 * PERIOD}
        with under(manager, selfheald).daemon(root, **settings) as daemon:
            (root / NAME).touch()
            wait_for(lambda: status(root / NAME).get("state") == "in_progress")
            wait_for(lambda: manager.said("WATCHDOG=1"))
            _fed_throughout(manager, daemon, 2 * PERIOD)
            assert daemon.process is not None
            daemon.process.send_signal(signal.SIGTERM)
            wait_for(lambda: manager.said("STOPPING=1"))
            assert manager.status == "stopping: 1 building 0/8"
            while daemon.process.poll() is None:
                _fed_throughout(manager, daemon, PERIOD / 2)


def _fed_throughout(manager: Manager, daemon: Daemon, seconds: float) -> None:
    assert daemon.process is not None
    process = daemon.process
    throughout(
        seconds,
        lambda: process.poll() is not None or time.time() - manager.said("WATCHDOG=1")[-1].sent_at < PERIOD,
        lambda: manager.messages,
    )


def test_without_a_service_manager_there_is_none_to_speak_to(selfheald: Selfheald, root: Path) -> None:
    selfheald.environment["NOTIFY_SOCKET"] = str(root / "nowhere")
    with selfheald.daemon(root, LOG__LEVEL="DEBUG") as daemon:
        pass
    assert "watchdog" not in daemon.told()
