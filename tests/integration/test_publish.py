"""Publishing, in real child processes: all or nothing, nobody's rows lost, nobody's file in the way.

``SELFHEALD_TEST_PYTHON`` names the interpreter whose DuckDB publishes and simulates (default: this one), and
``SELFHEALD_TEST_ROUNDS`` the number of kills (default 10). Races with simulators are in the tests of the promises.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import os
import resource
import select
import shutil
import stat
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fixtures.publishing import CHILD, DEADLINE, DUCK, RUNNER, Duck, House, Talk, make_live
from fixtures.waiting import wait_for

ROUNDS = int(os.environ.get("SELFHEALD_TEST_ROUNDS", "10"))


@pytest.fixture(scope="module")
def duck() -> Iterator[Duck]:
    process = Duck()
    yield process
    process.end()


@pytest.fixture
def talk() -> Iterator[Callable[..., Talk]]:
    """Starts processes that end with the test."""
    started: list[Talk] = []

    def start(*arguments: str, **options: Any) -> Talk:
        started.append(Talk(*arguments, **options))
        return started[-1]

    yield start
    for process in started:
        process.end()


@pytest.fixture
def house(tmp_path: Path, duck: Duck) -> House:
    return House(tmp_path, duck)


@pytest.fixture
def simple(house: House) -> House:
    """Staging has ``new``, which is wanted, and ``old``, the table of the live database it was made from."""
    house.build(
        "CREATE TABLE old AS SELECT range i, 'r' || range s FROM range(1000)",
        "CREATE TABLE new AS SELECT i * 2 AS j FROM old",
    )
    house.want("new", "j")
    return house


# --- what is verified


def test_only_planned_tables_are_published(house: House) -> None:
    house.build(
        "CREATE TABLE wanted(i INTEGER, more VARCHAR)",
        "INSERT INTO wanted VALUES (1, 'a'), (2, 'b')",
        "CREATE TABLE wanted__dbt_tmp(i INTEGER)",
        "CREATE TABLE nobody_planned(i INTEGER)",
        "CREATE VIEW a_view AS SELECT 1 AS one",
    )
    house.want("wanted", "I")
    answer = house.publish()
    assert answer["outcome"] == "published"
    assert answer["created"] == ["wanted"]
    assert answer["rows"] == {"wanted": 2}
    assert house.tables() == {"main.wanted"}
    assert house.live("SELECT count(*) FROM duckdb_views() WHERE view_name = 'a_view'") == [["0"]]


def test_steps_are_told(simple: House) -> None:
    child = simple.start()
    events = [child.hear() for _ in range(5)]
    child.end()
    assert [(event.get("name"), event.get("state")) for event in events[:4]] == [
        ("verify", "started"),
        ("verify", "completed"),
        ("publish", "started"),
        ("publish", "completed"),
    ]
    assert events[4]["event"] == "result"


@pytest.mark.parametrize(
    ("made", "columns", "contract", "complaint"),
    [
        ("CREATE TABLE other(i INTEGER)", ["i"], False, "did not make"),
        ("CREATE VIEW t AS SELECT 1 AS i", ["i"], False, "view"),
        ("CREATE TABLE t(i INTEGER)", ["i", "J", "k"], False, "lacks the columns J, k"),
        ("CREATE TABLE t(i BIGINT)", ["i integer"], True, "BIGINT"),
        ("CREATE TABLE t(i INTEGER)", ["i integer); drop table t; select (1"], True, "contract says"),
        ("CREATE TABLE t(i INTEGER)", ["i integer)), (select 1 from (values (1"], True, "contract says"),
        ("CREATE TABLE t(i INTEGER)", ["i no_such_type"], True, "contract says"),
    ],
)
def test_staging_that_is_not_what_is_required(
    house: House, made: str, columns: list[str], contract: bool, complaint: str
) -> None:
    house.build(made)
    house.want("t", *columns, contract=contract)
    answer = house.publish()
    assert (answer["event"], answer["code"], answer["step"]) == ("error", "verification_failed", "verify")
    assert complaint in answer["message"]
    assert not house.database.exists()


def test_types_are_compared_by_meaning(house: House) -> None:
    house.build(
        "CREATE TABLE t(a INTEGER, b DECIMAL(18,3), c VARCHAR, d TIMESTAMP WITH TIME ZONE, e STRUCT(x INTEGER)[])"
    )
    house.want("T", "A int4", "b numeric", "c text", "d timestamptz", "e struct(x int)[]", "a", contract=True)
    assert house.published() == {"T": 0}


def test_types_count_only_under_a_contract(house: House) -> None:
    house.build("CREATE TABLE t(i BIGINT)")
    house.want("t", "i integer")
    assert house.published() == {"t": 0}


@pytest.mark.parametrize(
    ("text", "delimiter", "columns", "rows", "code"),
    [
        ("a,b\n1,x\n2,y\n", ",", "a INTEGER, b VARCHAR", 2, None),
        ("\ufeffA;b\r\n1;x\r\n\r\n2;'y\r\n", ";", "a INTEGER, b VARCHAR", 2, None),
        ('a,b\n1,"two\nlines"\n', ",", "a INTEGER, b VARCHAR", 1, None),
        ("a\n1\n\n2\n", ",", "a INTEGER", 3, None),
        ("a\n1\n\n2\n", ",", "a INTEGER", 4, "verification_failed"),
        ("a,b\n1,x\n2,y\n", ",", "a INTEGER, b VARCHAR", 3, "verification_failed"),
        ("a,b\n1,x\n2,y\n", ",", "a INTEGER, b VARCHAR", 1, "verification_failed"),
        ("a,c\n1,x\n", ",", "a INTEGER, b VARCHAR", 1, "verification_failed"),
        ("a,b\n1,x\n", ",", "a INTEGER, b VARCHAR, c INTEGER", 1, "verification_failed"),
        (None, ",", "a INTEGER", 0, "missing_seed_file"),
        ("a\n\udcff\n", ",", "a VARCHAR", 1, "seed_invalid"),
    ],
)
def test_seeds_are_compared_with_their_files(
    house: House, text: str | None, delimiter: str, columns: str, rows: int, code: str | None
) -> None:
    file = house.folder / "seed.csv"
    if text is not None:
        file.write_bytes(text.encode("utf-8", "surrogateescape"))
    house.build(f"CREATE TABLE seed({columns})", f"INSERT INTO seed(a) SELECT range FROM range({rows})")
    house.want("seed", "a", seed={"path": str(file), "delimiter": delimiter})
    answer = house.publish()
    assert answer.get("code") == code, answer
    assert answer.get("path") == (None if code is None else str(file))
    assert house.database.exists() == (code is None)


@pytest.mark.parametrize(
    "made",
    [
        ["CREATE TABLE t(i INTEGER PRIMARY KEY)"],
        ["CREATE TABLE t(i INTEGER UNIQUE)"],
        ["CREATE TABLE t(i INTEGER)", "CREATE INDEX x ON t(i)"],
        ["CREATE TABLE p(i INTEGER PRIMARY KEY)", "CREATE TABLE t(i INTEGER REFERENCES p(i))"],
    ],
)
def test_keys_are_refused_in_an_older_storage_format_only(house: House, made: list[str]) -> None:
    house.build(*made)
    if len(made) > 1 and "REFERENCES" in made[1]:
        house.want("p", "i")
    house.want("t", "i")
    house.job["storage_version"] = "v0.10.2"
    answer = house.publish()
    assert answer["code"] == "verification_failed"
    assert "dbt.storage_version" in answer["hint"]
    assert not house.database.exists()
    house.job["storage_version"] = "latest"
    assert house.published()["t"] == 0


# --- a database that does not exist


def test_new_file_is_complete_compact_and_in_the_wanted_format(simple: House) -> None:
    simple.build("CREATE TABLE junk AS SELECT range i, md5(range::VARCHAR) s FROM range(200000)")
    old = os.umask(0o027)
    try:
        assert simple.published() == {"new": 1000}
    finally:
        os.umask(old)
    assert stat.S_IMODE(simple.database.stat().st_mode) == 0o640
    assert simple.database.stat().st_nlink == 1
    assert simple.database.stat().st_size < 1_000_000
    assert int.from_bytes(simple.database.read_bytes()[12:20], "little") == 64
    assert sorted(path.name for path in simple.folder.iterdir()) == [".selfheald", "publish.log", "simulation.duckdb"]
    assert simple.live("SELECT sum(j) FROM new") == [["999000"]]


def test_new_file_takes_the_group_of_a_setgid_folder(simple: House) -> None:
    groups = [group for group in (12345, *os.getgroups()) if group != os.getegid()]
    for group in groups:
        try:
            os.chown(simple.folder, -1, group)
        except PermissionError:
            continue
        simple.folder.chmod(0o2775)
        simple.published()
        assert simple.database.stat().st_gid == group
        return
    pytest.skip("this user may give files to no other group")


@pytest.mark.parametrize("suffix", [".wal", ".wal.checkpoint", ".wal.recovery"])
@pytest.mark.parametrize("empty", [True, False])
def test_wal_without_its_database_is_reported_and_left(simple: House, suffix: str, empty: bool) -> None:
    if empty:
        simple.database.touch()
    wal = simple.folder / f"simulation.duckdb{suffix}"
    wal.write_bytes(b"somebody's rows")
    answer = simple.publish()
    assert (answer["code"], answer["path"]) == ("database_corrupt", str(wal))
    assert answer["hint"]
    assert wal.read_bytes() == b"somebody's rows"
    assert simple.database.exists() == empty


def test_database_that_came_into_being_is_left(simple: House) -> None:
    make_live(simple)
    before = simple.database.read_bytes()
    assert simple.publish()["outcome"] == "changed"
    assert simple.database.read_bytes() == before


@pytest.mark.parametrize("kind", ["link", "fifo", "folder"])
def test_what_is_no_file_is_unsafe(simple: House, kind: str) -> None:
    elsewhere = simple.folder / "elsewhere"
    if kind == "link":
        simple.database.symlink_to(elsewhere)
    elif kind == "fifo":
        os.mkfifo(simple.database)
    else:
        simple.database.mkdir()
    assert simple.publish()["code"] == "unsafe_path"
    assert not elsewhere.exists()


@pytest.mark.parametrize("gate", ["put_in_place", "link"])
@pytest.mark.parametrize("what", ["database", "empty file", "nothing"])
def test_file_that_appears_at_the_last_moment(simple: House, talk: Callable[..., Talk], what: str, gate: str) -> None:
    runner = talk("-c", RUNNER, str(CHILD), "pause", gate)
    runner.hear_event("ready")
    runner.tell(simple.job)
    runner.hear_event("paused")
    if what == "database":
        make_live(simple)
    elif what == "empty file":
        simple.database.touch()
    runner.tell("go on")
    answer = runner.hear_event("result", "error")
    if what == "database":
        assert answer["outcome"] == "changed"
        assert simple.tables() == {"main.old"}
        assert simple.live("SELECT count(*) FROM old") == [["1000"]]
    else:
        assert answer["outcome"] == "published"
        assert simple.tables() == {"main.new"}


def test_file_system_without_hard_links(simple: House, talk: Callable[..., Talk]) -> None:
    runner = talk("-c", RUNNER, str(CHILD), "no links", "")
    runner.hear_event("ready")
    runner.tell(simple.job)
    assert runner.hear_event("result", "error")["outcome"] == "published"
    assert simple.tables() == {"main.new"}


@pytest.mark.parametrize("name", ["what?.duckdb", os.fsdecode(b"latin-\xe9.duckdb")])
def test_path_that_duckdb_would_misread_is_unsafe(simple: House, name: str) -> None:
    simple.job["database"] = str(simple.folder / name)
    assert simple.publish()["code"] == "unsafe_path"


# --- an empty file


def test_empty_file_is_replaced_and_keeps_what_its_owner_set(simple: House) -> None:
    simple.database.touch()
    simple.database.chmod(0o660)
    inode = simple.database.stat().st_ino
    marked = False
    if hasattr(os, "setxattr"):
        try:
            os.setxattr(simple.database, "user.note", b"mine")
            marked = True
        except OSError:
            pass
    assert simple.published() == {"new": 1000}
    assert simple.database.stat().st_ino != inode
    assert stat.S_IMODE(simple.database.stat().st_mode) == 0o660
    if marked:
        assert os.getxattr(simple.database, "user.note") == b"mine"
    assert simple.tables() == {"main.new"}


def test_owner_of_an_empty_file_is_kept(simple: House) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may give files away")
    simple.database.touch()
    os.chown(simple.database, 12345, 12346)
    simple.published()
    assert (simple.database.stat().st_uid, simple.database.stat().st_gid) == (12345, 12346)


def test_empty_file_that_somebody_locks_is_busy(simple: House) -> None:
    with simple.database.open("wb") as creator:
        fcntl.lockf(creator, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert simple.publish()["outcome"] == "busy"
        assert simple.database.stat().st_size == 0
        assert os.path.samestat(os.fstat(creator.fileno()), simple.database.stat())
    assert simple.published() == {"new": 1000}


def test_replaced_file_stays_locked_while_somebody_has_it_open(simple: House) -> None:
    """Who opened the empty file long ago gets no lock on it; the new one is free meanwhile."""
    simple.database.touch()
    with simple.database.open("rb+") as early:
        child = simple.start()
        wait_for(lambda: _is_free(simple.database, early.fileno()))
        with pytest.raises(BlockingIOError):
            fcntl.lockf(early, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert child.hear_event("result", "error")["outcome"] == "published"
    child.end()
    assert simple.tables() == {"main.new"}


def _is_free(database: Path, replaced: int) -> bool:
    """True if another file has taken the place of the one that is open, and nobody locks it."""
    with database.open("rb+") as now:
        if os.path.samestat(os.fstat(now.fileno()), os.fstat(replaced)):
            return False
        try:
            fcntl.lockf(now, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def test_both_files_are_locked_while_one_takes_the_others_place(simple: House, talk: Callable[..., Talk]) -> None:
    """Who opened the empty file before must not get a lock on it in the moment when it is being replaced."""
    simple.database.touch()
    runner = talk("-c", RUNNER, str(CHILD), "pause", "put_in_place")
    runner.hear_event("ready")
    runner.tell(simple.job)
    runner.hear_event("paused")
    refused = 0
    with simple.database.open("rb+") as early:
        runner.tell("go on")
        until = time.monotonic() + DEADLINE
        while not select.select([runner.process.stdout], [], [], 0)[0] and time.monotonic() < until:
            with simple.database.open("rb+") as late:
                replaced = not os.path.samestat(os.fstat(late.fileno()), os.fstat(early.fileno()))
                if replaced:
                    refused += not _can_lock(early) and not _can_lock(late)
    assert runner.hear_event("result", "error")["outcome"] == "published"
    assert refused > 0


def _can_lock(file: Any) -> bool:
    """Asks without locking, so that the asking is in nobody's way."""
    record = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    return bool(struct.unpack("hhqqi4x", fcntl.fcntl(file, fcntl.F_GETLK, record))[0] == fcntl.F_UNLCK)


