"""What a simulator calls: is it ready, wait until it is."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import duckdb
import pytest
from fixtures.files import names_in
from fixtures.processes import ROOT, run_python, started

from selfheald import client
from selfheald.errors import (
    ConcurrentInitializationError,
    DatabaseCorruptionError,
    InitializationError,
    InitializationTimeoutError,
)
from selfheald.marker import Status, finish_request, take_request, write_marker
from selfheald.presence import claim
from selfheald.workspace import Database

NAME = "simulation.duckdb"
Waiting = Future[dict[str, Any]]
Eventually = Callable[[Callable[[], object]], object]
#: Seconds after which a waiter has ended, whatever happens.
LIMIT = 30.0


@pytest.fixture
def database(tmp_path: Path) -> Database:
    """A file that stands for a database: the client never reads it."""
    database = Database.at(tmp_path / "w" / NAME)
    database.folder.mkdir()
    database.path.write_bytes(b"content")
    return database


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[None]:
    """Somebody watches the root; what it answers, the test says."""
    with claim([tmp_path], NAME, []):
        yield


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as executor:
        yield executor


@pytest.fixture(autouse=True)
def look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "POLL_SECONDS", 0.005)


def make_ready(database: Database, answers: str | None = None) -> None:
    identity = client.file_identity(database.path)
    assert identity is not None
    assert write_marker(
        database, identity, [], fingerprint="f", origin="adopted", answers=answers, checked_at=time.time()
    )


def fail(database: Database, answers: str | None, error: dict[str, Any], **changes: Any) -> None:
    Status(database, answers=answers).write(state="failed", error=error, **changes)


CORRUPT = {"code": "database_corrupt", "message": "torn", "hint": "Restore it.", "path": "/w/x"}


class TestValidMarker:
    def test_it_is_the_whole_marker(self, database: Database) -> None:
        assert client.valid_marker(database.path) is None
        assert not client.is_ready(database.path)
        make_ready(database, "abc")
        marker = client.valid_marker(database.path)
        assert marker is not None
        assert marker["answers"] == "abc"
        assert client.is_ready(database.path)
        assert client.is_ready(str(database.path))

    @pytest.mark.parametrize("key", ["device", "inode", "size", "mtime_ns", "ctime_ns", "wal"])
    def test_every_part_of_the_identity_counts(self, database: Database, key: str) -> None:
        make_ready(database)
        record = json.loads(database.marker.read_text())
        for value in ({"size": 1} if key == "wal" else record["database"][key] + 1, None, "x"):
            if (key, value) == ("wal", None):
                continue  # that is what it is
            record["database"][key] = value
            database.marker.write_text(json.dumps(record))
            assert not client.is_ready(database.path)
        del record["database"][key]
        database.marker.write_text(json.dumps(record))
        assert client.is_ready(database.path) is (key == "wal")

    @pytest.mark.parametrize("change", ["replace", "grow", "touch", "mode", "wal", "remove", "link"])
    def test_every_change_of_the_file_counts(self, database: Database, change: str) -> None:
        path = database.path
        os.utime(path, ns=(0, 0))
        make_ready(database)
        if change == "replace":
            other = path.with_name("other")
            shutil.copy2(path, other)
            other.rename(path)
        elif change == "grow":
            with path.open("ab") as stream:
                stream.write(b"!")
        elif change == "touch":
            os.utime(path, ns=(0, 1))
        elif change == "mode":
            path.chmod(0o600)
            path.chmod(0o644)
        elif change == "wal":
            path.with_name(f"{NAME}.wal").write_bytes(b"")
        elif change == "remove":
            path.unlink()
        else:
            path.rename(path.with_name("other"))
            path.symlink_to("other")
        assert not client.is_ready(path)

    def test_a_change_of_the_wal_counts(self, database: Database) -> None:
        wal = database.path.with_name(f"{NAME}.wal")
        wal.write_bytes(b"one")
        make_ready(database)
        assert client.is_ready(database.path)
        wal.write_bytes(b"other")
        assert not client.is_ready(database.path)

    @pytest.mark.parametrize("text", ["", "no", "[]", "5", '{"state": "ready"}', '{"state": "ready", "database": 5}'])
    def test_whatever_is_no_marker_is_none(self, database: Database, text: str) -> None:
        database.marker.write_text(text)
        assert not client.is_ready(database.path)

    def test_another_state_is_not_ready(self, database: Database) -> None:
        make_ready(database)
        record = json.loads(database.marker.read_text())
        database.marker.write_text(json.dumps({**record, "state": "not ready"}))
        assert not client.is_ready(database.path)


class TestReadRecord:
    @pytest.mark.parametrize(
        "content", [b"", b"{", b"[]", b"5", b"\xff", b"[" * 100_000, b'{"a":' + b"1" * 5000 + b"}"]
    )
    def test_no_record(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "x").write_bytes(content)
        assert client.read_record(tmp_path / "x") is None

    def test_what_is_no_small_file_is_not_read(self, tmp_path: Path) -> None:
        (tmp_path / "target").write_text("{}")
        (tmp_path / "link").symlink_to("target")
        os.mkfifo(tmp_path / "fifo")
        (tmp_path / "large").write_text("{" + " " * client.MAX_RECORD_BYTES + "}")
        (tmp_path / "largest").write_text("{" + " " * (client.MAX_RECORD_BYTES - 2) + "}")
        for name in ("absent", "", "link", "fifo", "large", "\0"):
            assert client.read_record(tmp_path / name) is None
        assert client.read_record(tmp_path / "target") == {}
        assert client.read_record(tmp_path / "largest") == {}


class TestDropRequest:
    def test_it_appears_whole(self, database: Database) -> None:
        request_id = client.drop_request(database.path)
        record = client.read_record(database.request) or {}
        assert record.keys() == {"format", "id", "requested_at", "pid", "host"}
        assert (record["format"], record["id"], record["pid"]) == (1, request_id, os.getpid())
        assert len(request_id) >= 16
        assert names_in(database.private) == [database.request.name]

    def test_it_never_overwrites_and_shares_the_id(self, database: Database) -> None:
        first = client.drop_request(database.path)
        before = database.request.read_bytes()
        assert client.drop_request(database.path) == first
        assert database.request.read_bytes() == before
        assert names_in(database.private) == [database.request.name]

    @pytest.mark.parametrize("content", ["", "no json", "{}", '{"id": null}'])
    def test_one_without_an_id_stays_as_it_is(self, database: Database, content: str) -> None:
        database.private.mkdir()
        database.request.write_text(content)
        assert client.drop_request(database.path) == ""
        assert database.request.read_text() == content

    def test_many_at_once_share_one_request(self, database: Database, pool: ThreadPoolExecutor) -> None:
        together = threading.Barrier(8)

        def drop(_: int) -> str:
            together.wait()
            return client.drop_request(database.path)

        for _ in range(10):
            ids = set(pool.map(drop, range(8)))
            assert ids == {(client.read_record(database.request) or {})["id"]}
            database.request.unlink()

    def test_the_daemon_can_read_it_whatever_the_umask(self, database: Database) -> None:
        before = os.umask(0o077)
        try:
            client.drop_request(database.path)
        finally:
            os.umask(before)
        assert database.request.stat().st_mode & 0o444 == 0o444

    def test_a_folder_that_may_not_be_written_is_told(self, open_path: Path) -> None:
        code = (
            "import sys, pathlib\n"
            "from selfheald.client import drop_request\n"
            "from selfheald.errors import InitializationError\n"
            "become_nobody()\n"
            "try: drop_request(pathlib.Path(sys.argv[1]))\n"
            "except InitializationError as error: print(error.code)\n"
        )
        assert run_python(code, open_path / NAME) == "permission_denied\n"
        assert names_in(open_path) == []

    def test_a_link_in_place_of_the_folder_is_refused(self, database: Database, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").mkdir()
        database.private.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(InitializationError) as caught:
            client.drop_request(database.path)
        assert caught.value.code == "unsafe_path"
        assert names_in(tmp_path / "elsewhere") == []


class TestDaemonRoot:
    def test_nobody(self, database: Database) -> None:
        assert client.daemon_root(database.path) is None

    @pytest.mark.usefixtures("daemon")
    def test_the_root_above(self, database: Database, tmp_path: Path) -> None:
        assert client.daemon_root(database.path) == tmp_path
        assert client.daemon_root(tmp_path / "not" / "yet" / "there" / NAME) == tmp_path

    @pytest.mark.usefixtures("daemon")
    def test_the_way_there_may_be_a_link(self, database: Database, tmp_path_factory: pytest.TempPathFactory) -> None:
        outside = tmp_path_factory.mktemp("outside")
        (outside / "way").symlink_to(database.folder)
        assert client.daemon_root(outside / "way" / NAME) == database.folder.parent
        assert client.daemon_root(outside / NAME) is None

    def test_a_lock_file_that_nobody_holds_says_nothing(self, database: Database, tmp_path: Path) -> None:
        with claim([tmp_path], NAME, []):
            pass
        assert (tmp_path / ".selfheald" / "daemon.lock").exists()
        assert client.daemon_root(database.path) is None

    def test_what_the_daemon_passes_over_is_not_watched(self, tmp_path: Path) -> None:
        for folder in ("target/deep", "ignored/deep", "w"):
            (tmp_path / folder).mkdir(parents=True)
        (tmp_path / "ignored" / ".selfheald-ignore").touch()
        with claim([tmp_path], NAME, ["target"]) as presence:
            presence.tell("ready", "native")
            assert client.daemon_root(tmp_path / "w" / NAME) == tmp_path
            assert client.daemon_root(tmp_path / "w" / "other.duckdb") is None
            assert client.daemon_root(tmp_path / "target" / "deep" / NAME) is None
            assert client.daemon_root(tmp_path / "ignored" / "deep" / NAME) is None


class TestWaiting:
    def wait(self, pool: ThreadPoolExecutor, database: Database, **options: Any) -> Waiting:
        return pool.submit(client.wait_until_ready, database.path, **{"timeout": LIMIT, **options})

    def test_what_is_ready_is_not_waited_for(self, database: Database) -> None:
        make_ready(database)
        assert client.wait_until_ready(database.path)["state"] == "ready"
        assert not database.private.exists()

    @pytest.mark.usefixtures("daemon")
    def test_an_answer_to_the_request(
        self, database: Database, pool: ThreadPoolExecutor, eventually: Eventually
    ) -> None:
        waiting = self.wait(pool, database)
        eventually(database.request.exists)
        there, request_id = take_request(database)
        assert there
        make_ready(database, request_id)
        finish_request(database)
        assert waiting.result(LIMIT)["answers"] == request_id

    @pytest.mark.usefixtures("daemon")
    def test_an_answer_counts_though_somebody_has_begun_to_write(
        self, database: Database, pool: ThreadPoolExecutor, eventually: Eventually
    ) -> None:
        waiting = self.wait(pool, database)
        eventually(database.request.exists)
        _, request_id = take_request(database)
        make_ready(database, request_id)
        with database.path.open("ab") as stream:
            stream.write(b"!")
        assert waiting.result(LIMIT)["answers"] == request_id

    @pytest.mark.usefixtures("daemon")
    def test_an_answer_about_another_file_does_not_count(
        self, database: Database, pool: ThreadPoolExecutor, eventually: Eventually
    ) -> None:
        waiting = self.wait(pool, database, timeout=0.3)
        eventually(database.request.exists)
        _, request_id = take_request(database)
        identity = client.file_identity(database.path) or {}
        record = {"state": "ready", "database": {**identity, "inode": 1}, "answers": request_id}
        database.marker.write_text(json.dumps(record))
        with pytest.raises(InitializationTimeoutError):
            waiting.result(LIMIT)

    @pytest.mark.usefixtures("daemon")
    def test_two_waiters_wait_for_one_answer(
        self, database: Database, pool: ThreadPoolExecutor, eventually: Eventually
    ) -> None:
        first = self.wait(pool, database)
        eventually(database.request.exists)
        before = database.request.read_bytes()
        calls: list[dict[str, Any]] = []
        second = self.wait(pool, database, on_progress=calls.append)

        def second_has_asked() -> bool:
            # It tells of progress as soon as it has.
            Status(database).write(state="not_started", reason="busy", eta_seconds=time.monotonic())
            return bool(calls)

        eventually(second_has_asked)
        assert database.request.read_bytes() == before
        _, request_id = take_request(database)
        make_ready(database, request_id)
        assert first.result(LIMIT) == second.result(LIMIT)

    @pytest.mark.usefixtures("daemon")
    def test_a_touched_request_is_left_to_the_daemon_and_then_one_asks_oneself(
        self, database: Database, pool: ThreadPoolExecutor, eventually: Eventually
    ) -> None:
        database.private.mkdir()
        database.request.touch()
        waiting = self.wait(pool, database)
        assert take_request(database) == (True, None)
        eventually(lambda: (client.read_record(database.request) or {}).get("id"))
        _, request_id = take_request(database)
        make_ready(database, request_id)
        assert waiting.result(LIMIT)["answers"] == request_id

    @pytest.mark.usefixtures("daemon")
    def test_the_daemon_s_error_in_its_class_with_its_hint(
        self, database: Database, pool: ThreadPoolExecutor, eventually: Eventually
    ) -> None:
        waiting = self.wait(pool, database)
        eventually(database.request.exists)
        _, request_id = take_request(database)
        fail(database, request_id, CORRUPT)
        with pytest.raises(DatabaseCorruptionError) as caught:
            waiting.result(LIMIT)
        assert (caught.value.message, caught.value.hint, caught.value.db_path) == ("torn", "Restore it.", "/w/x")

    @pytest.mark.usefixtures("daemon")
    @pytest.mark.parametrize(
        ("code", "kind"),
        [
            ("timeout", InitializationTimeoutError),
            ("concurrent_initialization", ConcurrentInitializationError),
            ("dbt_failed", InitializationError),
        ],
    )
    def test_other_errors_in_their_classes(
        self,
        database: Database,
        pool: ThreadPoolExecutor,
        eventually: Eventually,
        code: str,
        kind: type[InitializationError],
    ) -> None:
        waiting = self.wait(pool, database)
        eventually(database.request.exists)
        _, request_id = take_request(database)
        fail(database, request_id, {"code": code, "message": "m"})
        with pytest.raises(kind) as caught:
            waiting.result(LIMIT)
        assert (type(caught.value), caught.value.code) == (kind, code)

    @pytest.mark.usefixtures("daemon")
    def test_a_failure_that_is_tried_again_is_waited_out(
        self, database: Database, pool: ThreadPoolExecutor, eventually: Eventually
    ) -> None:
        calls: list[dict[str, Any]] = []
        waiting = self.wait(pool, database, on_progress=calls.append)
        eventually(database.request.exists)
        _, request_id = take_request(database)
        fail(database, request_id, CORRUPT, next_attempt_at="2026-11-23T16:00:00.000Z")
        eventually(lambda: calls)
        assert calls[-1]["state"] == "failed"
        assert not waiting.done()
        make_ready(database, request_id)
        assert waiting.result(LIMIT)["answers"] == request_id

    @pytest.mark.usefixtures("daemon")
    @pytest.mark.parametrize("older", [None, "older"])
    def test_a_failure_that_answers_an_older_request_is_no_answer(
        self, database: Database, pool: ThreadPoolExecutor, eventually: Eventually, older: str | None
    ) -> None:
        fail(database, older, CORRUPT)
        calls: list[dict[str, Any]] = []
        waiting = self.wait(pool, database, on_progress=calls.append)
        eventually(database.request.exists)
        fail(database, older, CORRUPT, attempt=2)
        eventually(lambda: calls)
        assert not waiting.done()
        _, request_id = take_request(database)
        make_ready(database, request_id)
        assert waiting.result(LIMIT)["answers"] == request_id

    @pytest.mark.usefixtures("daemon")
    def test_a_failure_that_answers_a_request_taken_just_before_is_no_answer(
        self, database: Database, pool: ThreadPoolExecutor, eventually: Eventually
    ) -> None:
        before = client.drop_request(database.path)
        assert take_request(database) == (True, before)
        calls: list[dict[str, Any]] = []
        waiting = self.wait(pool, database, on_progress=calls.append)
        eventually(database.request.exists)
        fail(database, before, CORRUPT)
        eventually(lambda: calls)
        assert not waiting.done()
        _, request_id = take_request(database)
        make_ready(database, request_id)
        assert waiting.result(LIMIT)["answers"] == request_id

    @pytest.mark.usefixtures("daemon")
    def test_a_later_request_answers_an_earlier_one_that_was_merged_into_it(
        self, database: Database, pool: ThreadPoolExecutor, eventually: Eventually
    ) -> None:
        told: list[dict[str, Any]] = []
        waiting = pool.submit(client.wait_until_ready, database.path, LIMIT, told.append)
        eventually(database.request.exists)
        _, earlier = take_request(database)
        Status(database, answers=earlier).write(reason="queued")
        eventually(lambda: told)
        later = client.drop_request(database.path)
        assert take_request(database) == (True, later)
        assert later != earlier
        fail(database, later, CORRUPT)
        with pytest.raises(DatabaseCorruptionError):
            waiting.result(LIMIT)

    @pytest.mark.usefixtures("daemon")
    def test_a_request_that_was_lost_is_made_again(
        self, database: Database, pool: ThreadPoolExecutor, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(client, "NO_DAEMON_SECONDS", 0.6)
        waiting = self.wait(pool, database)
        eventually(database.request.exists)
        _, lost = take_request(database)
        finish_request(database)
        eventually(database.request.exists)
        _, request_id = take_request(database)
        assert request_id != lost
        make_ready(database, request_id)
        assert waiting.result(LIMIT)["answers"] == request_id

    @pytest.mark.usefixtures("daemon")
    def test_progress_is_told_once_for_each_change(
        self, database: Database, pool: ThreadPoolExecutor, eventually: Eventually
    ) -> None:
        calls: list[dict[str, Any]] = []
        waiting = self.wait(pool, database, on_progress=calls.append)
        eventually(database.request.exists)
        _, request_id = take_request(database)
        status = Status(database, answers=request_id)
        for done in range(3):
            status.write(state="in_progress", progress={"done": done, "total": 3, "node": None})
            eventually(lambda done=done: len(calls) == done + 1)  # type: ignore[misc]
        make_ready(database, request_id)
        waiting.result(LIMIT)
        assert [call["progress"]["done"] for call in calls] == [0, 1, 2]

    @pytest.mark.usefixtures("daemon")
    def test_the_time_limit(self, database: Database) -> None:
        began = time.monotonic()
        with pytest.raises(InitializationTimeoutError) as caught:
            client.wait_until_ready(database.path, timeout=0.1)
        assert caught.value.timeout_seconds == 0.1
        assert 0.1 <= caught.value.elapsed_seconds <= time.monotonic() - began
        assert str(database.path) in caught.value.message
        assert "has not taken the request" in caught.value.hint

    @pytest.mark.usefixtures("daemon")
    def test_the_time_limit_of_a_request_that_was_taken(
        self, database: Database, pool: ThreadPoolExecutor, eventually: Eventually
    ) -> None:
        waiting = self.wait(pool, database, timeout=0.3)
        eventually(database.request.exists)
        take_request(database)
        with pytest.raises(InitializationTimeoutError) as caught:
            waiting.result(LIMIT)
        assert f"`selfheald status {database}`" in caught.value.hint

    @pytest.mark.usefixtures("daemon")
    @pytest.mark.parametrize("timeout", [0, None])
    def test_no_time_limit(
        self, database: Database, pool: ThreadPoolExecutor, eventually: Eventually, timeout: float | None
    ) -> None:
        waiting = self.wait(pool, database, timeout=timeout)
        eventually(database.request.exists)
        make_ready(database)
        assert waiting.result(LIMIT)["state"] == "ready"

    def test_a_folder_that_does_not_exist(self, tmp_path: Path) -> None:
        with pytest.raises(InitializationError) as caught:
            client.wait_until_ready(tmp_path / "no" / NAME)
        assert caught.value.code == "config_invalid"


class TestNoDaemon:
    @pytest.fixture(autouse=True)
    def impatient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(client, "NO_DAEMON_SECONDS", 0.1)

    def test_it_is_told_and_nothing_is_left(self, database: Database) -> None:
        before = sorted(database.folder.rglob("*"))
        began = time.monotonic()
        with pytest.raises(InitializationError) as caught:
            client.wait_until_ready(database.path, timeout=LIMIT)
        assert caught.value.code == "no_daemon"
        assert time.monotonic() - began >= 0.1
        assert sorted(database.folder.rglob("*")) == before

    @pytest.mark.parametrize("others", [False, True])
    def test_a_request_that_nobody_took_is_withdrawn(
        self, database: Database, tmp_path: Path, pool: ThreadPoolExecutor, eventually: Eventually, others: bool
    ) -> None:
        if others:
            database.private.mkdir()
            (database.private / "other").touch()
        with claim([tmp_path], NAME, []):
            waiting = pool.submit(client.wait_until_ready, database.path, LIMIT)
            eventually(database.request.exists)
        with pytest.raises(InitializationError) as caught:
            waiting.result(LIMIT)
        assert caught.value.code == "no_daemon"
        assert names_in(database.folder) == ([".selfheald", NAME] if others else [NAME])
        assert not database.request.exists()

    @pytest.mark.parametrize("content", ["", "{}", '{"format": 1}', '{"id": ""}', '{"id": "theirs"}'])
    def test_somebody_else_s_request_stays(self, database: Database, content: str) -> None:
        database.private.mkdir()
        database.request.write_text(content)
        with pytest.raises(InitializationError):
            client.wait_until_ready(database.path, timeout=LIMIT)
        assert database.request.read_text() == content

    def test_a_daemon_that_is_killed_is_none(self, database: Database, tmp_path: Path) -> None:
        code = (
            "import sys, pathlib\n"
            "from selfheald.presence import claim\n"
            "with claim([pathlib.Path(sys.argv[1])], sys.argv[2], []):\n"
            "    print('claimed', flush=True); sys.stdin.read()\n"
        )
        with started(code, tmp_path, NAME) as daemon:
            assert client.daemon_root(database.path) == tmp_path
            daemon.kill()
            daemon.wait()
            assert client.daemon_root(database.path) is None
            with pytest.raises(InitializationError) as caught:
                client.wait_until_ready(database.path, timeout=LIMIT)
        assert caught.value.code == "no_daemon"


async def asked(database: Database) -> None:
    """Return when a request lies there: no event tells of it."""
    while not database.request.exists():  # noqa: ASYNC110
        await asyncio.sleep(0.001)


class TestAsync:
    @pytest.mark.usefixtures("daemon")
    def test_it_waits_as_its_twin(self, database: Database) -> None:
        async def main() -> dict[str, Any]:
            waiting = asyncio.create_task(client.wait_until_ready_async(database.path, LIMIT))
            await asked(database)
            _, request_id = take_request(database)
            make_ready(database, request_id)
            return await waiting

        assert asyncio.run(main())["state"] == "ready"

    @pytest.mark.usefixtures("daemon")
    def test_its_time_limit(self, database: Database) -> None:
        with pytest.raises(InitializationTimeoutError):
            asyncio.run(client.wait_until_ready_async(database.path, 0.05))

    @pytest.mark.usefixtures("daemon")
    def test_cancelled_it_leaves_no_thread_and_no_task(self, database: Database) -> None:
        threads = set(threading.enumerate())

        async def main() -> set[asyncio.Task[Any]]:
            waiting = asyncio.create_task(client.wait_until_ready_async(database.path, LIMIT))
            await asked(database)
            assert set(threading.enumerate()) == threads
            waiting.cancel()
            with suppress(asyncio.CancelledError):
                await waiting
            assert waiting.cancelled()
            return asyncio.all_tasks() - {asyncio.current_task()}

        assert asyncio.run(main()) == set()
        assert set(threading.enumerate()) == threads


OPEN_ELSEWHERE = """
import sys, duckdb
try: duckdb.connect(sys.argv[1]).close()
except duckdb.IOException: print("locked")
else: print("opened")
"""


@pytest.mark.usefixtures("daemon")
def test_nothing_of_the_client_drops_this_process_s_lock_on_the_database(tmp_path: Path) -> None:
    path = tmp_path / NAME
    with duckdb.connect(str(path)) as connection:
        connection.execute("create table t as select 1")
        make_ready(Database.at(path))
        assert run_python(OPEN_ELSEWHERE, path) == "locked\n"
        client.file_identity(path)
        client.valid_marker(path)
        client.is_ready(path)
        client.daemon_root(path)
        client.drop_request(path)
        for place in (client.marker_path(path), client.status_path(path), client.request_path(path)):
            client.read_record(place)
        client.wait_until_ready(path, timeout=0.05)
        connection.execute("insert into t values (2)")
        connection.execute("checkpoint")
        assert not client.is_ready(path)
        with pytest.raises(InitializationTimeoutError):
            client.wait_until_ready(path, timeout=0.05)
        with pytest.raises(InitializationTimeoutError):
            asyncio.run(client.wait_until_ready_async(path, timeout=0.05))
        assert run_python(OPEN_ELSEWHERE, path) == "locked\n"
        # What the client must not do, to show that this test would see it.
        path.open("rb").close()
        assert run_python(OPEN_ELSEWHERE, path) == "opened\n"


class TestTheOnePathOfAFolder:
    """On macOS a folder has many spellings; the kernel tells which is its own."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        for name in ("Sims", "other"):
            (tmp_path / name).mkdir()
        (tmp_path / "link").symlink_to("Sims")
        return tmp_path / "Sims"

    def told(self, spelling: str) -> Callable[..., bytes]:
        def control(handle: int, what: int, buffer: bytes) -> bytes:
            assert (what, os.fstat(handle).st_ino) == (50, self.asked.stat().st_ino)
            return os.fsencode(spelling).ljust(len(buffer), b"\0")

        return control

    asked: Path

    def test_the_kernel_s_spelling_counts(self, folder: Path) -> None:
        self.asked = folder
        spelled = f"{folder.parent}/other/../Sims"  # another text for the same folder, as another letter case would be
        assert client.real_path(folder.with_name("link"), 50, self.told(spelled)) == spelled

    def test_another_folder_is_not_believed(self, folder: Path) -> None:
        self.asked = folder
        for spelled in (folder.with_name("other"), folder.with_name("gone"), ""):
            assert client.real_path(folder, 50, self.told(str(spelled))) == str(folder)

    def test_where_the_kernel_does_not_tell(self, folder: Path) -> None:
        assert client.real_path(folder.with_name("link")) == str(folder)
        assert client.real_path(folder, 50) == str(folder)  # which is no call of Linux'
        assert client.real_path(folder / "gone", 50) == str(folder / "gone")


