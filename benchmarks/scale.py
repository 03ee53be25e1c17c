"""How selfheald fares with many workspaces: start, a change until its marker, idling, and growth over many changes.

``python benchmarks/scale.py`` prints the figures as JSON. Each figure is taken from a daemon that runs as a process,
over a tree of workspaces that are ready; what it is held against (a bare walk over the same tree) is taken just then.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from selfheald.client import file_identity, read_record, valid_marker

NAME = "simulation.duckdb"
#: Folders of a workspace beside its own: where a simulator keeps what it reads and writes.
FOLDERS = ("inputs/raw", "outputs/reports", "logs")
#: Workspaces for each folder of the root.
IN_ONE = 100
PAGE = 4096
#: Seconds within which whatever is waited for must have come.
DEADLINE = 600.0
#: Native modules of dbt, as the kernel names what a process has loaded.
TRACES_OF_DBT = ("dbt_extractor", "/dbt/", "/msgpack/")

#: Changes databases as a simulator does, one for each line: opened, written, closed; tells when each was closed.
_SIMULATOR = """
import sys, time
import duckdb
for line in sys.stdin:
    with duckdb.connect(line.rstrip("\\n")) as connection:
        connection.execute("create table if not exists scale_notes (moment timestamp)")
        connection.execute("insert into scale_notes values (now())")
    print(time.monotonic(), flush=True)
"""


def measure(folder: Path, counts: Sequence[int], *, changes: int, idle_seconds: float, checks: int) -> dict[str, Any]:
    """All figures; for each number of workspaces in ``counts``, and of the largest also idling and growth."""
    environment = _environment(folder)
    model = _finished(folder, environment)
    figures: dict[str, Any] = {}
    for count in counts:
        root = folder / f"root-{count}"
        databases = plant(root, count, model)
        with Daemon(root, folder / f"daemon-{count}", environment) as daemon:
            daemon.until_calm()
            of_this_many: dict[str, Any] = {"first_start_seconds": round(daemon.ready_after, 3)}
        figures[f"{count}"] = of_this_many
        starts, scans, start_cpu, scan_cpu = [], [], [], []
        for _ in range(3):
            before = time.process_time()
            scans.append(bare_scan(root))
            scan_cpu.append(time.process_time() - before)
            with Daemon(root, folder / f"daemon-{count}", environment) as daemon:
                starts.append(daemon.ready_after)
                start_cpu.append(cpu_seconds(daemon.pid))
        of_this_many |= {
            "bare_scan_seconds": round(statistics.median(scans), 3),
            "start_to_ready_seconds": round(statistics.median(starts), 3),
            "start_to_ready_against_scan": round(statistics.median(starts) / statistics.median(scans), 2),
            # Of a machine that is busy with other things, this tells more.
            "start_to_ready_against_scan_in_cpu": round(statistics.median(start_cpu) / statistics.median(scan_cpu), 2),
        }
        with Daemon(root, folder / f"daemon-{count}", environment) as daemon:
            of_this_many["calm_after_seconds"] = round(daemon.until_calm(), 1)
            waited = changes_to_markers(random.Random(1).sample(databases, min(changes, count)))
            of_this_many["change_to_marker_ms"] = in_milliseconds(waited)
            if count == max(counts):
                daemon.until_calm()
                of_this_many["idle"] = idle(daemon.pid, idle_seconds)
                of_this_many["growth"] = growth(daemon, databases, checks)
            of_this_many["at_the_end"] = memory(daemon.pid)
    return figures


def plant(root: Path, count: int, model: Path) -> list[Path]:
    """Make ``count`` workspaces, each with a copy of the ``model`` and the marker that a daemon would have written.

    The model's own marker lies beside it. What is there already stays.
    """
    pages = _written_pages(model)
    marker = read_record(Path(f"{model}.ready"))
    assert marker is not None
    databases = []
    for number in range(count):
        workspace = root / f"group-{number // IN_ONE:03}" / f"workspace-{number:05}"
        database = workspace / "dbt" / NAME
        databases.append(database)
        if database.exists():
            continue
        for folder in (*FOLDERS, "dbt"):
            (workspace / folder).mkdir(parents=True)
        with database.open("wb") as file:
            file.truncate(model.stat().st_size)
            for offset, page in pages:
                file.seek(offset)
                file.write(page)
        old = time.time_ns() - 60_000_000_000
        os.utime(database, ns=(old, old))
        record = marker | {"database": {"name": NAME, **(file_identity(database) or {})}}
        Path(f"{database}.ready").write_text(json.dumps(record))
    return databases


def bare_scan(root: Path) -> float:
    """Seconds for a walk over the tree that does nothing else."""
    began, todo = time.monotonic(), [os.fspath(root)]
    while todo:
        with os.scandir(todo.pop()) as listing:
            todo.extend(entry.path for entry in listing if entry.is_dir(follow_symlinks=False))
    return time.monotonic() - began


class Daemon:
    """``selfheald run`` as a service manager starts it: it tells when it is ready."""

    def __init__(self, root: Path, folder: Path, environment: Mapping[str, str]) -> None:
        self._root = root
        self._folder = folder
        self._environment = dict(environment)
        self.pid = 0
        #: Seconds from its start to READY.
        self.ready_after = 0.0

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        own = self._environment | {"SELFHEALD_LOG__FILE": str(self._folder / "log")}
        with _notified() as (address, notices), (self._folder / "stderr").open("ab") as stderr:
            began = time.monotonic()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "selfheald", "run", str(self._root)],
                cwd=self._folder,
                env=own | {"NOTIFY_SOCKET": address},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
            )
            self.pid = self._process.pid
            while "READY=1" not in notices.recv(PAGE).decode().splitlines():
                pass
            self.ready_after = time.monotonic() - began
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(DEADLINE)

    def until_calm(self) -> float:
        """Wait until it has nothing to do any more; the seconds that this took."""
        began = time.monotonic()
        while time.monotonic() < began + DEADLINE:
            before = cpu_seconds(self.pid)
            time.sleep(2.0)
            if cpu_seconds(self.pid) - before < 0.03:
                break
        return time.monotonic() - began - 2.0


def changes_to_markers(databases: Sequence[Path]) -> list[float]:
    """Seconds from the closing of each database, once it was changed, to the marker that tells of it."""
    waited = []
    with _simulator() as change:
        for database in databases:
            closed = change(database)
            while valid_marker(database) is None:
                assert time.monotonic() < closed + DEADLINE, database
                time.sleep(0.001)
            waited.append(time.monotonic() - closed)
            time.sleep(0.02)
    return waited


def idle(pid: int, seconds: float) -> dict[str, float]:
    """What a process takes while nothing happens: its share of a core, and how often a thread of it wakes."""
    cpu, wakes, began = cpu_seconds(pid), wake_ups(pid), time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - began
    return {
        "seconds": round(took, 1),
        "share_of_a_core": round((cpu_seconds(pid) - cpu) / took, 5),
        "wake_ups_per_second": round((wake_ups(pid) - wakes) / took, 2),
        **memory(pid),
    }


def growth(daemon: Daemon, databases: Sequence[Path], checks: int) -> dict[str, float]:
    """Resident memory after a tenth of so many checks, and after all of them."""
    few = databases[: min(200, len(databases))]
    sizes = {}
    with _simulator() as change:
        for done in range(1, checks + 1):
            change(few[done % len(few)])
            if done in (checks // 10, checks):
                daemon.until_calm()
                sizes[f"resident_mib_after_{done}"] = memory(daemon.pid)["resident_mib"]
    return sizes


def memory(pid: int) -> dict[str, float]:
    """Resident memory in MiB, and whether dbt is in it."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    maps = Path(f"/proc/{pid}/maps").read_text()
    return {
        "resident_mib": round(int(status["VmRSS"].split()[0]) / 1024, 1),
        "dbt_in_memory": any(trace in maps for trace in TRACES_OF_DBT),
        "duckdb_in_memory": "duckdb" in maps,
    }


