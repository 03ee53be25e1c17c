"""Marker, status, request, history: the files through which daemon and simulators talk."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from fixtures.files import names_in
from fixtures.processes import run_python, started

from selfheald import marker as marker_module
from selfheald.client import drop_request, file_identity, read_record, valid_marker
from selfheald.errors import InitializationError
from selfheald.initialization_state import RequiredTable, StepStatus, TableTier
from selfheald.marker import (
    Status,
    append_history,
    finish_request,
    has_request,
    log_folder,
    marker_state,
    new_attempt_id,
    read_history,
    read_status,
    remove_marker,
    take_request,
    write_marker,
)
from selfheald.workspace import Database, write_atomically

REQUIRED = [
    RequiredTable("comp_levers", TableTier.SEED),
    RequiredTable("config_age_bands", TableTier.SEED),
    RequiredTable("int_baseline_workforce", TableTier.FOUNDATION),
]


@pytest.fixture
def database(tmp_path: Path) -> Database:
    """A file that stands for a database: nothing here reads it."""
    database = Database.at(tmp_path / "simulation.duckdb")
    database.path.write_bytes(b"content")
    return database


def certify(database: Database, *, identity: dict[str, Any] | None = None, **changes: Any) -> bool:
    options: dict[str, Any] = {"fingerprint": "sha256:f", "origin": "adopted", "answers": None, "checked_at": 0.25}
    identity = identity or file_identity(database.path)
    assert identity is not None
    return write_marker(database, identity, REQUIRED, **{**options, **changes})


def replace(database: Database) -> None:
    """Another file takes the database's place."""
    other = database.path.with_name("other")
    other.write_bytes(b"another")
    other.rename(database.path)


def mark(database: Database, record: object) -> None:
    database.marker.write_text(json.dumps(record))