# --- a database that exists

ODD = [
    'CREATE SCHEMA "Odd schema"',
    "CREATE TYPE mood AS ENUM ('sad', 'it''s')",
    "CREATE TABLE plain(i INTEGER, s VARCHAR)",
    "INSERT INTO plain SELECT range, 's' || range FROM range(100)",
    "COMMENT ON TABLE plain IS 'it''s a \"comment\"'",
    "COMMENT ON COLUMN plain.s IS 'column''s'",
    (
        'CREATE TABLE "Odd schema"."T ""q"" x"("Col, (A" INTEGER NOT NULL DEFAULT (3 + 4), "select" VARCHAR '
        'CHECK (length("select") > 0), g INTEGER GENERATED ALWAYS AS ("Col, (A" * 2), "it\'s" INTEGER)'
    ),
    'INSERT INTO "Odd schema"."T ""q"" x"("Col, (A", "select", "it\'s") VALUES (1, \'a,b\', 3), (2, \'GENERATED\', 4)',
    (
        "CREATE TABLE nested(m mood, e ENUM('x', 'y'), st STRUCT(\"a b\" INTEGER, c VARCHAR[]), "
        'mp MAP(VARCHAR, INTEGER), l INTEGER[3], u UNION(n INTEGER, "S t" VARCHAR), d DECIMAL(18,3), '
        "ts TIMESTAMPTZ, b BLOB, n HUGEINT)"
    ),
    (
        "INSERT INTO nested VALUES ('it''s', 'y', {'a b': 1, 'c': ['z']}, MAP {'k': 2}, [1, 2, 3], 5, 1.234, "
        "'2024-02-29 00:00:00+00', '\\xAA'::BLOB, 170141183460469231731687303715884105727)"
    ),
    "CREATE TABLE UPPER(X INTEGER)",
    'CREATE TABLE "order"("group" INTEGER)',
]
KEYED = [
    "CREATE TABLE zparent(i INTEGER PRIMARY KEY, j INTEGER UNIQUE)",
    "INSERT INTO zparent VALUES (1, 2)",
    "CREATE TABLE child(p INTEGER REFERENCES zparent(i), v INTEGER)",
    "INSERT INTO child VALUES (1, 7)",
    'CREATE INDEX "an index" ON child(v)',
    "CREATE UNIQUE INDEX twice ON child((v + 1), p)",
    'CREATE TABLE "Odd schema"."z parent"(i INTEGER PRIMARY KEY)',
    'INSERT INTO "Odd schema"."z parent" VALUES (1)',
    'CREATE TABLE "Odd schema"."a child"(p INTEGER REFERENCES "Odd schema"."z parent"(i))',
    'INSERT INTO "Odd schema"."a child" VALUES (1)',
]
DESCRIPTION = (
    "SELECT schema_name, table_name, sql, comment FROM duckdb_tables() WHERE table_name <> 'old' ORDER BY ALL",
    (
        "SELECT schema_name, table_name, column_name, data_type, comment FROM duckdb_columns() "
        "WHERE NOT internal AND table_name <> 'old' ORDER BY ALL"
    ),
    "SELECT index_name, is_unique, sql FROM duckdb_indexes() ORDER BY ALL",
)