def test_a_link_on_the_way_is_no_folder_whatever_the_kernel_calls_it(tmp_path: Path) -> None:
    """macOS refuses it as a loop of links. Here a loop is one, and the flag that macOS has means nothing."""
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(NotADirectoryError):
        client._enter(str(tmp_path / "a"), os.O_NONBLOCK)


@pytest.mark.parametrize("waiting", ["wait_until_ready", "is_ready"])
def test_a_folder_above_that_is_closed(open_path: Path, waiting: str) -> None:
    (open_path / "closed" / "w").mkdir(parents=True)
    (open_path / "closed").chmod(0)
    code = f"""
import sys
from selfheald import client
from selfheald.errors import InitializationError
become_nobody()
try:
    print(client.{waiting}(sys.argv[1]))
except InitializationError as error:
    print(error.code, error.path, error.message)
"""
    database = open_path / "closed" / "w" / NAME
    try:
        told = run_python(code, database)
    finally:
        (open_path / "closed").chmod(0o755)
    if waiting == "is_ready":
        assert told == "False\n"
    else:
        assert told.startswith(f"permission_denied {database.parent} ")


def test_a_folder_above_that_is_closed_while_somebody_waits(open_path: Path) -> None:
    """The time limit holds, and what to do then is told."""
    workspace = open_path / "w"
    workspace.mkdir()
    open_path.chmod(0o777)
    workspace.chmod(0o777)
    code = """
import os, sys
from pathlib import Path
from selfheald import client
from selfheald.errors import InitializationError
become_nobody()
waiter = client._steps(sys.argv[1], 1.0, None)
next(waiter)
assert os.path.lexists(client.request_path(Path(sys.argv[1])))
workspace = Path(sys.argv[1]).parent
workspace.chmod(0)
try:
    while True:
        next(waiter)
except InitializationError as error:
    print(error.code)
"""
    with claim([open_path], NAME, []):
        (workspace / ".selfheald").mkdir()
        (workspace / ".selfheald").chmod(0o777)
        os.chown(workspace, 65534, 65534) if os.geteuid() == 0 else None
        try:
            assert run_python(code, workspace / NAME) == "timeout\n"
        finally:
            workspace.chmod(0o755)


