"""Reading and copying in a child process: the caller's lock survives, and no child outlives its use."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest
from database_files import DEADLINE, SOME, VERSION, can_open, code, hear, make, make_with_wal, names, python, tell

from selfheald import check_child
from selfheald.catalog import Reading
from selfheald.catalog_reader import read_database
from selfheald.check_child import copy_in_child, read_in_child
from selfheald.client import file_identity
from selfheald.errors import DatabaseCorruptionError, InitializationError
from selfheald.file_header import probe_file
from selfheald.locks import holder


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "simulation.duckdb"


CALLER = """
    from pathlib import Path
    from selfheald.initialization_state import RequiredTable, TableTier
    from selfheald.table_checker import TableExistenceChecker, read_in_child
    path = Path(sys.argv[1])
    connection = duckdb.connect(sys.argv[1])
    connection.execute("CREATE TABLE t (a INTEGER)")
    checker = TableExistenceChecker(path, [RequiredTable("t", TableTier.SEED)], in_process=sys.argv[2] == "True")
    holders = [checker.check().reading.holder, read_in_child(path).holder]
    say(json.dumps([found and found.pid == os.getpid() for found in holders]))
    hear()
    connection.execute("INSERT INTO t VALUES (1)")
    say(connection.execute("FROM t").fetchall())
"""


class TestInSomebodyElsesProcess:
    """The caller's own lock survives, because the file is opened in a child."""

    def test_the_callers_lock_survives(self, path: Path) -> None:
        with python(CALLER, path, False) as caller:
            assert json.loads(hear(caller)) == [True, True]
            assert holder(path) is not None
            assert not can_open(path)
            tell(caller, "go on")
            assert hear(caller) == "[(1,)]"

    def test_it_would_not_survive_a_check_in_the_callers_process(self, path: Path) -> None:
        """What the child is for; should this ever fail, it is not needed any more."""
        with python(CALLER, path, True) as caller:
            hear(caller)
            assert holder(path) is None

    def test_a_reading_is_the_same_from_a_child(self, path: Path) -> None:
        make(path, *SOME)
        here, there = read_database(path), read_in_child(path)
        for field in ("identity", "exists", "empty", "relations", "certain", "holder", "error"):
            assert getattr(here, field) == getattr(there, field)

    def test_an_error_is_the_same_from_a_child(self, path: Path) -> None:
        make(path, *SOME)
        os.truncate(path, 12288)
        error = read_in_child(path).error
        assert isinstance(error, DatabaseCorruptionError)
        assert error.db_path == str(path)

    def test_names_that_are_no_text(self, tmp_path: Path) -> None:
        path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff' .duckdb"))
        made = make(tmp_path / "plain", *SOME)
        made.rename(path)
        assert names(read_database(path)) == names(read_in_child(path)) == ["main.t:table"]

    def test_a_strangers_module_in_the_working_folder_is_not_run(
        self, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "duckdb.py").write_text("raise SystemExit('run')")
        (tmp_path / "json.py").write_text("raise SystemExit('run')")
        monkeypatch.chdir(tmp_path)
        assert read_in_child(path).error is None

    def test_importing_loads_no_duckdb(self) -> None:
        script = "import sys, selfheald.table_checker; sys.exit('duckdb' in sys.modules or 'fsspec' in sys.modules)"
        subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2])