@pytest.mark.parametrize("mode", ["create", "graft"])
@pytest.mark.parametrize("keys", [False, True])
def test_definitions_come_over_whole(house: House, mode: str, keys: bool) -> None:
    house.job["storage_version"] = "latest"
    house.build(*ODD, *(KEYED if keys else ()))
    if mode == "graft":
        make_live(house)
        house.graft()
    names = [
        ("main", "plain"),
        ("Odd schema", 'T "q" x'),
        ("main", "nested"),
        ("main", "upper"),
        ("main", "order"),
    ]
    if keys:
        names += [("main", "child"), ("main", "zparent"), ("Odd schema", "a child"), ("Odd schema", "z parent")]
    for schema, name in names:
        house.want(name, schema=schema)
    rows = house.published()
    assert rows == {
        **{"plain": 100, 'Odd schema.T "q" x': 2, "nested": 1, "upper": 0, "order": 0},
        **({"child": 1, "zparent": 1, "Odd schema.a child": 1, "Odd schema.z parent": 1} if keys else {}),
    }
    for query in DESCRIPTION:
        assert house.live(query) == house.duck.run(house.staging, query)
    for schema, name in names:
        address = ".".join('"' + part.replace('"', '""') + '"' for part in (schema, name))
        assert house.live(f"SELECT * FROM {address}") == house.duck.run(house.staging, f"SELECT * FROM {address}")
    assert house.live('SELECT g FROM "Odd schema"."T ""q"" x"') == [["2"], ["4"]]
    # It is a database like any other: its tables can be altered and its constraints hold.
    house.live("ALTER TABLE plain ADD COLUMN z INTEGER", "CREATE TABLE more AS SELECT * FROM plain")
    house.duck.tell([str(house.database), ['INSERT INTO "Odd schema"."T ""q"" x"("Col, (A") VALUES (NULL)'], ""])
    assert house.duck.hear()[0] == "error"


