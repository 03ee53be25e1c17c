"""Reading the catalogs of files of all kinds: nothing run, nothing changed."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest
from database_files import SOME, VERSION, code, hear, make, make_with_wal, names, patch_header, python

from selfheald import catalog_reader
from selfheald.catalog import Relation, judge
from selfheald.catalog_reader import CatalogReader, read_database
from selfheald.client import file_identity
from selfheald.column_types import canonical_type
from selfheald.duckdb_errors import classify
from selfheald.errors import DatabaseCorruptionError
from selfheald.file_header import probe_file
from selfheald.initialization_state import RequiredTable, TableTier
from selfheald.read_only_files import ReadOnlyFiles, _File
from selfheald.watched_file import watch_database


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "simulation.duckdb"


def needed(*wanted: str) -> list[RequiredTable]:
    return [RequiredTable(name, TableTier.SEED) for name in wanted]


class TestReading:
    """What is seen in files that are in order."""

    def test_tables_columns_and_views(self, path: Path) -> None:
        make(
            path,
            "CREATE TABLE t (a INTEGER NOT NULL, b VARCHAR, c DECIMAL(10,2)[], g INTEGER GENERATED ALWAYS AS (a + 1))",
            "CREATE SCHEMA s",
            'CREATE TABLE s."we\'ird ""one" ("co""l" TIMESTAMP WITH TIME ZONE)',
            "CREATE VIEW v AS SELECT * FROM t",
        )
        reading = read_database(path)
        assert reading.relations == (
            Relation(
                "main", "t", "table", (("a", "INTEGER"), ("b", "VARCHAR"), ("c", "DECIMAL(10,2)[]"), ("g", "INTEGER"))
            ),
            Relation("main", "v", "view"),
            Relation("s", "we'ird \"one", "table", (('co"l', "TIMESTAMP WITH TIME ZONE"),)),
        )
        assert (reading.certain, reading.exists, reading.empty, reading.holder, reading.error) == (
            (True, True, False, None, None)
        )
        assert reading.identity == file_identity(path)

    def test_what_is_only_in_the_wal(self, path: Path) -> None:
        make(path, "CREATE TABLE gone (a INTEGER)")
        make_with_wal(path, "CREATE TABLE new (a INTEGER)", "INSERT INTO new FROM range(10)", "DROP TABLE gone")
        before = file_identity(path)
        assert names(read_database(path)) == ["main.new:table"]
        assert file_identity(path) == before

    def test_many_rows_that_are_only_in_the_wal(self, path: Path) -> None:
        """1.0.0 moves them into blocks while it replays, also where it may only read."""
        big = "INSERT INTO t SELECT range, 'x' || range FROM range(400000)"
        make_with_wal(path, SOME[0], "CHECKPOINT", "SET checkpoint_threshold = '1GB'", big)
        before = path.read_bytes(), file_identity(path)
        reading = read_database(path)
        assert (names(reading), reading.error) == (["main.t:table"], None)
        assert (path.read_bytes(), file_identity(path)) == before

    def test_a_torn_wal_loses_its_tail_only(self, path: Path) -> None:
        make(path, "CREATE TABLE t (a INTEGER)")
        make_with_wal(path, "CREATE TABLE u (a INTEGER)", "CREATE TABLE v (a INTEGER)")
        wal = path.with_name(path.name + ".wal")
        wal.write_bytes(wal.read_bytes()[:-10])
        assert names(read_database(path)) == ["main.t:table", "main.u:table"]

    def test_a_file_that_duckdb_has_cut_is_whole(self, path: Path) -> None:
        """A checkpoint that frees the last blocks cuts the file, and leaves their count in the header."""
        big = "CREATE TABLE big AS SELECT random() FROM range(2000000)"
        make(path, *SOME, "CHECKPOINT made", big, "CHECKPOINT made", "DROP TABLE big", "CHECKPOINT made")
        assert probe_file(path).is_short
        assert names(read_database(path)) == ["main.t:table"]

    def test_five_hundred_tables(self, path: Path) -> None:
        make(path, *(f"CREATE TABLE t{number:03} (a INTEGER, b VARCHAR)" for number in range(500)))
        assert len(read_database(path).relations) == 500

    def test_reading_is_repeatable_and_never_stale(self, path: Path) -> None:
        for number in range(5):
            path.unlink(missing_ok=True)
            make(path, f"CREATE TABLE t{number} (a INTEGER)")
            os.utime(path, (1_000_000, 1_000_000))
            assert names(read_database(path)) == [f"main.t{number}:table"]

    @pytest.mark.skipif(VERSION < (2, 0), reason="nested schemas came with 2.0")
    def test_a_table_in_a_nested_schema_is_none_of_the_outer(self, path: Path) -> None:
        make(path, "CREATE SCHEMA a", "CREATE SCHEMA a.b", "CREATE TABLE a.b.t (x INT)", "CREATE TABLE a.t (x INT)")
        assert names(read_database(path)) == ["a.t:table"]

    def test_views_that_were_never_bound_are_not_bound_by_reading(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make(path, *SOME, "CREATE VIEW v AS SELECT * FROM t")
        expected = read_database(path).relations
        reader = CatalogReader()
        listed = (
            "SELECT schema_oid, schema_name, view_name, false FROM duckdb_views() "
            "WHERE database_name = 'checked' AND NOT internal"
        )
        monkeypatch.setattr(CatalogReader, "_views", lambda self: self._rows(listed))
        monkeypatch.setattr(CatalogReader, "_columns", lambda self: pytest.fail("this would bind views"))
        reader._knows_bound = True
        monkeypatch.setattr(catalog_reader._kept, "reader", reader, raising=False)
        reading = read_database(path)
        assert (reading.error, reading.relations) == (None, expected)

    def test_rows_are_read_in_the_callers_thread_alone(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """2.0.0 would read ahead in other threads, and mix rows up."""
        make(path, "CREATE TABLE t AS SELECT range AS a, random() AS b, 'x' || range AS c FROM range(1000000)")
        query = "SELECT count(*), sum(hash(a)), sum(hash(b)), sum(hash(c)) FROM"
        with duckdb.connect(str(path), read_only=True) as connection:
            expected = connection.execute(f"{query} t").fetchone()
        threads: set[int] = set()
        read = _File.read

        def watched_read(file: _File, length: int = -1) -> bytes:
            threads.add(threading.get_ident())
            return read(file, length)

        monkeypatch.setattr(_File, "read", watched_read)
        reader = CatalogReader()
        with watch_database(path) as watched, reader.attached(watched):
            assert reader.connection.execute(f"{query} checked.main.t").fetchone() == expected
        reader.close()
        assert threads == {threading.get_ident()}

    def test_types_are_spelled_as_we_spell_them(self) -> None:
        connection = duckdb.connect(":memory:")
        types = "int, numeric, dec(5), text, float8, timestamptz, int[], varchar(9), real, long, uint8, bytea".split(
            ", "
        )
        for written in (*types, "struct(a int, b text[])", "map(text, numeric(4, 1))", "double precision"):
            row = connection.execute(f"SELECT typeof(CAST(NULL AS {written}))").fetchone()
            assert row is not None
            assert canonical_type(written) == canonical_type(row[0]) == row[0]
        connection.close()


class TestFilesOfAllKinds:
    """Whatever stands at the path has a code, and stays as it is."""

    def test_nothing(self, path: Path, tmp_path: Path) -> None:
        for absent in (path, tmp_path / "no" / "folder" / "simulation.duckdb"):
            reading = read_database(absent)
            assert (reading.exists, reading.certain, reading.error, reading.identity) == (False, True, None, None)

    def test_zero_bytes(self, path: Path) -> None:
        path.touch()
        reading = read_database(path)
        assert (reading.exists, reading.empty, reading.certain, reading.error) == (True, True, True, None)

    @pytest.mark.parametrize("suffix", [".wal", ".wal.checkpoint", ".wal.recovery"])
    @pytest.mark.parametrize("empty", [True, False])
    def test_a_wal_without_its_database(self, path: Path, suffix: str, empty: bool) -> None:
        if empty:
            path.touch()
        path.with_name(path.name + suffix).write_bytes(b"something")
        reading = read_database(path)
        assert code(reading) == "database_corrupt"
        assert (reading.exists, reading.empty) == (empty, empty)
        assert reading.error is not None
        assert "Restore" in reading.error.hint

    def test_folder(self, path: Path) -> None:
        path.mkdir()
        assert code(read_database(path)) == "not_a_database"

    def test_pipe_and_socket(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        os.mkfifo(path)
        assert code(read_database(path)) == "not_a_database"
        path.unlink()
        monkeypatch.chdir(path.parent)
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
            assert code(read_database(path)) == "not_a_database"

    def test_device(self) -> None:
        assert code(read_database(Path("/dev/null"))) == "not_a_database"

    @pytest.mark.parametrize("target", ["/dev/null", "/etc/passwd", "absent", "simulation.duckdb"])
    def test_link(self, path: Path, target: str) -> None:
        path.symlink_to(target)
        assert code(read_database(path)) == "unsafe_path"

    def test_wal_that_is_a_link(self, path: Path) -> None:
        make(path, *SOME)
        path.with_name(path.name + ".wal").symlink_to("/etc/passwd")
        assert code(read_database(path)) == "unsafe_path"

    def test_a_file_in_the_way_of_the_folder(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        assert code(read_database(tmp_path / "file" / "simulation.duckdb")) == "unsafe_path"

    @pytest.mark.parametrize("content", [b"no database at all", b"\0" * 20000, b"x", b"\0" * 8 + b"DUC"])
    def test_not_a_database(self, path: Path, content: bytes) -> None:
        path.write_bytes(content)
        assert code(read_database(path)) == "not_a_database"
        assert path.read_bytes() == content

    @pytest.mark.parametrize("length", [12, 4096, 12287, 12288, 12288 + 262144, -1])
    def test_cut_off(self, path: Path, length: int) -> None:
        make(path, *SOME)
        os.truncate(path, length if length >= 0 else path.stat().st_size + length)
        reading = read_database(path)
        assert code(reading) == "database_corrupt"
        assert isinstance(reading.error, DatabaseCorruptionError)
        assert reading.error.db_path == str(path)

    @pytest.mark.parametrize("offset", [60, 12288 + 100])
    def test_damaged(self, path: Path, offset: int) -> None:
        make(path, "CREATE TABLE t (a INTEGER)")
        content = bytearray(path.read_bytes())
        content[offset : offset + 8] = b"\xff" * 8
        path.write_bytes(content)
        assert code(read_database(path)) == "database_corrupt"
        assert path.read_bytes() == content

    @pytest.mark.parametrize("version", [9999, 1])
    def test_a_format_that_this_duckdb_cannot_read(self, path: Path, version: int) -> None:
        patch_header(make(path, *SOME), 12, version)
        reading = read_database(path)
        assert code(reading) == "database_newer"
        assert reading.error is not None
        assert ("EXPORT" in reading.error.hint) == (version == 1)
        assert probe_file(path).storage_version == version

    def test_encrypted(self, path: Path) -> None:
        patch_header(make(path, *SOME), 20, 1)
        assert code(read_database(path)) == "database_encrypted"
        assert probe_file(path).encrypted

    @pytest.mark.skipif(VERSION < (2, 0), reason="1.4 and later can encrypt")
    def test_really_encrypted(self, path: Path) -> None:
        make(path, *SOME, options="(ENCRYPTION_KEY 'secret')", settings={"force_mbedtls_unsafe": "true"})
        assert code(read_database(path)) == "database_encrypted"

    def test_no_access(self) -> None:
        script = """
            from pathlib import Path
            from selfheald.catalog_reader import read_database
            if os.geteuid() == 0:
                os.seteuid(65534)
            for path in sys.argv[1:]:
                reading = read_database(Path(path))
                say(f"{reading.error and reading.error.code} {reading.certain}")
        """
        with tempfile.TemporaryDirectory() as folder:
            path = make(Path(folder) / "simulation.duckdb", *SOME)
            (Path(folder) / "closed").mkdir(mode=0)
            Path(folder).chmod(0o755)
            path.chmod(0)
            with python(script, path, Path(folder) / "closed" / "simulation.duckdb") as process:
                assert hear(process) == "permission_denied True"
                assert hear(process) == "permission_denied True"

    def test_after_an_error_the_next_file_is_read(self, tmp_path: Path) -> None:
        good, bad = make(tmp_path / "good", *SOME), make(tmp_path / "bad", *SOME)
        os.truncate(bad, 12288)
        for _ in range(3):
            assert code(read_database(bad)) == "database_corrupt"
            assert names(read_database(good)) == ["main.t:table"]


@pytest.mark.parametrize(
    ("message", "kind", "expected"),
    [
        ('Could not set lock on file "/corrupt/d": Conflicting lock is held', duckdb.IOException, "locked"),
        ("Could not write file: No space left on device", duckdb.IOException, "disk_full"),
        ('Cannot open file "/corrupt/d": Permission denied', duckdb.IOException, "permission_denied"),
        ('Cannot open file "/corrupt/d": No such file or directory', duckdb.IOException, "locked"),
        ("Failed to deserialize: field id mismatch", duckdb.SerializationException, "database_newer"),
        ("requires the extension spatial to be loaded", duckdb.Error, "database_newer"),
        ("Out of Memory Error: failed to allocate", duckdb.OutOfMemoryException, "check_crashed"),
        ("Corrupt database file", duckdb.Error, "database_corrupt"),
        ("Attempted to dereference unique_ptr that is NULL!", duckdb.InternalException, "database_corrupt"),
    ],
)
def test_failures_are_told_apart_by_what_duckdb_says(message: str, kind: type[Exception], expected: str) -> None:
    error = classify(kind(message), "/corrupt/d")
    assert error.code == expected
    assert error.path == "/corrupt/d"
    assert error.hint


class TestNothingIsRun:
    """A database's own SQL is data."""

    def test_a_view_under_a_required_name_is_reported_and_not_run(self, path: Path, tmp_path: Path) -> None:
        trap = tmp_path / "trap.csv"
        trap.write_text("a\n1\n")
        make(path, f"CREATE VIEW t AS SELECT * FROM read_csv('{trap}')", "CREATE VIEW u AS SELECT * FROM t")
        trap.unlink()
        os.mkfifo(trap)  # whoever opened it now would wait for ever
        result = judge(read_database(path), needed("t"), path)
        assert result.tables == ({"name": "t", "tier": "seed", "kind": "view", "missing_columns": []},)
        assert result.error is not None
        assert result.error.code == "schema_mismatch"
        assert not result.complete

    def test_a_connection_reaches_nothing_but_the_database(self, path: Path, tmp_path: Path) -> None:
        make(path, "CREATE VIEW v AS SELECT * FROM read_csv('/etc/passwd', header = false)")
        reader = CatalogReader()
        reader.lock()
        with watch_database(path) as watched, reader.attached(watched):
            for query in (
                "FROM checked.main.v",
                "FROM read_csv('/etc/passwd')",
                f"COPY (SELECT 1) TO '{tmp_path}/out.csv'",
                f"ATTACH '{tmp_path}/other.duckdb' AS other",
                "INSTALL httpfs",
                "SET disabled_filesystems = ''",
                "SET lock_configuration = false",
                f"FROM read_csv('{reader.files.protocol}://{'0' * 32}/database')",
                "CREATE TABLE checked.main.new (a INTEGER)",
            ):
                with pytest.raises((duckdb.Error, OSError)):
                    reader.connection.execute(query).fetchall()
        reader.close()
        assert sorted(item.name for item in tmp_path.iterdir()) == [path.name]

    def test_the_file_system_refuses_every_other_request(self, path: Path) -> None:
        path.write_bytes(b"abc")
        files, folder = ReadOnlyFiles(), os.open(path.parent, os.O_RDONLY)
        descriptor = os.open(path, os.O_RDONLY)
        try:
            address = files.show(path.name, descriptor, folder)
            assert files.open(address).read() == b"abc"
            requests: list[Callable[[], object]] = [
                lambda: files.rm(address),
                lambda: files.rm_file(address),
                lambda: files.delete(address),
                lambda: files._rm(address),
                lambda: files.mv(address, address),
                lambda: files.move(address, address),
                lambda: files.rename(address, address),
                lambda: files.cp_file(address, address),
                lambda: files.mkdir(address),
                lambda: files.makedirs(address),
                lambda: files.touch(address),
                lambda: files.pipe_file(address, b""),
                lambda: files.ls(address),
                lambda: files.glob(address),
                lambda: files.open(address, "wb"),
                lambda: files.open(address, "r+b"),
                lambda: files.open(address, "ab"),
                lambda: files.open(address + ".wal", "wb"),
            ]
            for request in requests:
                with pytest.raises(PermissionError):
                    request()
            for other in ("/etc/passwd", str(path), address + "x", address + "/../x", f"{files.protocol}://x/database"):
                assert not files.exists(other)
                with pytest.raises(FileNotFoundError):
                    files.open(other)
            files.hide()
            assert not files.exists(address)
        finally:
            os.close(descriptor)
            os.close(folder)
        assert path.read_bytes() == b"abc"


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