IMPORTED = """
import sys
before = set(sys.modules)
import {module}
print(*sorted({{name.partition(".")[0] for name in set(sys.modules) - before}} - sys.stdlib_module_names))
"""


def test_the_client_needs_the_standard_library_alone() -> None:
    assert run_python(IMPORTED.format(module="selfheald.client")).split() == ["selfheald"]
    assert run_python(IMPORTED.format(module="selfheald")).split() == ["selfheald"]


def test_the_client_may_be_copied(tmp_path: Path) -> None:
    package = tmp_path / "copied"
    package.mkdir()
    (package / "__init__.py").touch()
    for name in ("client.py", "errors.py"):
        shutil.copy(ROOT / "selfheald" / name, package)
    code = "import sys; sys.path.insert(0, sys.argv[1])\n" + IMPORTED.format(module="copied.client")
    assert run_python(code, tmp_path).split() == ["copied"]


def test_importing_it_loads_nothing_that_it_can_do_without() -> None:
    code = "import contextlib, json, pathlib, shlex, sys; before = set(sys.modules); import selfheald.client"
    code += "; print(*{'asyncio', 'dataclasses', 'inspect', 'typing'} & (set(sys.modules) - before))"
    assert run_python(code, options=("-S",)).split() == []


@pytest.mark.parametrize("name", ["client.py", "errors.py"])
def test_what_may_be_copied_is_written_for_python_39(name: str) -> None:
    text = (ROOT / "selfheald" / name).read_text(encoding="utf-8")
    ast.parse(text, feature_version=(3, 9))
    imported = {
        alias.name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ImportFrom) and node.module in ("enum", "datetime", "typing")
        for alias in node.names
    }
    later = {"StrEnum", "UTC", "Self", "TypeAlias", "ParamSpec", "Concatenate", "NotRequired", "Required", "Never"}
    assert not imported & {*later, "LiteralString", "TypeGuard", "assert_never", "override"}
    assert "from __future__ import annotations" in text
