"""Real DuckDB files for tests, good and bad, and processes that use them."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from selfheald.catalog import Reading

PACKAGE = str(Path(__file__).resolve().parents[2])
VERSION = tuple(int(part) for part in duckdb.__version__.split(".")[:2])
#: A small table with rows enough to lie in blocks of its own.
SOME = ("CREATE TABLE t (a INTEGER NOT NULL, b VARCHAR)", "INSERT INTO t SELECT range, 'x' || range FROM range(100000)")
#: Seconds that anything here may take.
DEADLINE = 60.0


def make(path: Path, *statements: str, options: str = "", settings: dict[str, str] | None = None) -> Path:
    """A closed, checkpointed database in which the statements have been run."""
    connection = duckdb.connect(":memory:", config=dict(settings or {}))
    try:
        connection.execute(f"ATTACH '{path}' AS made {options}")
        connection.execute("USE made")
        for statement in statements:
            connection.execute(statement)
        connection.execute("USE memory")
        connection.execute("DETACH made")
    finally:
        connection.close()
    return path


def make_with_wal(path: Path, *statements: str) -> Path:
    """A database whose writer was killed: what the statements did is in the WAL only."""
    code = """
        connection = duckdb.connect(sys.argv[1])
        for statement in sys.argv[2:]:
            connection.execute(statement)
        say("done")
        os.kill(os.getpid(), 9)
    """
    with python(code, path, *statements) as process:
        assert hear(process) == "done"
        process.wait(DEADLINE)
    assert path.with_name(path.name + ".wal").stat().st_size > 0
    return path


def patch_header(path: Path, offset: int, number: int) -> Path:
    """Change a number in the main header, with the checksum that belongs to it."""
    content = bytearray(path.read_bytes())
    struct.pack_into("<Q", content, offset, number)
    checksum = 5381
    for (word,) in struct.iter_unpack("<Q", content[8:4096]):
        checksum ^= (word * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    struct.pack_into("<Q", content, 0, checksum)
    path.write_bytes(content)
    return path


@contextmanager
def python(code: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A process that runs ``code`` with ``say`` and ``hear`` at hand; killed at the end, if it still runs."""
    lines = code.strip("\n").splitlines()
    indent = len(lines[0]) - len(lines[0].lstrip())
    body = "\n".join(line[indent:] for line in lines)
    prelude = (
        "import duckdb, json, os, sys, select\n"
        f"sys.path.append({PACKAGE!r})\n"
        "def say(text): print(text, flush=True)\n"
        "def hear(): return sys.stdin.readline().strip()\n"
        "def asked(): return bool(select.select([0], [], [], 0)[0])\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", prelude + body, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def tell(process: subprocess.Popen[str], text: str) -> None:
    """Send a line; ``hear`` in the process returns it."""
    assert process.stdin is not None
    process.stdin.write(text + "\n")
    process.stdin.flush()


def hear(process: subprocess.Popen[str]) -> str:
    """The next line that the process says; its stderr if it has died instead."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        assert process.stderr is not None
        raise AssertionError(f"the process ended: {process.stderr.read()}")
    return line.strip()


def can_open(path: Path) -> bool:
    """True if another process gets DuckDB's write lock on the database."""
    code = """
        try:
            duckdb.connect(sys.argv[1]).close()
            say("yes")
        except duckdb.IOException as error:
            say("no" if "lock" in str(error) else error)
    """
    with python(code, path) as process:
        answer = hear(process)
    assert answer in ("yes", "no"), answer
    return answer == "yes"


def names(reading: Reading) -> list[str]:
    """The relations that were seen, as ``schema.name:kind``."""
    return [f"{item.schema}.{item.name}:{item.kind}" for item in reading.relations]


def code(reading: Reading) -> str | None:
    """The code of an error that counts."""
    if reading.error is None:
        return None
    assert reading.certain
    assert reading.relations == ()
    return reading.error.code