@pytest.fixture
def hanging_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Children take the job, lock a file and never answer; the file tells whether they live."""
    lock = tmp_path / "alive"
    lock.touch()
    boot = (
        "import fcntl, signal, sys, threading; sys.path.append(sys.argv[1])\n"
        "from selfheald import check_child\n"
        "sys.stdin.buffer.readline()\n"
        f"f = open({str(lock)!r}); fcntl.flock(f, fcntl.LOCK_EX)\n"
        "threading.Thread(target=check_child._die_with_parent, daemon=True).start()\n"
        f"open({str(lock) + '.ready'!r}, 'w').close()\n"
        "while True: signal.pause()"
    )
    monkeypatch.setattr(check_child, "_BOOT", boot)
    return lock


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end


class TestTheChild:
    """It cannot hang, and does not outlive those who wait for it."""

    def test_killed_at_its_timeout(self, path: Path, hanging_child: Path) -> None:
        make(path, *SOME)
        reading = read_in_child(path, timeout=1.0)
        assert reading.error is not None
        assert (reading.error.code, reading.error.path, reading.certain) == ("check_crashed", str(path), True)
        assert reading.identity == file_identity(path)
        assert not is_alive(hanging_child)

    def test_called_off(self, path: Path, hanging_child: Path) -> None:
        stop = threading.Event()
        readings: list[Reading] = []
        thread = threading.Thread(target=lambda: readings.append(read_in_child(path, timeout=DEADLINE, stop=stop)))
        thread.start()
        wait_for(lambda: is_alive(hanging_child))
        stop.set()
        thread.join(DEADLINE)
        assert readings[0].error is not None
        assert readings[0].error.code == "interrupted"
        assert not is_alive(hanging_child)

    def test_dies_with_its_parent(self, path: Path, hanging_child: Path) -> None:
        parent = """
            from pathlib import Path
            from selfheald import check_child
            check_child._BOOT = sys.argv[2]
            check_child.read_in_child(Path(sys.argv[1]), timeout=600)
        """
        with python(parent, path, check_child._BOOT) as process:
            wait_for(lambda: is_alive(hanging_child))
            process.kill()
            process.wait(DEADLINE)
            wait_for(lambda: not is_alive(hanging_child))

    @pytest.mark.parametrize(
        ("boot", "says"),
        [
            ("import os; os.kill(os.getpid(), 11)", "SIGSEGV"),
            ("import sys; sys.exit(3)", "it said nothing"),
            ("import no_such_module", "No module named"),
            ("print('noise')", "said nothing"),
        ],
    )
    def test_a_crash_is_told(self, path: Path, monkeypatch: pytest.MonkeyPatch, boot: str, says: str) -> None:
        monkeypatch.setattr(check_child, "_BOOT", boot)
        reading = read_in_child(path)
        assert code(reading) == "check_crashed"
        assert reading.error is not None
        assert says in reading.error.message

    def test_a_kill_is_no_crash(self, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Somebody, or the kernel for want of memory, killed it: it is tried again."""
        make(path, *SOME)
        monkeypatch.setattr(check_child, "_BOOT", "import os; os.kill(os.getpid(), 9)")
        reading = read_in_child(path)
        assert reading.error is not None
        assert (reading.error.code, reading.certain) == ("interrupted", False)
        with pytest.raises(InitializationError) as caught:
            check_child.copy_in_child(path, tmp_path / "copy", [("main", "t")])
        assert (caught.value.code, caught.value.retryable) == ("interrupted", True)

    def test_a_request_longer_than_a_pipe_gets_through(self, path: Path, tmp_path: Path) -> None:
        make(path, *SOME)
        tables = [("main", "no_such_table_with_a_long_name")] * 10000
        with pytest.raises(InitializationError) as caught:
            check_child.copy_in_child(path, tmp_path / "copy", tables)
        assert caught.value.code == "locked"


def is_alive(lock: Path) -> bool:
    """True while a hanging child lives."""
    if not Path(f"{lock}.ready").exists():
        return False
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