def test_definition_that_cannot_be_carried_over_fails_before_anything_is_written(house: House) -> None:
    make_live(house)
    before = house.digest("old")
    house.build(
        "CREATE SEQUENCE counter",
        "CREATE TABLE fine(i INTEGER)",
        "CREATE TABLE t(i INTEGER DEFAULT nextval('counter'))",
    )
    house.want("fine")
    house.want("t")
    house.graft()
    assert house.publish()["code"] == "verification_failed"
    assert house.tables() == {"main.old"}
    assert house.digest("old") == before


def test_graft_leaves_everything_else_as_it_was(simple: House) -> None:
    simple.live(
        "CREATE TABLE big AS SELECT range i, hash(range) h, 'row ' || range s FROM range(1000000)",
        "CREATE TABLE old AS SELECT range i, 'r' || range s FROM range(1000)",
        "DELETE FROM big WHERE i % 10 = 3",
        "CREATE VIEW v AS SELECT count(*) AS n FROM big",
        "CREATE SEQUENCE counter START 42",
    )
    simple.database.chmod(0o600)
    (simple.folder / "second name").hardlink_to(simple.database)
    before, digest = simple.database.stat(), simple.digest("big")
    simple.graft("old")
    assert simple.published() == {"new": 1000}
    after = simple.database.stat()
    assert (after.st_ino, after.st_mode, after.st_uid, after.st_nlink) == (
        before.st_ino,
        before.st_mode,
        before.st_uid,
        2,
    )
    assert not simple.wal.exists()
    assert simple.digest("big") == digest
    assert simple.live("SELECT n FROM v") == [["900000"]]
    assert simple.live("SELECT nextval('counter')") == [["42"]]
    assert simple.tables() == {"main.big", "main.old", "main.new"}


