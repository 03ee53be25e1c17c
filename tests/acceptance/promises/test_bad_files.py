"""Whatever a file is, it gets its code and its hint, stays as it is, and harms neither daemon nor neighbours."""

from __future__ import annotations

import hashlib
import json
import os
import select
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Self

import duckdb
import pytest
from conftest import Copied
from fixtures.damaged_files import DEADLY, SLOW, damaged, make_checksums_right, nested_wal, quiet
from fixtures.databases import REQUIRED, corrupt_database, ready_database
from fixtures.figures import Figures, scaled
from fixtures.processes import pinned_python, run_python
from fixtures.waiting import DEADLINE, wait_for
from processes import NAME, Selfheald, status

from selfheald.client import valid_marker
from selfheald.crash_guard import unfinished
from selfheald.errors import HINTS

pytestmark = pytest.mark.promise(3)

ROOT = Path(__file__).parents[3]
#: Seconds for one file; the reader's own limits are shorter, and a thread that it loses is none of its checks.
PATIENCE = 30.0
#: So many looks at most are taken for one that is certain.
LOOKS = 10

_READER = """
import json, sys
from pathlib import Path
from selfheald.catalog_reader import read_database
print("ready", flush=True)
for line in sys.stdin:
    reading = read_database(Path(json.loads(line)))
    error = reading.error and [reading.error.code, reading.error.hint, reading.error.message, reading.error.path]
    tables = {r.name: r.columns for r in reading.relations if r.kind == "table" and r.schema == "main"}
    print(json.dumps([error, tables, reading.certain]), flush=True)
"""
#: DuckDB's own opinion: the tables of what it can open, and whether all rows of such a file can be read.
_CATALOG_JUDGE = """
import duckdb, json, sys
print("ready", flush=True)
for line in sys.stdin:
    try:
        with duckdb.connect(json.loads(line), read_only=True) as connection:
            tables = {}
            for name, column, kind in connection.execute(
                "select table_name, column_name, data_type from duckdb_columns() where not internal and schema_name = "
                "'main' and table_name in (select table_name from duckdb_tables()) order by table_name, column_index"
            ).fetchall():
                tables.setdefault(name, []).append([column, kind])
    except Exception:
        tables = None
    print(json.dumps([tables]), flush=True)
"""
_ROW_JUDGE = """
import duckdb, json, sys
print("ready", flush=True)
for line in sys.stdin:
    try:
        with duckdb.connect(json.loads(line), read_only=True) as connection:
            for name, in connection.execute("select table_name from duckdb_tables()").fetchall():
                connection.execute(f'select * from "{name}"').fetchall()
        fine = True
    except Exception:
        fine = False
    print(json.dumps(fine), flush=True)
"""