class TestWriteMarker:
    def test_it_says_what_it_promised(self, database: Database) -> None:
        assert certify(database, origin="dbt", answers="abc", initialized_at=1.5)
        record = read_record(database.marker)
        assert record is not None
        assert record.pop("version")
        assert record.pop("host")
        assert record == {
            "format": 1,
            "state": "ready",
            "database": {"name": "simulation.duckdb", **(file_identity(database.path) or {})},
            "fingerprint": "sha256:f",
            "tables": {"seed": 2, "foundation": 1},
            "origin": "dbt",
            "answers": "abc",
            "initialized_at": "1970-01-01T00:00:01.500Z",
            "checked_at": "1970-01-01T00:00:00.250Z",
            "pid": os.getpid(),
        }
        assert valid_marker(database.path) is not None
        assert marker_state(database) == "valid"

    @pytest.mark.parametrize("change", ["replace", "append", "touch", "remove", "wal"])
    def test_it_refuses_a_file_that_is_not_the_one_that_was_checked(self, database: Database, change: str) -> None:
        identity = file_identity(database.path)
        assert identity is not None
        if change == "replace":
            replace(database)
        elif change == "append":
            with database.path.open("ab") as stream:
                stream.write(b"!")
        elif change == "touch":
            os.utime(database.path, ns=(0, identity["mtime_ns"] + 1))
        elif change == "remove":
            database.path.unlink()
        else:
            database.path.with_name(f"{database.path.name}.wal").touch()
        assert not certify(database, identity=identity)
        assert marker_state(database) == "absent"

    def test_it_is_taken_back_if_the_file_is_replaced_meanwhile(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write = write_atomically

        def write_late(*args: Any, **options: Any) -> None:
            replace(database)
            write(*args, **options)

        monkeypatch.setattr(marker_module, "write_atomically", write_late)
        assert not certify(database)
        assert marker_state(database) == "absent"

    def test_it_stays_if_a_simulator_begins_to_write_meanwhile(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write = write_atomically

        def write_late(*args: Any, **options: Any) -> None:
            with database.path.open("ab") as stream:
                stream.write(b"!")
            write(*args, **options)

        monkeypatch.setattr(marker_module, "write_atomically", write_late)
        assert certify(database)
        assert marker_state(database) == "stale"

    def test_what_is_known_of_the_same_file_is_kept(self, database: Database) -> None:
        certify(database, origin="dbt", initialized_at=1.5)
        with database.path.open("ab") as stream:
            stream.write(b"a simulator's work")
        assert certify(database, origin="adopted")
        record = read_record(database.marker) or {}
        assert (record["origin"], record["initialized_at"]) == ("dbt", "1970-01-01T00:00:01.500Z")

    def test_nothing_is_kept_of_another_file(self, database: Database) -> None:
        certify(database, origin="dbt", initialized_at=1.5)
        replace(database)
        assert certify(database, origin="adopted")
        record = read_record(database.marker) or {}
        assert (record["origin"], record["initialized_at"]) == ("adopted", None)

    def test_a_new_making_counts_more_than_what_was_known(self, database: Database) -> None:
        certify(database, origin="template", initialized_at=1.5)
        assert certify(database, origin="dbt", initialized_at=2.5)
        record = read_record(database.marker) or {}
        assert (record["origin"], record["initialized_at"]) == ("dbt", "1970-01-01T00:00:02.500Z")

    @pytest.mark.parametrize(
        "record",
        [
            {"database": "text", "initialized_at": "x", "origin": "dbt"},
            {"database": ["inode"]},
            {"database": None, "initialized_at": {}},
            {"database": {"inode": "same"}, "initialized_at": {"a": 1}, "origin": "dbt"},
            {"database": {"inode": "same", "device": "same"}, "initialized_at": "x", "origin": "<b>"},
            [],
        ],
    )
    def test_a_stranger_s_marker_does_no_harm(self, database: Database, record: Any) -> None:
        identity = file_identity(database.path)
        assert identity is not None
        if isinstance(record, dict) and isinstance(record.get("database"), dict):
            record = {**record, "database": {key: identity[key] for key in record["database"]}}
        mark(database, record)
        assert certify(database)
        written = read_record(database.marker) or {}
        assert (written["origin"], written["initialized_at"]) == ("adopted", None)

    def test_a_link_in_its_place_is_replaced(self, database: Database, tmp_path: Path) -> None:
        (tmp_path / "victim").write_text("precious")
        database.marker.symlink_to("victim")
        assert certify(database)
        assert (tmp_path / "victim").read_text() == "precious"
        assert marker_state(database) == "valid"

    def test_a_reader_never_sees_half_a_marker(self, database: Database) -> None:
        certify(database)
        code = (
            "import sys, json, select\n"
            "print('reading', flush=True)\n"
            "reads = 0\n"
            "while reads < 50 or not select.select([sys.stdin], [], [], 0)[0]:\n"
            "    with open(sys.argv[1]) as stream: assert json.load(stream)['state'] == 'ready'\n"
            "    reads += 1\n"
        )
        with started(code, database.marker) as reader:
            for _ in range(100):
                assert certify(database)
            assert reader.stdin is not None
            reader.stdin.close()
            assert reader.wait() == 0


SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("mtime_ns", "wal_ns", "read_at", "outlived"),
    [
        (5 * SECOND + 1, None, 5.0, True),  # a stamp of the future is another host's
        (5 * SECOND + 1, None, 5.005, False),
        (5 * SECOND + 1, None, 5.5, True),
        (5 * SECOND + 1, 5 * SECOND + SECOND // 2, 5.505, False),
        (5 * SECOND + 1, 5 * SECOND + SECOND // 2, 6.0, True),
        (5 * SECOND, None, 6.0, False),  # a file system that counts in seconds
        (5 * SECOND, None, 8.0, True),
    ],
)
def test_a_moment_that_a_later_write_cannot_hide_in(
    mtime_ns: int, wal_ns: int | None, read_at: float, outlived: bool
) -> None:
    wal = None if wal_ns is None else {"size": 1, "mtime_ns": wal_ns, "ctime_ns": wal_ns}
    identity = {"device": 1, "inode": 1, "size": 1, "mtime_ns": mtime_ns, "ctime_ns": mtime_ns, "wal": wal}
    assert marker_module.outlived_a_tick(identity, read_at) is outlived


def test_marker_state(database: Database) -> None:
    assert marker_state(database) == "absent"
    assert not remove_marker(database)
    certify(database)
    replace(database)
    assert marker_state(database) == "stale"
    assert remove_marker(database)
    assert marker_state(database) == "absent"
    database.marker.symlink_to("nowhere")
    assert marker_state(database) == "stale"


class TestStatus:
    KEYS = frozenset({
        "format", "database", "state", "reason", "queue_position", "holder", "attempt_id", "attempt",
        "next_attempt_at", "steps", "progress", "eta_seconds", "missing_tables_found", "tables_created", "answers",
        "error", "started_at", "completed_at",
    })  # fmt: skip

    def test_what_is_written_has_all_keys(self, database: Database) -> None:
        seen: list[dict[str, Any]] = []
        status = Status(database, answers="abc", on_write=seen.append)
        status.write(state="not_started", reason="queued", queue_position=2)
        record = read_status(database)
        assert record is not None
        assert record.keys() >= self.KEYS
        assert record["answers"] == "abc"
        assert record["database"] == str(database)
        assert (record["state"], record["reason"], record["queue_position"]) == ("not_started", "queued", 2)
        assert [step["status"] for step in record["steps"]] == ["pending"] * 5
        assert seen == [record]

    def test_a_key_that_is_none_is_our_own_fault(self, database: Database) -> None:
        with pytest.raises(KeyError):
            Status(database).write(stat="failed")
        assert read_status(database) is None

    def test_what_was_said_stays_said(self, database: Database) -> None:
        status = Status(database)
        status.write(state="in_progress", attempt=2)
        status.write(progress={"done": 1, "total": 3, "node": "x"})
        record = read_status(database) or {}
        assert (record["state"], record["attempt"], record["progress"]["done"]) == ("in_progress", 2, 1)

    def test_steps_begin_and_end(self, database: Database) -> None:
        status = Status(database)
        assert status.running() is None
        status.begin("check_tables")
        assert status.running() == "check_tables"
        step = status.end("check_tables")
        assert step.success
        assert step.duration_seconds is not None
        assert 0 <= step.duration_seconds < 60
        assert step.started_at is not None
        assert step.completed_at is not None
        assert step.started_at <= step.completed_at
        status.begin("load_seeds")
        failed = status.end("load_seeds", "no such file")
        assert (failed.status, failed.error_message, failed.success) == (StepStatus.FAILED, "no such file", False)
        status.write()
        steps = (read_status(database) or {})["steps"]
        assert [each["status"] for each in steps] == ["completed", "failed", "pending", "pending", "pending"]

    def test_a_step_with_nothing_to_do_took_no_time(self, database: Database) -> None:
        step = Status(database).end("load_seeds")
        assert step.success
        assert (step.started_at, step.completed_at, step.duration_seconds) == (None, None, None)

    def test_a_step_that_begins_again_has_not_ended(self, database: Database) -> None:
        status = Status(database)
        status.begin("check_tables")
        status.end("check_tables", "busy")
        step = status.begin("check_tables")
        assert (step.status, step.error_message) == (StepStatus.RUNNING, None)
        assert (step.completed_at, step.duration_seconds) == (None, None)

    def test_show_writes_only_what_is_new(self, database: Database) -> None:
        seen: list[dict[str, Any]] = []
        status = Status(database, on_write=seen.append)
        status.show(state="not_started", reason="busy")
        status.show(state="not_started", reason="busy")
        status.show(reason="busy")
        assert len(seen) == 1
        status.show(reason="queued")
        assert len(seen) == 2

    def test_a_first_show_is_written_even_if_it_changes_nothing(self, database: Database) -> None:
        Status(database).show(state="not_started")
        assert read_status(database) is not None

    def test_show_leaves_the_status_to_another_process_that_is_at_work(self, database: Database) -> None:
        Status(database).write(state="in_progress", attempt_id="theirs")
        status = Status(database)
        code = (
            "import sys\n"
            "from selfheald.locks import DatabaseLock\n"
            "with DatabaseLock(sys.argv[1]): print('locked', flush=True); sys.stdin.read()\n"
        )
        with started(code, database.lock) as other:
            status.show(state="failed")
            assert (read_status(database) or {})["attempt_id"] == "theirs"
            other.kill()
            other.wait()
        status.show(state="failed")
        assert (read_status(database) or {})["state"] == "failed"

    def test_a_folder_that_cannot_be_written_is_told(self, open_path: Path) -> None:
        code = (
            "import sys\n"
            "from selfheald.marker import Status\n"
            "from selfheald.errors import InitializationError\n"
            "from selfheald.workspace import Database\n"
            "become_nobody()\n"
            "try: Status(Database.at(sys.argv[1])).write(state='failed')\n"
            "except InitializationError as error: print(error.code)\n"
        )
        assert run_python(code, open_path / "simulation.duckdb") == "permission_denied\n"


class TestRequests:
    def test_none(self, database: Database) -> None:
        assert take_request(database) == (False, None)
        assert not has_request(database)
        finish_request(database)

    def test_it_is_taken_and_finished(self, database: Database) -> None:
        request_id = drop_request(database.path)
        assert has_request(database)
        assert take_request(database) == (True, request_id)
        assert not database.request.exists()
        assert has_request(database)
        finish_request(database)
        assert not has_request(database)
        assert take_request(database) == (False, None)

    @pytest.mark.parametrize("text", ["", "no json", "[]", "{}", '{"id": 5}', '{"id": ""}', '{"id": null}', "\0"])
    def test_a_touched_file_is_a_request_without_an_id(self, database: Database, text: str) -> None:
        database.private.mkdir()
        database.request.write_text(text)
        assert take_request(database) == (True, None)
        assert take_request(database) == (True, None)
        finish_request(database)
        assert take_request(database) == (False, None)

    def test_one_that_a_killed_daemon_had_taken_waits_still(self, database: Database) -> None:
        request_id = drop_request(database.path)
        code = (
            "import sys, os, signal\n"
            "from selfheald.marker import take_request\n"
            "from selfheald.workspace import Database\n"
            "print(take_request(Database.at(sys.argv[1])), flush=True)\n"
            "sys.stdin.read()\n"
        )
        with started(code, database.path) as daemon:
            daemon.kill()
            daemon.wait()
        assert has_request(database)
        assert take_request(database) == (True, request_id)

    def test_a_later_one_takes_the_place_of_one_that_was_taken(self, database: Database) -> None:
        drop_request(database.path)
        take_request(database)
        later = drop_request(database.path)
        assert take_request(database) == (True, later)
        finish_request(database)
        assert not has_request(database)

    def test_one_that_comes_during_the_check_is_not_lost(self, database: Database) -> None:
        drop_request(database.path)
        take_request(database)
        later = drop_request(database.path)
        finish_request(database)
        assert take_request(database) == (True, later)

    @pytest.mark.parametrize("kind", ["folder", "link", "dangling", "fifo"])
    @pytest.mark.parametrize("place", ["request", "taken_request"])
    def test_anything_else_in_its_place_is_refused(self, database: Database, kind: str, place: str) -> None:
        database.private.mkdir()
        path: Path = getattr(database, place)
        if kind == "folder":
            path.mkdir()
        elif kind == "fifo":
            os.mkfifo(path)
        else:
            path.symlink_to(database.path if kind == "link" else "nowhere")
        with pytest.raises(InitializationError) as caught:
            take_request(database)
        assert caught.value.code == "unsafe_path"
        assert caught.value.path == str(path)
        finish_request(database)
        assert database.path.read_bytes() == b"content"

    def test_one_that_may_not_be_taken_is_told(self, open_path: Path) -> None:
        drop_request(open_path / "simulation.duckdb")
        code = (
            "import sys\n"
            "from selfheald.marker import take_request, finish_request\n"
            "from selfheald.errors import InitializationError\n"
            "from selfheald.workspace import Database\n"
            "become_nobody()\n"
            "try: take_request(Database.at(sys.argv[1]))\n"
            "except InitializationError as error: print(error.code)\n"
            "finish_request(Database.at(sys.argv[1]))\n"
        )
        assert run_python(code, open_path / "simulation.duckdb") == "permission_denied\n"


class TestHistory:
    def attempt(self, number: int) -> dict[str, Any]:
        return {"attempt_id": f"20261123T16{number:04d}-abcdef", "number": number}

    @pytest.fixture(autouse=True)
    def private(self, database: Database) -> None:
        database.private.mkdir()

    def test_the_last_ones_are_kept(self, database: Database) -> None:
        for number in range(7):
            append_history(database, self.attempt(number), keep=3)
        assert [entry["number"] for entry in read_history(database)] == [4, 5, 6]

    def test_log_folders_go_with_their_attempts(self, database: Database) -> None:
        for number in range(4):
            attempt = self.attempt(number)
            with log_folder(database, attempt["attempt_id"]) as folder:
                (folder.fixed / "dbt.log").touch()
                assert (folder.path / "dbt.log").exists()
            append_history(database, attempt, keep=2)
        assert names_in(database.logs) == ["20261123T160002-abcdef", "20261123T160003-abcdef"]

    def test_what_is_not_a_log_folder_stays(self, database: Database, tmp_path: Path) -> None:
        (tmp_path / "precious").mkdir()
        database.logs.mkdir()
        (database.logs / "mine").mkdir()
        (database.logs / "20261123T160009-abcdef").symlink_to(tmp_path / "precious")
        append_history(database, self.attempt(0), keep=1)
        assert names_in(database.logs) == ["20261123T160009-abcdef", "mine"]
        assert (tmp_path / "precious").exists()

    def test_log_folders_behind_a_link_stay(self, database: Database, tmp_path: Path) -> None:
        (tmp_path / "elsewhere" / "20261123T160009-abcdef").mkdir(parents=True)
        database.logs.symlink_to(tmp_path / "elsewhere")
        append_history(database, self.attempt(0), keep=1)
        assert names_in(tmp_path / "elsewhere") == ["20261123T160009-abcdef"]
        with pytest.raises(InitializationError) as caught, log_folder(database, "20261123T160000-abcdef"):
            pass
        assert caught.value.code == "unsafe_path"

    def test_a_file_in_place_of_the_logs_is_told(self, database: Database) -> None:
        database.logs.touch()
        with pytest.raises(InitializationError) as caught, log_folder(database, "20261123T160000-abcdef"):
            pass
        assert caught.value.code == "unsafe_path"

    def test_broken_lines_are_passed_over(self, database: Database) -> None:
        append_history(database, self.attempt(0), keep=9)
        with database.history.open("ab") as stream:
            stream.write(b'{"torn": \n[]\n5\n\xff\xfe\n\n' + b"[" * 100_000 + b'\n{"number": 1}\n')
        assert [entry["number"] for entry in read_history(database)] == [0, 1]
        append_history(database, self.attempt(2), keep=9)
        assert [entry["number"] for entry in read_history(database)] == [0, 1, 2]
        assert len(database.history.read_bytes().splitlines()) == 3

    def test_of_a_very_long_one_the_end_is_read(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(marker_module, "MAX_HISTORY_BYTES", 100)
        database.history.write_text("".join(json.dumps({"number": number}) + "\n" for number in range(100)))
        numbers = [entry["number"] for entry in read_history(database)]
        assert numbers == list(range(100 - len(numbers), 100))
        assert 3 < len(numbers) < 10

    @pytest.mark.parametrize("kind", ["absent", "folder", "link", "fifo"])
    def test_anything_else_in_its_place_is_no_history(self, database: Database, kind: str) -> None:
        if kind == "folder":
            database.history.mkdir()
        elif kind == "link":
            (database.private / "target").write_text('{"number": 1}\n')
            database.history.symlink_to("target")
        elif kind == "fifo":
            os.mkfifo(database.history)
        assert read_history(database) == []


def test_attempt_ids_are_safe_names_that_sort_by_time() -> None:
    now = time.time()
    ids = [new_attempt_id(now + seconds) for seconds in range(0, 5000, 1000)]
    assert ids == sorted(ids)
    assert len({new_attempt_id(now) for _ in range(50)}) == 50
    assert all(marker_module.ATTEMPT_ID.fullmatch(each) for each in ids)