@pytest.mark.parametrize("holder", ["writes", "reads"])
def test_database_that_somebody_has_open_is_busy(simple: House, talk: Callable[..., Talk], holder: str) -> None:
    make_live(simple)
    simple.graft()
    before = simple.database.read_bytes()
    code = "import duckdb, sys; c = duckdb.connect(sys.argv[1], read_only=bool(sys.argv[2])); print(1, flush=True)"
    code += "; input()"
    other = talk("-c", code, str(simple.database), "yes" if holder == "reads" else "")
    other.hear()
    answer = simple.publish()
    assert answer["outcome"] == "busy"
    assert str(other.process.pid) in answer["message"]
    other.tell("close")
    other.process.wait(DEADLINE)
    assert simple.database.read_bytes() == before
    assert simple.published() == {"new": 1000}


def test_identity_that_moved_means_start_over(simple: House) -> None:
    make_live(simple)
    simple.graft()
    simple.live("INSERT INTO old VALUES (5000, 'late')")
    before = simple.database.read_bytes()
    assert simple.publish()["outcome"] == "changed"
    assert simple.database.read_bytes() == before
    simple.graft()
    simple.job["identity"]["ctime_ns"] -= 1
    assert simple.publish()["outcome"] == "changed"
    simple.job["identity"] = {**simple.identity(), "wal": {"size": 1, "mtime_ns": 1, "ctime_ns": 1}}
    assert simple.publish()["outcome"] == "changed"
    simple.database.unlink()
    assert simple.publish()["outcome"] == "changed"
    assert not simple.database.exists()


@pytest.mark.parametrize("made", ["CREATE TABLE NEW(x INTEGER)", "CREATE VIEW new AS SELECT 1 AS x"])
def test_table_that_is_there_by_now_is_left(simple: House, made: str) -> None:
    make_live(simple)
    simple.live(made)
    simple.graft()
    before = simple.database.read_bytes()
    answer = simple.publish()
    assert answer["outcome"] == "changed", answer
    assert simple.database.read_bytes() == before


# --- graft: a table is made anew


@pytest.fixture
def anew(house: House) -> House:
    """Staging has ``seed``, of which the live database has an earlier form, with rows that somebody has edited."""
    house.build("CREATE TABLE seed(i INTEGER, s VARCHAR)", "INSERT INTO seed VALUES (1, 'a'), (2, 'b')")
    house.live(
        "CREATE TABLE seed(i INTEGER PRIMARY KEY)", "INSERT INTO seed VALUES (7), (8), (9)",
        "COMMENT ON TABLE seed IS 'edited'", "CREATE VIEW largest AS SELECT max(i) AS i FROM seed",
    )  # fmt: skip
    house.want("seed", "i", "s", replaces={"columns": [["i", "INTEGER"]], "kept_as": "seed_before"})
    house.graft()
    return house


def test_a_table_is_made_anew_and_the_old_one_is_kept_whole(anew: House) -> None:
    before = anew.digest("seed")
    answer = anew.publish()
    assert (answer["outcome"], answer["kept"]) == ("published", {"seed": "seed_before"})
    assert anew.tables() == {"main.seed", "main.seed_before"}
    assert anew.digest("seed_before") == before
    assert anew.live("SELECT * FROM seed ORDER BY i") == [["1", "a"], ["2", "b"]]
    assert anew.live("SELECT comment FROM duckdb_tables() WHERE table_name = 'seed_before'") == [["edited"]]
    assert anew.live("SELECT i FROM largest") == [["2"]]  # whoever reads by name reads the new one
    with pytest.raises(AssertionError, match="Duplicate key"):
        anew.live("INSERT INTO seed_before VALUES (7)")


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE seed ADD COLUMN more INTEGER",
        "DROP TABLE seed",
        "DROP TABLE seed; CREATE VIEW seed AS SELECT 1 AS i",
        "CREATE TABLE SEED_BEFORE(i INTEGER)",
        "CREATE VIEW seed_before AS SELECT 1 AS i",
    ],
)
def test_a_table_that_is_another_by_now_is_not_made_anew(anew: House, change: str) -> None:
    anew.live(*change.split("; "))
    anew.graft()
    before = anew.database.read_bytes()
    answer = anew.publish()
    assert answer["outcome"] == "changed", answer
    assert anew.database.read_bytes() == before


