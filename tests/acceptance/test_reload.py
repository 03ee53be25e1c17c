"""SIGHUP: the configuration is read again, and followed as a whole or not at all."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
from pathlib import Path
from typing import Any

from conftest import Copied
from fixtures.waiting import DEADLINE, wait_for
from processes import ENDLESS, NAME, Selfheald, at_work, command, status, wait_until_marked
from reloads import Reloaded

from selfheald.client import daemon_root, read_record, valid_marker
from selfheald.locks import held


def folders(above: Path, *names: str) -> list[Path]:
    for name in names:
        (above / name).mkdir()
    return [above / name for name in names]


def lock_of(root: Path) -> Path:
    return root / ".selfheald" / "daemon.lock"


def test_roots_come_and_go(reloaded: Reloaded, selfheald: Selfheald, tmp_path: Path, complete: Copied) -> None:
    first, second, third = folders(tmp_path, "first", "second", "third")
    daemon = reloaded.start(first, second)
    old = [complete(first / "a"), complete(second / "b")]
    for database in old:
        wait_until_marked(database)
    new = complete(third / "c")
    assert "watch.roots changed" in reloaded.reload(second, third)
    wait_until_marked(new)
    wait_for(lambda: not held(lock_of(first)))
    assert not (first / ".selfheald" / "daemon.json").exists()
    assert daemon_root(new) == third
    record = read_record(third / ".selfheald" / "daemon.json")
    assert record is not None
    assert (record["pid"], record["state"]) == (daemon.pid, "ready")
    wait_for(lambda: reloaded.manager.status == "2 ready", what=lambda: reloaded.manager.statuses)
    # Another may have it now. What happens in the one that stayed and in the new one is seen by events.
    with selfheald.daemon(first):
        for root in (second, third):
            wait_until_marked(complete(root / "later"))
    reloading = reloaded.manager.said("RELOADING=1")
    assert len(reloading) == 1
    assert int(reloading[0].lines["MONOTONIC_USEC"]) > 0
    assert len(reloaded.manager.said("READY=1")) == 2
    daemon.stop()


def test_a_wrong_configuration_is_refused_as_a_whole(reloaded: Reloaded, selfheald: Selfheald, tmp_path: Path) -> None:
    first, second, third, taken = folders(tmp_path, "first", "second", "third", "taken")
    daemon = reloaded.start(first)

    def refused(*roots: Path, **settings: Any) -> str:
        before = len(daemon.log_lines("reload_refused"))
        assert "stays as it was" in reloaded.reload(*roots, **settings)
        assert held(lock_of(first))
        assert not any(held(lock_of(root)) for root in (second, third))
        assert "the last reload was refused" in wait_for(lambda: reloaded.manager.said("READY=1")[-1].lines["STATUS"])
        return "\n".join(line["message"] for line in daemon.log_lines("reload_refused")[before:])

    told = refused(second, watch__settle="soon", watch__heel="found")
    assert "watch.settle" in told
    assert "did you mean watch.heal?" in told
    del reloaded.settings["watch.settle"], reloaded.settings["watch.heel"]
    assert f"{tmp_path}/nowhere does not exist" in refused(first, second, tmp_path / "nowhere")
    assert "no folder to watch" in refused()
    (taken / "below").mkdir()
    with selfheald.daemon(taken / "below") as other:
        assert f"PID {other.pid}" in refused(first, second, taken / "below")
        assert f"PID {other.pid}" in refused(second, taken, third)
    assert "reloaded" in reloaded.reload(first)
    wait_for(lambda: reloaded.manager.status == "no databases")
    daemon.stop()


def test_running_work_ends_in_a_root_that_is_dropped(reloaded: Reloaded, tmp_path: Path) -> None:
    first, second = folders(tmp_path, "first", "second")
    (first / NAME).touch()
    daemon = reloaded.start(first, dbt__pre_sql="select count(*) from range(30000) a, range(30000) b")
    wait_for(lambda: status(first / NAME).get("state") == "in_progress")
    reloaded.reload(second, dbt__pre_sql=ENDLESS)
    # Who waits for it has a daemon until it is done.
    while status(first / NAME)["state"] == "in_progress":
        still = status(first / NAME)["state"] == "in_progress"
        assert held(lock_of(first)) or not still
    assert wait_until_marked(first / NAME)["origin"] == "dbt"
    wait_for(lambda: not held(lock_of(first)))
    wait_for(lambda: daemon.log_lines("root_let_go"))
    daemon.stop()


def test_a_root_goes_and_comes_while_work_is_under_way(reloaded: Reloaded, tmp_path: Path) -> None:
    """It stays ours for as long as the work lasts, which is not begun a second time."""
    first, second = folders(tmp_path, "first", "second")
    (first / NAME).touch()
    daemon = reloaded.start(first)
    child = at_work(daemon.pid, first / NAME)
    os.kill(child, signal.SIGSTOP)
    for roots in ([second], [first, second], [second], [second, first], [second]):
        reloaded.reload(*roots)
    reloaded.reload(second)  # whatever the last one left to be done has been by now
    assert held(lock_of(first))
    assert not daemon.log_lines("root_let_go")
    reloaded.reload(first, second)
    os.kill(child, signal.SIGCONT)
    assert wait_until_marked(first / NAME)["origin"] == "dbt"
    wait_for(lambda: reloaded.manager.status == "1 ready", what=lambda: reloaded.manager.statuses)
    assert held(lock_of(first))
    assert len(daemon.log_lines("queued", first / NAME)) <= 1
    assert len(daemon.log_lines("initialization_complete", first / NAME)) == 1
    reloaded.reload(second)
    wait_for(lambda: not held(lock_of(first)))
    daemon.stop()


def test_a_reload_ends_the_pause_before_another_attempt(reloaded: Reloaded, tmp_path: Path) -> None:
    (root,) = folders(tmp_path, "root")
    (root / NAME).touch()
    settings = {"dbt__timeout": 5, "dbt__pre_sql": ENDLESS, "retry__base": 600, "retry__max": 600}
    daemon = reloaded.start(root, **settings)
    wait_for(lambda: status(root / NAME).get("reason") == "backoff", what=daemon.told)
    reloaded.reload(root, dbt__timeout=100, dbt__pre_sql="select 1")
    wait_until_marked(root / NAME)
    daemon.stop()


def test_whatever_else_can_change_does(reloaded: Reloaded, tmp_path: Path) -> None:
    (root,) = folders(tmp_path, "root")
    daemon = reloaded.start(root, watch__heal="never")
    (root / NAME).touch()
    wait_for(lambda: daemon.log_lines("checked", root / NAME))
    # It was left alone, and is healed as soon as that is wanted: by another project, under another name in another log.
    told = reloaded.reload(root, watch__heal="found", required__select=["resource_type:seed"])
    assert "watch.heal" in told
    assert "required.select" in told
    assert wait_until_marked(root / NAME)["tables"] == {"seed": 5, "foundation": 0}
    # What is required may become more, and the file looked for another.
    reloaded.reload(root, required__select=["resource_type:seed", "tag:foundation"])
    wait_for(lambda: (valid_marker(root / NAME) or {}).get("tables") == {"seed": 5, "foundation": 3})
    (root / "other.duckdb").touch()
    reloaded.reload(root, watch__database="other.duckdb")
    wait_until_marked(root / "other.duckdb")
    wait_for(lambda: reloaded.manager.status == "1 ready", what=lambda: reloaded.manager.statuses)
    daemon.stop()


def test_the_place_of_the_state_and_the_log(selfheald: Selfheald, tmp_path: Path, root: Path) -> None:
    file, state = tmp_path / "selfheald.toml", tmp_path / "state"

    def write(name: str, log: str, level: str) -> None:
        file.write_text(f'state_dir = "{state}-{name}"\nlog.file = "{tmp_path}/{log}"\nlog.level = "{level}"\n')

    write("first", "first.log", "INFO")
    for name in ("SELFHEALD_STATE_DIR", "SELFHEALD_LOG__FILE"):
        del selfheald.environment[name]
    with selfheald.started("run", root, "--config", file) as running:
        wait_for(lambda: "ready: watching" in running.stderr)
        write("second", "second.log", "WARNING")
        running.process.send_signal(signal.SIGHUP)
        second = tmp_path / "second.log"
        wait_for(lambda: second.exists() and "state_dir is another only after a restart" in second.read_text())
        assert "reloaded" not in second.read_text()
        write("first", "first.log", "INFO")
        running.process.send_signal(signal.SIGHUP)
        wait_for(
            lambda: "(log.level, log.file changed)" in (tmp_path / "first.log").read_text(),
            what=lambda: running.stderr,
        )
        running.process.terminate()
        assert running.wait() == 0
    assert not (tmp_path / "state-second").exists()


def test_hangups_in_a_row_at_the_start_and_at_the_end(reloaded: Reloaded, tmp_path: Path) -> None:
    first, second = folders(tmp_path, "first", "second")
    reloaded.write(first)
    reloaded.daemon.start(ready=False)
    # From the first moment that a log or a lock tells of it.
    wait_for(lambda: lock_of(first).exists())
    for _ in range(5):
        reloaded.hang_up()
    reloaded.write(second)
    reloaded.hang_up()
    wait_for(lambda: held(lock_of(second)) and not held(lock_of(first)), what=reloaded.daemon.told)
    for _ in range(50):
        reloaded.hang_up()
    reloaded.hang_up()
    assert reloaded.daemon.process is not None
    reloaded.daemon.process.terminate()
    for _ in range(20):
        if reloaded.daemon.process.poll() is None:
            reloaded.hang_up()
    assert reloaded.daemon.process.wait(DEADLINE) == 0, reloaded.daemon.told()
    assert "Traceback" not in reloaded.daemon.told()
    assert not held(lock_of(second))
    assert len(reloaded.ends()) < 60


def test_a_terminal_that_is_closed_ends_it(selfheald: Selfheald, root: Path) -> None:
    ours, theirs = pty.openpty()
    # As people run it: what is left in Python's buffers at the end must not count as a failure.
    environment = {name: value for name, value in selfheald.environment.items() if name != "PYTHONUNBUFFERED"}
    process = subprocess.Popen(
        command("run", root), stdin=theirs, stdout=theirs, stderr=theirs, cwd=selfheald.folder,
        env=environment, start_new_session=True,
    )  # fmt: skip
    try:
        os.close(theirs)
        wait_for(lambda: (read_record(root / ".selfheald" / "daemon.json") or {}).get("state") == "ready")
        os.kill(process.pid, signal.SIGHUP)
        output = b""
        while b"reloaded" not in output:
            output += os.read(ours, 4096)
        os.close(ours)
        os.kill(process.pid, signal.SIGHUP)
        assert process.wait(DEADLINE) == 0
    finally:
        process.kill()
        process.wait()