class Worker:
    """A process that answers a path with a line; ``None`` if it dies of it, or is not done in time."""

    def __init__(self, python: str, code: str) -> None:
        self._command = [python, "-c", code]
        self._process = self._started()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def ask(self, path: Path) -> Any:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(str(path)) + "\n")
        process.stdin.flush()
        if select.select([process.stdout], [], [], PATIENCE)[0]:
            line = process.stdout.readline()
            if line:
                return json.loads(line)
        process.kill()
        process.communicate()
        self._process = self._started()
        return None

    def _started(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            self._command,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process


@pytest.fixture(params=["newest", "pinned"])
def python(request: pytest.FixtureRequest) -> str:
    """The interpreters with the newest DuckDB and with the oldest."""
    return sys.executable if request.param == "newest" else pinned_python()


def _until_certain(reader: Worker, database: Path) -> Any:
    """Of a few files DuckDB says now this, now that: then it is read again, as by the daemon."""
    for _ in range(LOOKS):
        answer = reader.ask(database)
        if answer is None or answer[2]:
            break
    return answer


def _made_by(python: str, database: Path) -> Path:
    """A complete database as that interpreter's DuckDB makes it, with a table that takes several blocks."""
    script = (
        "import sys; from pathlib import Path; from fixtures.databases import ready_database; import duckdb\n"
        "ready_database(Path(sys.argv[1]))\n"
        "with duckdb.connect(sys.argv[1]) as connection:\n"
        "    connection.execute(\"create table events as select range as id, 'text ' || range as what \"\n"
        '                       "from range(30000)")\n'
        "print(duckdb.__version__)"
    )
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    subprocess.run([python, "-c", script, str(database)], env=os.environ | {"PYTHONPATH": paths}, check=True)
    return database


@pytest.mark.soak
@pytest.mark.timeout(scaled(240, 1800))
def test_damaged_at_random(python: str, tmp_path: Path, figures: Figures) -> None:
    """Thousands of files, each the same again for its seed; DuckDB itself, on a copy, is the judge of what is ready."""
    content = _made_by(python, tmp_path / "whole.duckdb").read_bytes()
    database, copy = tmp_path / NAME, tmp_path / "copy.duckdb"
    count = scaled(120, 2500)
    codes: Counter[str] = Counter()
    wrong: list[str] = []
    unjudged = 0
    with (
        Worker(python, _READER) as reader,
        Worker(python, _CATALOG_JUDGE) as catalog_judge,
        Worker(python, _ROW_JUDGE) as row_judge,
    ):
        whole = _whole(reader, content, database)
        for seed in range(count):
            data, kind = damaged(content, seed)
            _put(data, database)
            before = database.lstat()
            answer = _until_certain(reader, database)
            if not _is_untouched(database, before, data):
                wrong.append(f"{seed}: {kind}: it was changed")
            if answer is None:  # it dies, or takes for ever: the daemon's own way with it is tried below
                codes["harms its reader"] += 1
                if _in_child(python, database)[0] not in ("check_crashed", "database_corrupt"):
                    wrong.append(f"{seed}: {kind}: harms its reader, and is not reported")
                continue
            error, tables, certain = answer
            if not certain:
                wrong.append(f"{seed}: {kind}: not certain")
            if error is not None:
                codes[error[0]] += 1
                if error[0] not in HINTS or not error[1] or str(database) not in (error[2], error[3]):
                    wrong.append(f"{seed}: {kind}: {error}")
                continue
            codes["read"] += 1
            if not set(REQUIRED) <= set(tables):
                continue
            shutil.copyfile(database, copy)
            [really] = catalog_judge.ask(copy) or [None]
            if really != tables:
                wrong.append(f"{seed}: {kind}: called ready, and DuckDB reads {really and list(really)}")
            elif not row_judge.ask(copy):  # also where it dies of them: they are not judged by a check
                unjudged += 1
                if kind == "cut short":
                    wrong.append(f"{seed}: cut short, called ready, and its rows cannot be read")
    version = "newest" if python == sys.executable else "1.0.0"
    told = ", ".join(f"{number} {code}" for code, number in sorted(codes.items()))
    figures.tell(
        3,
        f"files damaged at random, DuckDB {version}",
        tried=count,
        survived=count - len(wrong),
        wrong=len(wrong),
        note=f"{told}; {unjudged} read whose rows alone are damaged",
    )
    assert not wrong, wrong[:20]
    assert set(REQUIRED) <= set(whole)
    assert codes["database_corrupt"] > count // 4, codes


def _whole(reader: Worker, content: bytes, database: Path) -> dict[str, Any]:
    _put(content, database)
    error, tables, certain = reader.ask(database)
    assert (error, certain) == (None, True)
    assert isinstance(tables, dict)
    return tables


def _put(content: bytes, database: Path) -> None:
    draft = database.with_suffix(".draft")
    draft.write_bytes(content)
    quiet(draft)
    draft.rename(database)


def _is_untouched(path: Path, before: os.stat_result, content: bytes) -> bool:
    now = path.lstat()
    same = [(found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns) for found in (before, now)]
    return same[0] == same[1] and path.read_bytes() == content


def _in_child(python: str, database: Path) -> tuple[str | None, str]:
    """What ``read_in_child`` says of a file: code and message."""
    script = (
        "import json, sys; from pathlib import Path; from selfheald.table_checker import read_in_child\n"
        "reading = read_in_child(Path(sys.argv[1]), timeout=10.0); error = reading.error\n"
        "print(json.dumps([error and error.code, error and error.message]))"
    )
    done = subprocess.run(
        [python, "-c", script, str(database)],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=DEADLINE, check=True,
    )  # fmt: skip
    code, message = json.loads(done.stdout)
    return code, message


def _device(database: Path) -> None:
    try:
        os.mknod(database, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root may make a device")


def _socket(database: Path) -> None:
    folder = os.open(database.parent, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(f"/proc/self/fd/{folder}/{NAME}")  # a path of its own would be too long for it
    finally:
        os.close(folder)


def _sparse(database: Path) -> None:
    database.touch()
    os.truncate(database, 1 << 40)


def _longer(database: Path) -> None:
    ready_database(database)
    os.truncate(database, 1 << 40)


def _newer(database: Path) -> None:
    content = bytearray(ready_database(database).read_bytes())
    struct.pack_into("<Q", content, 12, 9999)
    make_checksums_right(content)
    database.write_bytes(content)


def _encrypted(database: Path) -> None:
    with duckdb.connect() as connection:
        connection.execute("set force_mbedtls_unsafe = 'true'")  # no other cryptography without an extension
        connection.execute(f"attach '{database}' as secret (ENCRYPTION_KEY 'of a test')")
        connection.execute("create table secret.notes as select 42 as answer")


_LEAVE_ROWS = """
import duckdb, os, sys
connection = duckdb.connect(sys.argv[1])
connection.execute("create table more as select range as i from range(1000)")
connection.execute("insert into more select 1 from range(1000)")
os._exit(0)
"""


def _with_wal(database: Path) -> Path:
    """A complete database and a WAL in which there is more; the WAL."""
    subprocess.run([sys.executable, "-c", _LEAVE_ROWS, str(ready_database(database))], check=True)
    return database.with_name(f"{NAME}.wal")


def _torn_wal(database: Path) -> None:
    wal = _with_wal(database)
    os.truncate(wal, wal.stat().st_size - 20)


def _damaged_wal(database: Path) -> None:
    wal = _with_wal(database)
    content = bytearray(wal.read_bytes())
    content[len(content) // 3] ^= 0xFF
    wal.write_bytes(content)


def _foreign_wal(database: Path) -> None:
    other = database.parent / "other"
    other.mkdir()
    wal = _with_wal(other / NAME)
    ready_database(database)
    wal.rename(database.with_name(wal.name))
    shutil.rmtree(other)


def _wal_alone(database: Path) -> None:
    _with_wal(database)
    database.unlink()


def _leftover(suffix: str) -> Callable[[Path], object]:
    def make(database: Path) -> None:
        ready_database(database).with_name(f"{NAME}.wal.{suffix}").write_bytes(b"left by a checkpoint")

    return make


def _junk_wal(database: Path) -> None:
    ready_database(database).with_name(f"{NAME}.wal").write_bytes(b"no WAL at all, whatever its name says")


def _catalog_overwritten(database: Path) -> None:
    content = bytearray(ready_database(database).read_bytes())
    _, pointer, _, _, size = max(struct.unpack_from("<QQQQQ", content, start + 8) for start in (4096, 8192))
    place = 12288 + (pointer & ((1 << 56) - 1)) * size
    content[place + 8 : place + 4096] = os.urandom(4088)
    database.write_bytes(content)


#: Each kind of file, how it is made, its code (``None``: DuckDB opens it too, so it is ready), what its message says.
ODD: dict[str, tuple[Callable[[Path], object], str | None, str]] = {
    "folder": (Path.mkdir, "not_a_database", "is a folder"),
    "pipe": (os.mkfifo, "not_a_database", "is a pipe"),
    "device": (_device, "not_a_database", "device"),
    "socket": (_socket, "not_a_database", "socket"),
    "link to nothing": (lambda database: database.symlink_to("nothing.duckdb"), "unsafe_path", "symbolic link"),
    "link to itself": (lambda database: database.symlink_to(NAME), "unsafe_path", "symbolic link"),
    "text": (lambda database: database.write_text("level,pay\n1,100\n"), "not_a_database", "not a DuckDB database"),
    "a byte": (lambda database: database.write_bytes(b"D"), "not_a_database", "not a DuckDB database"),
    "a terabyte of nothing": (_sparse, "not_a_database", "not a DuckDB database"),
    "a terabyte too long": (_longer, None, ""),
    "cut short": (corrupt_database, "database_corrupt", "cut off"),
    "catalog overwritten": (_catalog_overwritten, "database_corrupt", "damaged"),
    "newer": (_newer, "database_newer", "9999"),
    "encrypted": (_encrypted, "database_encrypted", "encrypted"),
    "torn WAL": (_torn_wal, None, ""),
    "damaged WAL": (_damaged_wal, "database_corrupt", "damaged"),
    "junk for a WAL": (_junk_wal, None, ""),
    "WAL of another": (_foreign_wal, "database_corrupt", "WAL"),
    "WAL alone": (_wal_alone, "database_corrupt", "its WAL is still there"),
    "leftover of a checkpoint": (_leftover("checkpoint"), None, ""),
    "leftover of a recovery": (_leftover("recovery"), None, ""),
}


@pytest.mark.soak
@pytest.mark.timeout(scaled(240, 900))
def test_odd_files(selfheald: Selfheald, root: Path, figures: Figures) -> None:
    """All of them beside each other in one daemon, and through the commands: code, hint, and nothing is changed."""
    before = {}
    for kind, (make, _, _) in ODD.items():
        database = _in(root / kind)
        make(database)
        for path in database.parent.iterdir():
            if path.is_file() and not path.is_symlink():
                quiet(path)
        before[kind] = _fixed(database)
    asked = list(ODD)[:: scaled(5, 1)]
    wrong = []
    with selfheald.daemon(root):
        for kind, (_, code, words) in ODD.items():
            database = root / kind / NAME
            if kind == "WAL alone":  # no database, and nobody who asks for one: there is nothing to look after
                continue
            if code is None:
                wait_for(partial(valid_marker, database), what=kind)
                continue
            wait_for(partial(_has_failed, database), what=kind)
            wrong += _faults(kind, status(database)["error"], database, code, words)
            if os.path.lexists(database.with_name(f"{NAME}.ready")):
                wrong.append(f"{kind}: has a marker")
        for kind in [*asked, "WAL alone"]:
            _, code, words = ODD[kind]
            database = root / kind / NAME
            document = selfheald.document("check", database, code=0 if code is None else 1)
            if code is None and not document["complete"]:
                wrong.append(f"{kind}: not complete by `check`")
            if code is not None:
                wrong += _faults(f"{kind} by `check`", document["error"], database, code, words)
    wrong += [f"{kind}: was changed" for kind in ODD if _fixed(root / kind / NAME) != before[kind]]
    figures.tell(
        3,
        "odd files in one daemon and by check: pipes, devices, links, WALs, other formats",
        tried=len(ODD) + len(asked),
        survived=len(ODD) + len(asked) - len(wrong),
        wrong=len(wrong),
    )
    assert wrong == []


def _has_failed(database: Path) -> bool:
    return status(database).get("state") == "failed"


def _faults(kind: str, error: dict[str, Any] | None, database: Path, code: str, words: str) -> list[str]:
    if error is None:
        return [f"{kind}: no error"]
    fine = error["code"] == code and words in error["message"] and error["hint"] and error["path"] == str(database)
    return [] if fine else [f"{kind}: {error}"]


#: What code of others gets to hear of a file, in a process of their own.
_BY_CODE = """
import json, sys
from selfheald import AutoInitializer, InitializationError, TableExistenceChecker
codes = []
try:
    TableExistenceChecker(sys.argv[1]).get_missing_tables()
except InitializationError as error:
    codes.append(error.code)
result = AutoInitializer(sys.argv[1]).ensure_initialized()
codes.append(result.error and result.error.code)
print(json.dumps(codes))
"""


@pytest.mark.parametrize(
    ("kind", "code"),
    {
        "crashes its reader": "check_crashed",
        "catalog overwritten": "database_corrupt",
        "newer": "database_newer",
    }.items(),
)
def test_the_same_by_every_door(kind: str, code: str, selfheald: Selfheald, root: Path, figures: Figures) -> None:
    """``check``, ``ensure``, the classes, and ``repair``, which sets aside what is corrupt and nothing else."""
    database = _in(root / "workspace")
    if kind in ODD:
        ODD[kind][0](database)
    else:
        nested_wal(ready_database(database), DEADLY)
    before = _fixed(database)
    told = {name: selfheald.document(name, database, code=1)["error"]["code"] for name in ("check", "ensure")}
    by_code = subprocess.run(
        [sys.executable, "-c", _BY_CODE, str(database)],
        env=selfheald.environment, cwd=selfheald.folder, capture_output=True, text=True, timeout=DEADLINE, check=True,
    )  # fmt: skip
    told |= dict(zip(("TableExistenceChecker", "AutoInitializer"), json.loads(by_code.stdout), strict=True))
    assert _fixed(database) == before
    repair = selfheald.run("repair", database, "--quarantine")
    figures.tell(3, f"a file that is {code}, by every door", tried=5, survived=list(told.values()).count(code) + 1)
    assert set(told.values()) == {code}, told
    if code == "database_corrupt":
        assert repair.returncode == 0, repair.stderr
        [aside] = database.parent.glob(f"{NAME}.corrupt-*")
        assert not database.exists()
        assert (aside.stat().st_ino, hashlib.sha256(aside.read_bytes()).hexdigest()) == before[NAME][::4]
    else:
        assert repair.returncode != 0
        assert "nothing to set aside" in repair.stderr
        assert code in repair.stderr
        assert _fixed(database) == before


def test_a_wal_without_its_database_is_set_aside(selfheald: Selfheald, root: Path) -> None:
    """Else whatever is made there next would meet it."""
    database = _in(root / "workspace")
    _wal_alone(database)
    [inode] = [found[0] for found in _fixed(database).values()]
    refused = selfheald.document("ensure", database, code=1)
    assert refused["error"]["code"] == "database_corrupt"
    selfheald.ok("repair", database, "--quarantine")
    [aside] = database.parent.glob(f"{NAME}.wal.corrupt-*")
    assert aside.stat().st_ino == inode
    assert selfheald.document("ensure", database)["outcome"] == "initialized"


_AS_NOBODY = """
import sys
from pathlib import Path
from selfheald.catalog_reader import read_database
become_nobody()
reading = read_database(Path(sys.argv[1]))
print(reading.error and reading.error.code, reading.certain)
"""


def test_a_file_that_may_not_be_read() -> None:
    """By its owner's wish."""
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    folder = Path(tempfile.mkdtemp(prefix="selfheald-test-"))
    try:
        folder.chmod(0o755)
        ready_database(folder / NAME).chmod(0o600)
        before = _fixed(folder / NAME)
        assert run_python(_AS_NOBODY, folder / NAME).split() == ["permission_denied", "True"]
        assert _fixed(folder / NAME) == before
    finally:
        shutil.rmtree(folder)


@pytest.mark.soak
@pytest.mark.timeout(scaled(240, 600))
def test_a_file_that_crashes_the_daemon(selfheald: Selfheald, root: Path, complete: Copied, figures: Figures) -> None:
    """It does so once: after the restart it is reported, its neighbours are ready, and a change is taken up."""
    good, bad = complete(root / "good"), complete(root / "bad")
    wal = nested_wal(bad, DEADLY)
    before = _fixed(bad)
    daemon = selfheald.daemon(root)
    daemon.start(ready=False)
    assert daemon.process is not None
    assert daemon.process.wait(DEADLINE) == -signal.SIGSEGV, daemon.told()

    deaths = 1
    for _ in range(scaled(2, 5)):
        daemon.start()
        try:
            found = wait_for(lambda: _failure(bad, daemon.pid), what=daemon.told)
            assert found["code"] == "check_crashed"
            assert "SIGSEGV" in found["message"]
            assert found["hint"]
            wait_for(lambda: valid_marker(good), what=daemon.told)
            waited = selfheald.document("wait", bad, code=1)
            assert waited["error"]["code"] == "check_crashed"
            assert not bad.with_name(f"{NAME}.ready").exists()
            daemon.stop()
        finally:
            deaths += daemon.process.returncode != 0
            daemon.kill()
        assert _fixed(bad) == before

    daemon.start()
    wal.unlink()
    wait_for(lambda: valid_marker(bad), what=daemon.told)
    daemon.stop()
    notes = (Path(selfheald.environment["SELFHEALD_STATE_DIR"]) / "checks").glob(f"{daemon.pid}-*")
    suspects = {path for file in notes for path in unfinished(file.read_bytes())}
    figures.tell(3, "a file that crashes the daemon, and its restarts", tried=scaled(3, 6), survived=scaled(3, 6))
    assert deaths == 1
    assert bad not in suspects, "it was read safely since it changed"


def test_innocent_files_that_were_being_read_when_the_daemon_was_killed(
    selfheald: Selfheald, root: Path, complete: Copied, figures: Figures
) -> None:
    """They become ready as usual."""
    database = complete(root / "slow")
    nested_wal(database, SLOW)
    daemon = selfheald.daemon(root)
    daemon.start(ready=False)
    notes = Path(selfheald.environment["SELFHEALD_STATE_DIR"]) / "checks"
    wait_for(lambda: any(str(database).encode() in path.read_bytes() for path in notes.glob(f"{daemon.pid}-*")))
    daemon.kill()
    assert not database.with_name(f"{NAME}.ready").exists()

    with daemon:
        assert daemon.log_lines("check_suspect", database)
        wait_for(lambda: valid_marker(database), what=daemon.told)
    figures.tell(3, "an innocent file that was being read at a kill -9", tried=1, survived=1)


#: The daemon's reader with short limits, among files that block it; it tells what it said of each, and ends.
_AMONG_SLOW_FILES = """
import json, sys, threading, time
from pathlib import Path
import anyio
from selfheald import catalog_reader, cli, guarded_reader  # the reader now: to load DuckDB may take as long
from selfheald.crash_guard import CrashGuard

# How long a file takes depends on the machine. These take for ever in a thread, and no child is done so soon.
guarded_reader.THREAD_SECONDS, guarded_reader.CHILD_SECONDS, guarded_reader.MOST_LOST = 5.0, 0.01, 9
codes = {}

def read(path):
    if path.parent.name.startswith("slow"):
        threading.Event().wait()
    return catalog_reader.read_database(path)

guarded_reader.read_database = read

async def ask(reader, path):
    reading = await reader.read(path)
    codes[path.parent.name] = reading.error and reading.error.code

async def main(state, folders):
    with CrashGuard(state, [state.parent]) as guard:
        reader = guarded_reader.GuardedReader(guard, anyio.CapacityLimiter(4))
        async with anyio.create_task_group() as group:
            for folder in folders:
                group.start_soon(ask, reader, folder / "simulation.duckdb")
        began = time.monotonic()
        for folder in folders:
            if folder.name.startswith("slow"):
                await ask(reader, folder / "simulation.duckdb")
        again = time.monotonic() - began
        lost = reader.lost
        guarded_reader.CHILD_SECONDS, guarded_reader.MOST_LOST = 30.0, 1
        reader._read_noted = None  # no more threads are used
        await ask(reader, folders[-1] / "simulation.duckdb")
        print(json.dumps([codes, lost, again]), flush=True)

def run():
    anyio.run(main, Path(sys.argv[1]), list(map(Path, sys.argv[2:])))
cli._run = run
cli.main()
"""


def test_files_that_block_their_reader(python: str, tmp_path: Path, figures: Figures) -> None:
    """They are given up after a time limit, reported and remembered; the others are read meanwhile; all comes to an
    end at once when it is to."""
    slow = [tmp_path / f"slow-{number}" for number in range(3)]
    good = [tmp_path / f"good-{number}" for number in range(20)]
    content = _made_by(python, _in(tmp_path / "whole")).read_bytes()
    for folder in slow + good:
        _in(folder).write_bytes(content)
    for path in tmp_path.glob("*/*"):
        quiet(path)
    done = subprocess.run(
        [python, "-c", _AMONG_SLOW_FILES, tmp_path / "state", *slow, *good],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=DEADLINE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    codes, lost, again = json.loads(done.stdout)
    wrong = [name for name, code in codes.items() if code != ("check_crashed" if name.startswith("slow") else None)]
    figures.tell(3, "files that block their reader, among others", tried=len(codes), survived=len(codes) - len(wrong))
    assert wrong == [], codes
    assert lost == len(slow)
    assert again < 0.5, "they are not read again while they stay as they are"


def _in(folder: Path) -> Path:
    folder.mkdir()
    return folder / NAME


def _failure(database: Path, pid: int) -> dict[str, Any] | None:
    """The error in a database's status, if it is newer than that daemon's start."""
    record = status(database)
    started = Path(f"/proc/{pid}").stat().st_ctime
    path = database.parent / ".selfheald" / f"{NAME}.status"
    if record.get("state") != "failed" or path.stat().st_mtime < started:
        return None
    error = record["error"]
    assert isinstance(error, dict)
    return error


def _fixed(database: Path) -> dict[str, tuple[int, int, int, int, str]]:
    """Of a database and its WALs what must stay as it is."""
    found = {}
    for path in sorted(database.parent.glob(f"{NAME}*")):
        if path.suffix != ".ready":
            one = path.lstat()
            # Of one with a terabyte of holes size and times must do.
            whole = stat.S_ISREG(one.st_mode) and one.st_size < 1 << 30
            digest = hashlib.sha256(path.read_bytes()).hexdigest() if whole else ""
            found[path.name] = (one.st_ino, one.st_size, one.st_mtime_ns, one.st_mode, digest)
    return found