@pytest.mark.parametrize(
    "made", ["CREATE INDEX x ON seed(i)", "CREATE TABLE child(i INTEGER REFERENCES seed(i))"], ids=["index", "key"]
)
def test_a_table_that_others_hold_on_to_is_not_made_anew(anew: House, made: str) -> None:
    anew.want("more")
    anew.build("CREATE TABLE more(i INTEGER)")
    anew.live(made)
    anew.graft()
    before = anew.database.read_bytes()
    answer = anew.publish()
    assert (answer["event"], answer["code"]) == ("error", "schema_mismatch")
    assert "seed cannot be kept under another name" in answer["message"]
    assert "Drop its indexes" in answer["hint"]
    assert anew.database.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "crash"),
    [
        ("DELETE FROM old WHERE i = 7", False),
        ("ALTER TABLE old ADD COLUMN more INTEGER", False),
        ("ALTER TABLE old ALTER i TYPE INTEGER", False),
        ("DROP TABLE old", False),
        ("UPDATE old SET s = 'other' WHERE i = 7", True),
    ],
)
def test_inputs_that_are_not_what_was_copied_mean_start_over(
    simple: House, talk: Callable[..., Talk], change: str, crash: bool
) -> None:
    make_live(simple)
    if crash:  # a commit that is in the WAL only
        crashing = talk("-c", DUCK)
        crashing.hear()
        crashing.tell([str(simple.database), [change], "crash"])
        crashing.process.wait(DEADLINE)
        assert simple.wal.stat().st_size > 0
    else:
        simple.live(change)
    simple.graft("old")
    before = simple.database.read_bytes()
    answer = simple.publish()
    assert answer["outcome"] == "changed", answer
    assert simple.database.read_bytes() == before
    assert simple.wal.exists() == crash
    if crash:
        assert simple.live("SELECT s FROM old WHERE i = 7") == [["other"]]


@pytest.mark.parametrize("change", ["INSERT INTO old VALUES (-1, 'x')", "DROP TABLE old", "ALTER TABLE old DROP s"])
@pytest.mark.parametrize("logged", [False, True])
def test_what_dbt_writes_to_a_copy_is_no_change_of_the_table(
    simple: House, talk: Callable[..., Talk], change: str, logged: bool
) -> None:
    """Hooks do that; rows are compared where there is a WAL, and then with those that were copied."""
    make_live(simple)
    if logged:
        crashing = talk("-c", DUCK)
        crashing.hear()
        crashing.tell([str(simple.database), ["CREATE TABLE late(i INTEGER)"], "crash"])
        crashing.process.wait(DEADLINE)
        assert simple.wal.stat().st_size > 0
    simple.graft("old")
    simple.build(change)
    assert simple.published() == {"new": 1000}
    assert simple.live("SELECT count(*), count(s) FROM old") == [["1000", "1000"]]


COPY_OF_PAID = "CREATE TABLE paid AS SELECT range::INTEGER i, (range * 2)::INTEGER twice, 'r' || range s FROM range(50)"
PAID = "CREATE TABLE paid(i INTEGER, twice INTEGER GENERATED ALWAYS AS (i * 2), s VARCHAR)"


@pytest.fixture
def computed(simple: House) -> House:
    """The new table is made from one with a generated column, too, of which staging has a plain copy; rows count."""
    make_live(simple)
    simple.live(PAID, "INSERT INTO paid(i, s) SELECT range, 'r' || range FROM range(50)")
    simple.build(
        "CREATE TABLE paid AS SELECT range::INTEGER i, (range * 2)::INTEGER twice, 'r' || range s FROM range(50)"
    )
    [[definition]] = simple.live("SELECT sql FROM duckdb_tables() WHERE table_name = 'paid'")
    simple.graft("old", "paid", paid=definition)
    simple.job["compare_inputs"] = True
    return simple


@pytest.mark.parametrize("change", ["UPDATE paid SET i = 7, s = 'x'", "DELETE FROM paid", "DROP TABLE paid", None])
def test_what_dbt_writes_to_a_copy_with_values_that_were_computed_is_no_change_either(
    computed: House, change: str | None
) -> None:
    if change is not None:
        computed.build(change)
    assert computed.published() == {"new": 1000}
    assert computed.live("SELECT sum(i), sum(twice) FROM paid") == [["1225", "2450"]]


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE paid SET s = 'other' WHERE i = 7",
        "UPDATE paid SET i = -7 WHERE i = 7",
        "DELETE FROM paid WHERE i = 7",
        f"DROP TABLE paid; {COPY_OF_PAID}",
    ],
)
def test_a_table_with_a_generated_column_that_changes_means_start_over(computed: House, change: str) -> None:
    """Also where it holds the same values, but no longer computes any."""
    computed.live(*change.split("; "))
    computed.job["identity"] = computed.identity()
    assert computed.publish()["outcome"] == "changed"


def test_a_table_that_differs_from_what_was_noted_of_its_copy_means_start_over(simple: House) -> None:
    """Also where the copy has become the same since."""
    make_live(simple)
    simple.graft("old")
    for change in (simple.build, simple.live):
        change("UPDATE old SET s = 'other' WHERE i = 7")
    simple.job.update(identity=simple.identity(), compare_inputs=True)
    assert simple.publish()["outcome"] == "changed"


def test_rows_in_a_wal_stay_and_prove_the_inputs(simple: House, talk: Callable[..., Talk]) -> None:
    make_live(simple)
    crashing = talk("-c", DUCK)
    crashing.hear()
    statements = ["CREATE TABLE late(i INTEGER)", "INSERT INTO late SELECT range FROM range(77)"]
    crashing.tell([str(simple.database), statements, "crash"])
    crashing.process.wait(DEADLINE)
    assert simple.wal.stat().st_size > 0
    simple.graft("old")
    assert simple.published() == {"new": 1000}
    assert simple.live("SELECT count(*), max(i) FROM late") == [["77", "76"]]
    assert not simple.wal.exists()


