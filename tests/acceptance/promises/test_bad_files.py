"""Whatever a file is, it gets its code and its hint, stays as it is, and harms neither the daemon nor its neighbours."""

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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import duckdb
import pytest
from conftest import Copied
from fixtures.damaged_files import DEADLY, SLOW, damaged, nested_wal, quiet
from fixtures.databases import REQUIRED, corrupt_database, partial_database, ready_database
from fixtures.figures import SOAK, Figures, scaled
from processes import DEADLINE, NAME, Daemon, Selfheald, marker, status, wait_for

from selfheald.errors import HINTS

pytestmark = pytest.mark.promise(3)

ROOT = Path(__file__).parents[3]
#: Seconds for one file; the reader's own limits are shorter, and a thread that it loses is none of its checks.
PATIENCE = 30.0

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
    if request.param == "newest":
        return sys.executable
    pinned = os.environ.get("SELFHEALD_TEST_PINNED")
    if not pinned:
        pytest.skip("SELFHEALD_TEST_PINNED names no Python with the pinned versions")
    return pinned


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
            answer = reader.ask(database)
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