def cpu_seconds(pid: int) -> float:
    """Processor time of all threads, in seconds, as exact as the scheduler keeps it."""
    return sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir()) / 1e9


def wake_ups(pid: int) -> int:
    """How often its threads have gone to sleep of their own will so far."""
    words = "voluntary_ctxt_switches:"
    lines = (
        line for task in Path(f"/proc/{pid}/task").iterdir() for line in (task / "status").read_text().splitlines()
    )
    return sum(int(line.removeprefix(words)) for line in lines if line.startswith(words))


def in_milliseconds(waited: Sequence[float]) -> dict[str, float]:
    """Median, 95th percentile and longest."""
    ordered = sorted(waited)
    found = (statistics.median(ordered), ordered[int(len(ordered) * 0.95)], ordered[-1])
    return {name: round(1000 * value, 1) for name, value in zip(("p50", "p95", "longest"), found, strict=True)}


@contextmanager
def _notified() -> Iterator[tuple[str, socket.socket]]:
    """A socket for what a service says, and its address."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices:
        address = f"{folder}/notify"
        notices.bind(address)
        notices.settimeout(DEADLINE)
        yield address, notices


@contextmanager
def _simulator() -> Iterator[Any]:
    """Another process that changes a database when it is told, and says when it had closed it."""
    with subprocess.Popen(
        [sys.executable, "-c", _SIMULATOR], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:

        def change(database: Path) -> float:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f"{database}\n")
            process.stdin.flush()
            return float(process.stdout.readline())

        yield change
        assert process.stdin is not None
        process.stdin.close()


def _written_pages(model: Path) -> list[tuple[int, bytes]]:
    """The pages of a file that hold anything: a copy of them is a tenth of a database's size on disk."""
    data = model.read_bytes()
    pages = ((offset, data[offset : offset + PAGE]) for offset in range(0, len(data), PAGE))
    return [(offset, page) for offset, page in pages if page.strip(b"\0")]


def _environment(folder: Path) -> dict[str, str]:
    """Nothing of anybody else's; settings as the figures are told for."""
    others = ("SELFHEALD_", "XDG_", "DBT_", "PYTHONDONTWRITEBYTECODE")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    return kept | {
        "PYTHONPYCACHEPREFIX": str(folder / "compiled"),  # as an installed package is, whatever this one may write to
        "HOME": str(folder),
        "SELFHEALD_STATE_DIR": str(folder / "state"),
        "SELFHEALD_LOG__FILE": str(folder / "log"),
        "SELFHEALD_WATCH__SETTLE": "0.05",
    }


def _finished(folder: Path, environment: Mapping[str, str]) -> Path:
    """A database that is ready, with the marker beside it, as the commands make it."""
    place = folder / "model"
    place.mkdir(parents=True, exist_ok=True)
    if valid_marker(place / NAME) is None:
        subprocess.run([sys.executable, "-m", "selfheald", "ensure", str(place)], env=dict(environment), check=True)
    return place / NAME


def main() -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="where the trees are; kept, and used again")
    parser.add_argument("--counts", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--changes", type=int, default=100)
    parser.add_argument("--idle", type=float, default=60.0, help="seconds")
    parser.add_argument("--checks", type=int, default=2000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (given.folder or Path(temporary)).resolve()
        found = measure(folder, given.counts, changes=given.changes, idle_seconds=given.idle, checks=given.checks)
    sys.stdout.write(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