@pytest.mark.parametrize("left_by", ["nothing", "a crash before a checkpoint ended"])
def test_wal_that_duckdb_mends_at_opening_costs_a_round(simple: House, talk: Callable[..., Talk], left_by: str) -> None:
    """What DuckDB changes by itself when it opens the file looks like another's commit, once."""
    make_live(simple)
    if left_by == "nothing":
        simple.wal.touch()
    else:
        crashing = talk("-c", DUCK)
        crashing.hear()
        statements = [
            "INSERT INTO old VALUES (5000, 's')",
            "SET debug_checkpoint_abort = 'before_truncate'",
            "CHECKPOINT",
        ]
        crashing.tell([str(simple.database), statements, "crash"])
        crashing.process.wait(DEADLINE)
        assert simple.wal.stat().st_size > 0
    outcomes: list[Any] = []
    while not outcomes or (outcomes[-1] == "changed" and len(outcomes) < 3):
        simple.graft()
        outcomes.append(simple.publish().get("outcome"))
    assert outcomes[-1] == "published"
    assert outcomes.count("changed") == len(outcomes) - 1
    assert not simple.wal.exists()
    assert simple.live("SELECT count(*) FROM old") == [["1000" if left_by == "nothing" else "1001"]]
    assert simple.tables() == {"main.old", "main.new"}


def test_commit_between_our_look_and_our_lock_is_kept(simple: House, talk: Callable[..., Talk]) -> None:
    make_live(simple)
    simple.graft("old")
    runner = talk("-c", RUNNER, str(CHILD), "pause", "_open_unchanged")
    runner.hear_event("ready")
    runner.tell(simple.job)
    runner.hear_event("paused")
    simple.live("INSERT INTO old VALUES (-1, 'late')")
    runner.tell("go on")
    assert runner.hear_event("result", "error")["outcome"] == "changed"
    assert simple.live("SELECT count(*) FROM old WHERE i = -1") == [["1"]]
    assert simple.tables() == {"main.old"}


def test_commit_between_duckdbs_look_and_its_lock_is_kept(simple: House) -> None:
    """DuckDB 2.0 reads the headers before it locks: a commit in between must not be undone by our checkpoint."""
    make_live(simple)
    simple.graft("old")
    slow = ["strace", "-D", "-f", "-o", os.devnull, "-P", str(simple.database)]
    slow += ["-e", "trace=fcntl", "-e", "inject=fcntl:delay_enter=4000000"]
    if shutil.which("strace") is None or subprocess.run([*slow, "true"], check=False, capture_output=True).returncode:
        pytest.skip("needs a strace that may delay system calls")
    child = Talk(str(CHILD), "publish", before=slow, stderr=subprocess.DEVNULL, start_new_session=True)
    child.tell(simple.job)
    child.hear_event("step")
    wait_for(lambda: _has_open_for_writing(child.process.pid, simple.database))
    simple.live("INSERT INTO old SELECT -1, 'late' FROM range(500)")
    answer = child.hear_event("result", "error")
    child.end()
    assert answer["outcome"] == "changed", answer
    assert simple.live("SELECT count(*) FROM old WHERE i = -1") == [["500"]]
    assert simple.tables() == {"main.old"}


def _has_open_for_writing(pid: int, path: Path) -> bool:
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            flags = Path(f"/proc/{pid}/fdinfo/{link.name}").read_text().split("flags:")[1].split()[0]
            if link.readlink() == path and int(flags, 8) & os.O_RDWR:
                return True
    return False


def test_file_swapped_before_opening_is_left(simple: House, talk: Callable[..., Talk]) -> None:
    make_live(simple)
    victim = simple.folder / "victim.duckdb"
    shutil.copy(simple.database, victim)
    before = victim.read_bytes()
    simple.graft("old")
    runner = talk("-c", RUNNER, str(CHILD), "pause", "_open_unchanged")
    runner.hear_event("ready")
    runner.tell(simple.job)
    runner.hear_event("paused")
    simple.database.unlink()
    simple.database.symlink_to(victim)
    runner.tell("go on")
    assert runner.hear_event("result", "error")["outcome"] == "changed"
    runner.end()
    assert victim.read_bytes() == before


def test_checkpoint_that_fails_after_the_commit_is_no_failure(simple: House, talk: Callable[..., Talk]) -> None:
    make_live(simple)
    simple.graft("old")
    runner = talk("-c", RUNNER, str(CHILD), "fail", "_checkpoint")
    runner.hear_event("ready")
    runner.tell(simple.job)
    assert "No space left" in runner.hear_event("warning")["message"]
    assert runner.hear_event("result", "error")["outcome"] == "published"
    runner.end()
    assert simple.wal.stat().st_size > 0
    assert simple.live("SELECT count(*) FROM new") == [["1000"]]


def test_sql_of_the_database_is_never_run(simple: House) -> None:
    """Macros that hide built-in functions, and a view that reads a FIFO: who looked into it would wait forever."""
    trap = simple.folder / "trap.csv"
    trap.write_text("a\n1\n")
    defaulted = "CREATE TABLE defaulted(i INTEGER, g INTEGER GENERATED ALWAYS AS (i + 1), d INTEGER DEFAULT (1 + 1))"
    make_live(simple)
    simple.live(
        *(f"CREATE MACRO {name}(x) AS 0" for name in ("count", "sum", "hash", "bit_xor", "lower")),
        f"CREATE VIEW v AS SELECT * FROM read_csv('{trap}')",
        defaulted,
    )
    trap.unlink()
    os.mkfifo(trap)
    simple.build("CREATE TABLE defaulted(i INTEGER, g INTEGER, d INTEGER)")
    simple.wal.touch()
    for _ in range(3):
        simple.graft("old", "defaulted", defaulted=defaulted)
        answer = simple.publish()
        if answer["outcome"] == "published":
            break
    assert answer["rows"] == {"new": 1000}


