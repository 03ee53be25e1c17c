"""Real processes as a test holds them: the daemon, commands, and others that have a database open."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import duckdb
from fixtures.waiting import DEADLINE, wait_for

from selfheald.client import marker_path, read_record, status_path, valid_marker

NAME = "simulation.duckdb"
OWN_PROJECT = Path(__file__).parents[1] / "projects" / "own_project"
STAFFING_PROJECT = OWN_PROJECT.with_name("staffing_project")
EXAMPLES = Path(__file__).parents[2] / "examples"

SEEDS = ["comp_levers", "config_age_bands", "config_irs_limits", "config_job_levels", "config_tenure_bands"]
MODELS = ["int_baseline_workforce", "int_employee_benefits", "int_employee_compensation_by_year"]
REQUIRED = SEEDS + MODELS
#: For `dbt.pre_sql`: a build does not come to its end.
ENDLESS = "select sum(a.range * b.range % 7) from range(10000000) as a, range(10000000) as b"

_HOLD = """
import duckdb, sys
connection = duckdb.connect(sys.argv[1], read_only=sys.argv[2] == "read")
print("open", flush=True)
for line in sys.stdin:
    print(connection.execute(line).fetchall(), flush=True)
connection.close()
"""

Record = dict[str, Any]
Found = TypeVar("Found")


class Selfheald:
    """Starts selfheald as its users do, in an environment of its own: no settings, home or cache of anybody else's.

    ``prefix`` begins each command line: another user, or limits.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str], prefix: Sequence[str] = ()) -> None:
        self.folder = folder
        self.environment = dict(environment)
        self.prefix = list(prefix)
        self._count = 0

    def settings(self, **settings: object) -> dict[str, str]:
        """The environment with settings over it: ``WATCH__RESCAN=0.5`` is ``SELFHEALD_WATCH__RESCAN=0.5``."""
        texts = {
            f"SELFHEALD_{name}": value if isinstance(value, str) else json.dumps(value)
            for name, value in settings.items()
        }
        return self.environment | texts

    def but(self, **settings: object) -> Selfheald:
        """The same with settings of its own."""
        return Selfheald(self.folder, self.settings(**settings), self.prefix)

    def run(
        self,
        *arguments: object,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = DEADLINE,
        **settings: object,
    ) -> subprocess.CompletedProcess[str]:
        """A command from start to end. A traceback is never right."""
        done = subprocess.run(
            [*self.prefix, *command(*arguments)],
            cwd=cwd or self.folder,
            env=self.settings(**settings) | dict(env or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def ok(self, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
        """A command that must end with 0."""
        done = self.run(*arguments, **options)
        assert done.returncode == 0, (arguments, done.returncode, done.stdout, done.stderr)
        return done

    def document(self, *arguments: object, code: int = 0, **options: Any) -> Record:
        """The one JSON document that a command prints with ``--json``."""
        done = self.run(*arguments, "--json", **options)
        assert done.returncode == code, (arguments, done.returncode, done.stdout, done.stderr)
        document = json.loads(done.stdout)
        assert isinstance(document, dict)
        return document

    @contextmanager
    def started(
        self, *arguments: object, env: Mapping[str, str] | None = None, **settings: object
    ) -> Iterator[Running]:
        """A command that runs, in a group of its own; killed in the end if it still does."""
        line = [*self.prefix, *command(*arguments)]
        with running(line, self.folder, self.settings(**settings) | dict(env or {})) as process:
            yield process

    def daemon(self, *roots: Path, **settings: object) -> Daemon:
        """A daemon, to be used as a context manager."""
        self._count += 1
        return Daemon(self, self.folder / f"daemon-{self._count}", list(roots), settings)


def command(*arguments: object) -> list[str]:
    """The command line of selfheald."""
    return [sys.executable, "-m", "selfheald", *map(str, arguments)]


class Running:
    """A program that runs; what it writes goes to files, so that nothing waits on anything."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self.process = process
        self.pid = process.pid
        self._folder = folder

    @property
    def stdout(self) -> str:
        """What it has written so far."""
        return (self._folder / "stdout").read_text()

    @property
    def stderr(self) -> str:
        """What it has written so far."""
        return (self._folder / "stderr").read_text()

    def wait(self, deadline: float = DEADLINE) -> int:
        """Its exit code. A traceback is never right."""
        try:
            code = self.process.wait(deadline)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"runs still after {deadline:g} s: {self.stdout}{self.stderr}") from None
        assert "Traceback" not in self.stderr, self.stderr
        return code


@contextmanager
def running(arguments: list[str], folder: Path, environment: Mapping[str, str]) -> Iterator[Running]:
    """A program with a session of its own; killed in the end if it still runs."""
    output = Path(tempfile.mkdtemp(prefix="output-", dir=folder))
    with (output / "stdout").open("wb") as stdout, (output / "stderr").open("wb") as stderr:
        process = subprocess.Popen(
            arguments,
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
    try:
        yield Running(process, output)
    finally:
        process.kill()
        process.wait(DEADLINE)


class Daemon:
    """``selfheald run`` as a process, from READY to its end by SIGTERM."""

    def __init__(self, selfheald: Selfheald, folder: Path, roots: list[Path], settings: Mapping[str, object]) -> None:
        self.roots = roots
        #: A command that runs the daemon's, in its own place.
        self.within: list[str] = []
        self._selfheald = selfheald
        self._folder = folder
        self._settings = settings
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process's id, which is its group's too."""
        assert self.process is not None
        return self.process.pid

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self.process is not None
        try:
            if kind is None and self.process.poll() is None:
                self.stop()
        finally:
            if self.process.poll() is None:
                self.kill()

    def start(self, *, ready: bool = True) -> None:
        """Start it, and wait until every root's ``daemon.json`` says that it is ready. Also after an end."""
        self._folder.mkdir(exist_ok=True)
        options = {"LOG__FILE": str(self._folder / "log"), "LOG__JSON": "true", "LOG__LEVEL": "DEBUG"}
        with self._stderr.open("ab") as stderr:
            self.process = subprocess.Popen(
                [*self._selfheald.prefix, *self.within, *command("run", *self.roots)],
                cwd=self._selfheald.folder,
                env=self._selfheald.settings(**{**options, **self._settings}),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,
            )
        if ready:
            wait_for(self._is_ready, what=self.told)

    def stop(self, number: signal.Signals = signal.SIGTERM, *, deadline: float = DEADLINE) -> None:
        """End it by a signal: the exit code is 0, and no fault of its own was told."""
        assert self.process is not None
        self.process.send_signal(number)
        assert self.process.wait(deadline) == 0, self.told()
        told = self.told()
        assert "Traceback" not in told, told
        assert '"event": "check_error"' not in told, told
        assert '"event": "initialization_error"' not in told, told

    def kill(self) -> None:
        """``kill -9``."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(DEADLINE)

    def told(self) -> str:
        """All that it wrote to stderr."""
        return self._stderr.read_text()

    def log_lines(self, event: str | None = None, database: Path | None = None) -> list[Record]:
        """The lines of the log file, or those of one event, of one database."""
        log = self._folder / "log"
        lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        return [
            line
            for line in lines
            if event in (None, line["event"]) and database in (None, line["database"] and Path(line["database"]))
        ]

    @property
    def _stderr(self) -> Path:
        return self._folder / "stderr"

    def _is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.told()
        records = [read_record(root / ".selfheald" / "daemon.json") or {} for root in self.roots]
        return all(record.get("pid") == self.pid and record.get("state") == "ready" for record in records)


class Holder:
    """Another process that has a database open in DuckDB, and runs SQL when it is told."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.pid = process.pid

    def execute(self, sql: str) -> str:
        """Run a line of SQL; its rows as text."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{sql}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, "the holder has died"
        return answer.strip()

    def close(self) -> None:
        """Close the database, and end."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(DEADLINE) == 0


@contextmanager
def holding(database: Path, mode: str = "write") -> Iterator[Holder]:
    """A process that has the database open when the body begins, for ``write`` or ``read``."""
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(database), mode],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "open\n"
            yield Holder(process)
        finally:
            with suppress(OSError):
                process.kill()


def lock_on(database: Path) -> tuple[str, int] | None:
    """Mode and process of a lock that would keep us from writing, asked by ``F_GETLK``; nothing is locked by it."""
    with database.open("rb") as file:
        reply = fcntl.fcntl(file, fcntl.F_GETLK, struct.pack("hhqqi0q", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    kind, _, _, _, pid = struct.unpack("hhqqi0q", reply)
    return None if kind == fcntl.F_UNLCK else ("read" if kind == fcntl.F_RDLCK else "write", pid)


@contextmanager
def watched_locks(database: Path) -> Iterator[set[int]]:
    """The processes that held a lock of DuckDB's kind on a file at any moment of the body, as the kernel tells."""
    inode, seen, done = str(database.stat().st_ino), set[int](), threading.Event()

    def look() -> None:
        while not done.wait(0.0005):
            for line in Path("/proc/locks").read_text().splitlines():
                fields = line.replace("-> ", "").split()
                if fields[1] in ("POSIX", "OFDLCK") and fields[5].rpartition(":")[2] == inode:
                    seen.add(int(fields[4]))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def members(group: int) -> list[int]:
    """The processes of a group that have not ended."""
    return [pid for pid, fields in _processes() if int(fields[2]) == group]


def children(parent: int) -> list[int]:
    """The children of a process that have not ended, those among them that its dbt host has forked; not the host."""
    found = list(_processes())
    waiting = [pid for pid in _below(parent, found) if _is_host(pid)]
    return [pid for each in (parent, *waiting) for pid in _below(each, found) if pid not in waiting]


def at_work(parent: int, database: Path) -> int:
    """The child that builds a database's tables, once dbt is running in it.

    One that is stopped before that, while it is being started, would keep whoever starts it.
    """
    logs = database.parent / ".selfheald" / "logs"
    wait_for(lambda: list(logs.glob("*/dbt.log")))
    return wait_for(lambda: next((pid for pid in children(parent) if arguments(pid)[-2:] == ["build", ""]), None))


def hosts(parent: int) -> list[int]:
    """The dbt hosts of a daemon that have not ended."""
    return [pid for pid in _below(parent, list(_processes())) if _is_host(pid)]


def arguments(pid: int) -> list[str]:
    """A process's command line, of a fork that of a child with the same job; the last one is always empty."""
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        name, _, kind = Path(f"/proc/{pid}/comm").read_text().strip().partition(":")
    except OSError:
        return [""]
    return [*line[:-3], kind, ""] if name == "heald" and line[0] else line


def _below(parent: int, processes: list[tuple[int, list[str]]]) -> list[int]:
    return [pid for pid, fields in processes if int(fields[1]) == parent]


def _is_host(pid: int) -> bool:
    return arguments(pid)[-3:-2] == ["host"]


def cpu_seconds(pid: int) -> float:
    """The processor time that a process, with all its threads and ended children, has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def _processes() -> Iterator[tuple[int, list[str]]]:
    """Each process and what ``/proc/PID/stat`` says after its name: state, parent, group, …"""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if fields[0] not in "ZX":
                    yield int(entry.name), fields


def marker(database: Path) -> Record:
    """The marker, which must be about the file as it is."""
    found = valid_marker(database)
    assert found is not None, (read_record(marker_path(database)), status(database))
    return found


def status(database: Path) -> Record:
    """The status record; empty if there is none."""
    return read_record(status_path(database)) or {}


def wait_until_marked(database: Path, deadline: float = DEADLINE) -> Record:
    """Wait for a valid marker without asking for it: what an event or a scan leads to."""
    return wait_for(lambda: valid_marker(database), deadline, lambda: status(database))


def steps_of(record: Record) -> dict[str, str]:
    """Each step's status."""
    return {step["name"]: step["status"] for step in record["steps"]}


def rows(database: Path, sql: str) -> list[tuple[Any, ...]]:
    """Rows of a query."""
    with duckdb.connect(str(database), read_only=True) as connection:
        return connection.execute(sql).fetchall()


def change(database: Path, *statements: str) -> None:
    """Run SQL and close the database: all is in the file, nothing in a WAL."""
    with duckdb.connect(str(database)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.execute("checkpoint")


def digests(database: Path) -> dict[str, tuple[Any, ...]]:
    """Of each table, the number of rows and two digests over all that is in them; named as people know them."""
    with duckdb.connect(str(database), read_only=True) as connection:
        names = connection.execute("select schema_name, table_name from duckdb_tables()").fetchall()
        query = 'select count(*), bit_xor(hash(t, rowid)), sum(hash(t)::hugeint) from "{}"."{}" as t'
        return {
            name if schema == "main" else f"{schema}.{name}": found
            for schema, name in sorted(names)
            if (found := connection.execute(query.format(schema, name)).fetchone()) is not None
        }


def snapshot(folder: Path) -> dict[str, tuple[int, int, int, int]]:
    """All below a folder: inode, size, and both times."""
    found = {}
    for path in sorted(folder.rglob("*")):
        with suppress(FileNotFoundError):
            stat = path.lstat()
            found[str(path.relative_to(folder))] = (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    return found
