"""Checking live databases: nothing locked, never in the way, no wrong answer."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest
from database_files import DEADLINE, SOME, VERSION, can_open, hear, make, make_with_wal, names, python, tell

from selfheald import table_checker
from selfheald.catalog import Reading
from selfheald.catalog_reader import read_database
from selfheald.client import file_identity
from selfheald.errors import InitializationError
from selfheald.initialization_state import RequiredTable, TableTier
from selfheald.locks import holder
from selfheald.table_checker import TableExistenceChecker


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "simulation.duckdb"


WRITER = """
    connection = duckdb.connect(sys.argv[1])
    connection.execute("CREATE TABLE always (a INTEGER, b VARCHAR)")
    say("ready")
    turn, failures = 0, []
    while (order := hear()) == "write":
        while not asked():
            turn += 1
            try:
                connection.execute("BEGIN; CREATE TABLE one (a INTEGER); CREATE TABLE two (a INTEGER); COMMIT")
                connection.execute("INSERT INTO always SELECT range, 'x' FROM range(1000)")
                if turn % 3 == 0:
                    connection.execute("CHECKPOINT")
                connection.execute("BEGIN; DROP TABLE one; DROP TABLE two; COMMIT")
                connection.execute(f"CREATE OR REPLACE TABLE last AS SELECT {turn} AS turn")
                if turn % 5 == 0:
                    connection.execute("CHECKPOINT")
            except Exception as error:
                failures.append(str(error))
        hear()
        connection.execute(f"CREATE TABLE pause_{turn} (a INTEGER)")
        say(turn)
    say(json.dumps([turn, failures]))