class TestCopying:
    """Existing tables are copied to where missing ones are built from them."""

    def test_plain_copies(self, path: Path, tmp_path: Path) -> None:
        make(
            path,
            *SOME,
            "CREATE SCHEMA s",
            'CREATE TABLE s."we\'ird ""one" ("co""l" DECIMAL(10,2)[] NOT NULL, k INTEGER PRIMARY KEY)',
            'INSERT INTO s."we\'ird ""one" VALUES ([1.5], 1), ([2.5], 2)',
            "CREATE TYPE mood AS ENUM ('good', 'bad')",
            "CREATE TABLE typed AS SELECT 'good'::mood AS m, {'x': 1} AS s, now() AS t",
            "CREATE TABLE left_out (a INTEGER)",
        )
        target = tmp_path / "staging" / "simulation.duckdb"
        target.parent.mkdir()
        before = path.read_bytes()
        wanted = [("main", "t"), ("S", "we'ird \"one"), ("main", "typed")]
        made = copy_in_child(path, target, wanted, storage_version="v1.0.0")
        with duckdb.connect(str(path)) as connection:
            defined = dict(connection.execute("SELECT table_name, sql FROM duckdb_tables()").fetchall())
        assert made == {
            "identity": file_identity(path),
            "tables": [
                {"schema": "main", "name": "t", "rows": 100000},
                {"schema": "s", "name": "we'ird \"one", "rows": 2},
                {"schema": "main", "name": "typed", "rows": 1},
            ],
            "definitions": [defined["t"], defined["we'ird \"one"], defined["typed"]],
        }
        assert path.read_bytes() == before
        assert [item.name for item in target.parent.iterdir()] == [target.name]
        assert probe_file(target).storage_version == 64
        kept = {item.name: item.columns for item in read_database(path).relations if item.name != "left_out"}
        assert {item.name: item.columns for item in read_database(target).relations} == kept
        assert can_open(target)
        with duckdb.connect(str(target)) as connection:
            assert connection.execute("SELECT count(*), sum(a), max(b) FROM t").fetchone() == (
                100000,
                4999950000,
                "x99999",
            )

    def test_rows_that_are_only_in_the_wal(self, path: Path, tmp_path: Path) -> None:
        make_with_wal(path, SOME[0], "CHECKPOINT", SOME[1])
        assert copy_in_child(path, tmp_path / "copy", [("main", "t")])["tables"][0]["rows"] == 100000

    @pytest.mark.skipif(VERSION < (1, 5), reason="there is but one format")
    def test_in_the_format_that_is_asked_for(self, path: Path, tmp_path: Path) -> None:
        make(path, *SOME)
        copy_in_child(path, tmp_path / "copy", [("main", "t")], storage_version="v1.2.0")
        assert probe_file(tmp_path / "copy").storage_version == 65
        with pytest.raises(InitializationError) as caught:
            copy_in_child(path, tmp_path / "other", [("main", "t")], storage_version="v0.0.x")
        assert caught.value.code == "config_invalid"
        assert not (tmp_path / "other").exists()

    @pytest.mark.skipif(VERSION < (2, 0), reason="it has no type that an older format cannot hold")
    def test_a_type_that_the_format_cannot_hold(self, path: Path, tmp_path: Path) -> None:
        make(path, "CREATE TABLE t (a VARIANT)")
        with pytest.raises(InitializationError) as caught:
            copy_in_child(path, tmp_path / "copy", [("main", "t")], storage_version="v1.0.0")
        assert caught.value.code == "config_invalid"
        assert "storage_version" in caught.value.hint

    def test_nothing_to_copy_makes_an_empty_database(self, path: Path, tmp_path: Path) -> None:
        assert copy_in_child(path, tmp_path / "copy", []) == {
            "identity": None,
            "tables": [],
            "definitions": [],
        }
        assert read_database(tmp_path / "copy").relations == ()

    @pytest.mark.parametrize(
        ("wanted", "expected", "says"),
        [
            (("main", "v"), "schema_mismatch", "is a view"),
            (("main", "gone"), "locked", "no table main.gone"),
        ],
    )
    def test_refusals(self, path: Path, tmp_path: Path, wanted: tuple[str, str], expected: str, says: str) -> None:
        make(path, *SOME, "CREATE VIEW v AS FROM t")
        with pytest.raises(InitializationError, match=says) as caught:
            copy_in_child(path, tmp_path / "copy", [("main", "t"), wanted])
        assert (caught.value.code, caught.value.path) == (expected, str(path))
        assert not (tmp_path / "copy").exists()

    def test_too_much(self, path: Path, tmp_path: Path) -> None:
        make(path, *SOME)
        with pytest.raises(InitializationError, match="take about") as caught:
            copy_in_child(path, tmp_path / "copy", [("main", "t")], max_bytes=100_000)
        assert caught.value.code == "config_invalid"
        assert "limits.max_input_bytes" in caught.value.hint
        assert copy_in_child(path, tmp_path / "copy", [("main", "t")], max_bytes=10_000_000)["tables"]

    @pytest.mark.parametrize(
        ("length", "expected"), [(0, "locked"), (10, "not_a_database"), (300000, "database_corrupt")]
    )
    def test_files_that_cannot_be_read(self, path: Path, tmp_path: Path, length: int, expected: str) -> None:
        os.truncate(make(path, *SOME), length)
        with pytest.raises(InitializationError) as caught:
            copy_in_child(path, tmp_path / "copy", [("main", "t")])
        assert caught.value.code == expected
        assert not (tmp_path / "copy").exists()

    def test_an_existing_target_is_left_alone(self, path: Path, tmp_path: Path) -> None:
        make(path, *SOME)
        (tmp_path / "copy").write_text("mine")
        with pytest.raises(InitializationError) as caught:
            copy_in_child(path, tmp_path / "copy", [("main", "t")])
        assert caught.value.code == "unsafe_path"
        assert (tmp_path / "copy").read_text() == "mine"

    def test_not_from_under_a_writer(self, path: Path, tmp_path: Path) -> None:
        code = "c = duckdb.connect(sys.argv[1]); c.execute('CREATE TABLE t AS SELECT 1 AS a'); say('ready'); hear()"
        with python(code, path) as writer:
            hear(writer)
            with pytest.raises(InitializationError) as caught:
                copy_in_child(path, tmp_path / "copy", [("main", "t")])
            assert (caught.value.code, caught.value.retryable) == ("locked", True)
            assert not (tmp_path / "copy").exists()
            # It still holds its lock, but has been quiet for long enough.
            wait_for(lambda: read_in_child(path).certain)
            assert copy_in_child(path, tmp_path / "copy", [("main", "t")])["tables"]
            tell(writer, "stop")
            assert writer.wait(DEADLINE) == 0

    def test_called_off(self, path: Path, tmp_path: Path, hanging_child: Path) -> None:
        stop = threading.Event()
        stop.set()
        with pytest.raises(InitializationError) as caught:
            copy_in_child(path, tmp_path / "copy", [], stop=stop)
        assert caught.value.code == "interrupted"
