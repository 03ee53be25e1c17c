"""A child process as its parent sees it: one job in, events out, all under a deadline."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHILD = Path(__file__).parents[2] / "selfheald" / "child"
OWN_PROJECT = Path(__file__).parents[1] / "projects" / "own_project"
#: The interpreter whose dbt and DuckDB are tested.
PYTHON = os.environ.get("SELFHEALD_TEST_PYTHON", sys.executable)
#: Seconds in which a child must have ended, whatever it does.
DEADLINE = 50.0
_QUERY = """
import duckdb, json, sys
with duckdb.connect(sys.argv[1]) as database:
    print(json.dumps(database.execute(sys.argv[2]).fetchall()))
"""

Event = dict[str, Any]


class Child:
    """One child process, seen from its parent's side."""

    def __init__(self, folder: Path, kind: str, *python_options: str) -> None:
        self.folder = folder
        for name in ("work", "log", "db"):
            (folder / name).mkdir(parents=True)
        self.database = folder / "db" / "simulation.duckdb"
        self.log_file = folder / "log" / "child.log"
        self.kind = kind
        self.process = subprocess.Popen(
            [PYTHON, *python_options, str(CHILD), kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"PATH": os.environ["PATH"]},
            process_group=0,
        )
        self._buffer = b""

    def send(self, **job: Any) -> None:
        """Send the job: what is given, over what most jobs have in common."""
        common: dict[str, Any] = {
            "job": self.kind,
            "project_dir": str(OWN_PROJECT),
            "profiles_dir": None,
            "target": None,
            "vars": {},
            "threads": 1,
            "select": ["resource_type:seed", "tag:foundation"],
            "work_dir": str(self.folder / "work"),
            "log_dir": str(self.folder / "log"),
            "log_file": str(self.log_file),
            "database": str(self.database),
            "partial_parse": None,
            "seeds": [],
            "models": [],
            "storage_version": "v1.0.0",
            "pre_sql": None,
        }
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({**common, **job}).encode() + b"\n")
        self.process.stdin.flush()

    def hang_up(self) -> None:
        """What the child sees of a parent that has died."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def events(self) -> Iterator[Event]:
        """Each event when it comes, until the child closes its end. Every line must be one."""
        assert self.process.stdout is not None
        end = time.monotonic() + DEADLINE
        while True:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"no end after {DEADLINE} s"
            data = os.read(self.process.stdout.fileno(), 65536)
            *lines, self._buffer = (self._buffer + data).split(b"\n")
            yield from map(json.loads, lines)
            if not data:
                assert self._buffer == b""
                return


@contextmanager
def started(folder: Path, kind: str, *python_options: str) -> Iterator[Child]:
    child = Child(folder, kind, *python_options)
    try:
        yield child
    finally:
        child.process.kill()
        child.process.wait(DEADLINE)
        for stream in (child.process.stdin, child.process.stdout):
            assert stream is not None
            stream.close()


def run(folder: Path, kind: str, **job: Any) -> list[Event]:
    """One job from start to end; its events, the last one being the outcome that the exit code tells too."""
    with started(folder, kind) as child:
        child.send(**job)
        events = list(child.events())
        code = child.process.wait(DEADLINE)
    assert events, child.log_file.read_text()
    assert [event["event"] for event in events].count(events[-1]["event"]) == 1
    assert (events[-1]["event"], code) in {("result", 0), ("error", 1)}
    return events


def asked(*unique_ids: str) -> list[str]:
    return list(unique_ids)


def query(database: Path, sql: str) -> list[list[Any]]:
    """Rows, read by the interpreter that wrote them."""
    done = subprocess.run([PYTHON, "-c", _QUERY, str(database), sql], capture_output=True, check=True, timeout=DEADLINE)
    rows: list[list[Any]] = json.loads(done.stdout)
    return rows