def test_full_disk_leaves_the_database_as_it_was(simple: House) -> None:
    make_live(simple)
    digest = simple.digest("old")
    simple.build(
        "CREATE TABLE huge AS SELECT range i, md5(range::VARCHAR) || md5((range + 1)::VARCHAR) s FROM range(200000)"
    )
    simple.want("huge", "i")
    limit = 4_000_000

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    simple.graft("old")
    assert simple.publish(preexec_fn=small_files)["code"] == "disk_full"
    assert simple.tables() == {"main.old"}
    assert simple.digest("old") == digest
    simple.graft("old")
    assert simple.published() == {"new": 1000, "huge": 200000}


@pytest.mark.parametrize(
    ("damage", "code"),
    [("header", "database_corrupt"), ("cut", "database_corrupt"), ("foreign", "not_a_database")],
)
def test_damaged_files_are_told_apart_and_left(simple: House, damage: str, code: str) -> None:
    make_live(simple)
    content = bytearray(simple.database.read_bytes())
    if damage == "header":
        content[4096:12288] = b"\xff" * 8192
    elif damage == "cut":
        del content[20000:]
    else:
        content[:] = b"not a database at all" * 1000
    simple.database.write_bytes(content)
    simple.graft()
    answer = simple.publish()
    assert (answer["code"], answer["path"]) == (code, str(simple.database))
    assert simple.database.read_bytes() == bytes(content)


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ('IO Error: Cannot open file "/a/b": Permission denied', "permission_denied"),
        ('IO Error: Could not write file "/a/b": No space left on device', "disk_full"),
        ("Trying to read a database file with version number 999, but we can only read version 64.", "database_newer"),
        ("Corrupt database file: computed checksum 1 does not match stored checksum 2 in block", "database_corrupt"),
        ('Could not read enough bytes from file "/a": attempted to read 6144 bytes', "database_corrupt"),
        ("Cannot open encrypted database without a key", "database_encrypted"),
        ("Constraint Error: NOT NULL constraint failed", "verification_failed"),
    ],
)
def test_failures_of_duckdb_have_stable_codes(monkeypatch: pytest.MonkeyPatch, message: str, code: str) -> None:
    import duckdb

    monkeypatch.syspath_prepend(str(CHILD))
    told_of = importlib.import_module("publish_errors").told_of
    with pytest.raises(Exception, match=r".") as raised, told_of("/a/b"):
        raise duckdb.IOException(message)
    assert (raised.value.code, raised.value.path) == (code, "/a/b")  # type: ignore[attr-defined]


# --- kills


@pytest.mark.parametrize(
    ("mode", "index"),
    [("create", False), ("replace", False), ("graft", False), ("graft", True), ("anew", False)],
)
def test_killed_at_any_moment_all_or_nothing(tmp_path: Path, duck: Duck, mode: str, index: bool) -> None:
    rounds = max(10, ROUNDS // 3)
    model = House(tmp_path / "model", duck)
    wide = "SELECT range i, md5(range::VARCHAR) s FROM range(60000)"
    model.build(f"CREATE TABLE one AS {wide}", f"CREATE TABLE two AS {wide}", "COMMENT ON TABLE two IS 'x'")
    if index:
        model.build("CREATE INDEX x ON two(i)")
    model.live(f"CREATE TABLE old AS {wide}")
    digest = model.digest("old")
    span = 0.0
    outcomes = []
    before = {"main.old"} if mode == "graft" else set()
    after = before | {"main.one", "main.two"}
    if mode == "anew":
        model.live("CREATE TABLE two AS SELECT range i FROM range(1000)")
        earlier = model.digest("two")
        before, after = {"main.old", "main.two"}, {"main.old", "main.one", "main.two", "main.two_before"}
    for number in range(-1, rounds + 1):
        house = House(tmp_path / str(number), duck)
        shutil.copy(model.staging, house.staging)
        house.job["storage_version"] = "latest"
        house.want("one", "i")
        house.want(
            "two", "i", replaces={"columns": [["i", "BIGINT"]], "kept_as": "two_before"} if mode == "anew" else None
        )
        if mode in ("graft", "anew"):
            shutil.copy(model.database, house.database)
            house.graft()
        elif mode == "replace":
            house.database.touch()
        child = house.start()
        while child.hear() != {"event": "step", "name": "publish", "state": "started"}:
            pass
        began = time.perf_counter()
        if number <= 0:  # how long it takes, once warm
            assert child.hear_event("result", "error")["outcome"] == "published"
            span = time.perf_counter() - began
        else:
            time.sleep(span * number / rounds)
        child.end()
        is_there = house.database.exists() and house.database.stat().st_size > 0
        there = house.tables() if is_there else set()
        assert there in (before, after)
        if mode in ("graft", "anew"):
            assert house.digest("old") == digest
        if mode == "anew":
            assert house.digest("two_before" if there == after else "two") == earlier
        if "main.one" in there:
            assert house.digest("one") == house.digest("two") == digest
            assert house.live("SELECT count(*) FROM two WHERE i = 777") == [["1"]]
        outcomes.append(there != before)
        shutil.rmtree(house.folder)
    print(f"{mode}: killed {rounds} times, complete {sum(outcomes[2:])}")
    assert outcomes[:2] == [True, True]
    assert not all(outcomes)