"""


class TestBesideAWriter:
    """Never in the way."""

    def test_no_wrong_answer_and_no_failure_of_the_writer(self, path: Path) -> None:
        uncertain = 0
        with python(WRITER, path) as writer:
            assert hear(writer) == "ready"
            for _ in range(3):
                tell(writer, "write")
                end = time.monotonic() + 1.0
                while time.monotonic() < end:
                    reading = read_database(path)
                    uncertain += not reading.certain
                    if reading.certain:
                        self._is_consistent(reading)
                    assert reading.holder is None or reading.holder.pid == writer.pid
                tell(writer, "pause")
                turn = hear(writer)
                # Nobody writes now: as soon as that is certain, exactly the writer's state is seen.
                while not (reading := read_database(path)).certain:
                    assert time.monotonic() < end + DEADLINE
                self._is_consistent(reading)
                assert f"main.pause_{turn}:table" in names(reading)
                assert reading.holder is not None
                assert (reading.holder.pid, reading.holder.mode) == (writer.pid, "write")
            tell(writer, "stop")
            turns, failures = json.loads(hear(writer))
        assert failures == []
        assert turns > 3
        assert uncertain > 3

    @staticmethod
    def _is_consistent(reading: Reading) -> None:
        assert reading.error is None
        found = {item.name for item in reading.relations}
        assert "always" in found
        assert ("one" in found) == ("two" in found)

    def test_a_writer_that_has_just_written_leaves_it_open(self, path: Path) -> None:
        with python(WRITER, path) as writer:
            hear(writer)
            reading = read_database(path)
            assert (reading.certain, reading.holder and reading.holder.mode) == (False, "write")
            tell(writer, "stop")
            hear(writer)
            writer.wait(DEADLINE)
        assert read_database(path).certain

    def test_checks_lock_nothing_and_change_nothing(self, path: Path) -> None:
        make_with_wal(path, *SOME)
        before = path.read_bytes(), path.with_name(path.name + ".wal").read_bytes(), file_identity(path)
        loop = """
            from pathlib import Path
            from selfheald.table_checker import read_database
            reads = 0
            while not asked():
                reading = read_database(Path(sys.argv[1]))
                assert reading.error is None or not reading.certain
                reads += 1
                if reads == 5:
                    say("ready")
            say(reads)
        """
        with python(loop, path) as checker:
            assert hear(checker) == "ready"
            for _ in range(2000):
                assert holder(path) is None
            assert (path.read_bytes(), path.with_name(path.name + ".wal").read_bytes(), file_identity(path)) == before
            assert sorted(item.name for item in path.parent.iterdir()) == [path.name, path.name + ".wal"]
            for _ in range(3):
                assert can_open(path)
            assert checker.poll() is None

    def test_a_reader_is_named_and_does_not_disturb(self, path: Path) -> None:
        make(path, *SOME)
        code = "c = duckdb.connect(sys.argv[1], read_only=True); say('ready'); hear()"
        with python(code, path) as other:
            hear(other)
            reading = read_database(path)
            assert reading.certain
            assert reading.holder is not None
            assert (reading.holder.pid, reading.holder.mode) == (other.pid, "read")


class TestChecker:
    """The public class."""

    REQUIRED = (
        RequiredTable("t", TableTier.SEED),
        RequiredTable("comp_levers", TableTier.SEED),
        RequiredTable("int_baseline_workforce", TableTier.FOUNDATION),
    )

    @pytest.mark.parametrize("in_process", [True, False])
    def test_tells_what_is_there_and_what_is_missing(self, path: Path, in_process: bool) -> None:
        make(path, *SOME, "CREATE SCHEMA s", "CREATE TABLE s.u (a INTEGER)", "CREATE VIEW v AS FROM t")
        checker = TableExistenceChecker(path, self.REQUIRED, in_process)
        assert checker.get_existing_tables() == {"t", "s.u"}
        assert checker.get_missing_tables() == list(self.REQUIRED[1:])
        assert checker.get_missing_by_tier() == {
            TableTier.SEED: [self.REQUIRED[1]],
            TableTier.FOUNDATION: [self.REQUIRED[2]],
        }
        assert not checker.is_initialized()
        assert TableExistenceChecker(path, self.REQUIRED[:1], in_process).is_initialized()

    def test_a_path_may_be_relative(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        make(path, *SOME)
        monkeypatch.chdir(path.parent)
        assert TableExistenceChecker(path.name, self.REQUIRED[:1]).is_initialized()

    def test_nothing_there(self, path: Path) -> None:
        checker = TableExistenceChecker(path, self.REQUIRED, in_process=True)
        assert checker.get_existing_tables() == set()
        assert checker.get_missing_tables() == list(self.REQUIRED)
        assert not checker.is_initialized()

    def test_what_cannot_be_read_is_raised(self, path: Path) -> None:
        path.write_bytes(b"hello, this is no database")
        checker = TableExistenceChecker(path, self.REQUIRED, in_process=True)
        for question in (checker.get_existing_tables, checker.get_missing_by_tier, checker.is_initialized):
            with pytest.raises(InitializationError, match="not a DuckDB database"):
                question()
        assert checker.check().error is not None

    def test_a_mismatch_is_no_reason_to_raise(self, path: Path) -> None:
        make(path, "CREATE VIEW t AS SELECT 1 AS a")
        checker = TableExistenceChecker(path, self.REQUIRED, in_process=True)
        assert not checker.is_initialized()
        assert checker.get_missing_tables() == list(self.REQUIRED[1:])

    def test_required_tables_can_come_from_above(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        make(path, *SOME)
        monkeypatch.setattr(table_checker, "_resolver", None)
        with pytest.raises(InitializationError, match="not known which tables"):
            TableExistenceChecker(path, in_process=True).is_initialized()
        asked: list[Path] = []
        table_checker.resolve_required_with(lambda db: asked.append(db) or self.REQUIRED[:1])  # type: ignore[func-returns-value]
        assert TableExistenceChecker(path, in_process=True).is_initialized()
        assert asked == [path]


class TestCost:
    """A kept connection neither leaks nor slows down."""

    def test_thousands_of_checks_leak_nothing(self, path: Path) -> None:
        make_with_wal(path, SOME[0], "CREATE VIEW v AS FROM t")
        count = 3000 if VERSION >= (1, 5) else 600
        script = """
            import resource
            from pathlib import Path
            from selfheald.table_checker import read_database
            def used():
                pages = int(Path("/proc/self/statm").read_text().split()[1])
                return pages * resource.getpagesize() >> 10, len(os.listdir("/proc/self/fd"))
            path, count = Path(sys.argv[1]), int(sys.argv[2])
            for turn in range(count):
                assert read_database(path).error is None
                if turn == count // 4:
                    before = used()
            after = used()
            say(json.dumps([after[0] - before[0], after[1] - before[1]]))
        """
        if not Path("/proc/self/statm").exists():
            pytest.skip("needs /proc")
        with python(script, path, count) as process:
            grown_kib, descriptors = json.loads(hear(process))
        assert grown_kib < 12 << 10
        assert descriptors == 0

    def test_each_thread_has_its_own_connection(self, tmp_path: Path) -> None:
        paths = [make(tmp_path / f"{number}.duckdb", f"CREATE TABLE t{number} (a INTEGER)") for number in range(4)]
        wrong: list[object] = []

        def check(number: int) -> None:
            for _ in range(30):
                reading = read_database(paths[number])
                if names(reading) != [f"main.t{number}:table"]:
                    wrong.append(reading)

        threads = [threading.Thread(target=check, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
        assert wrong == []
