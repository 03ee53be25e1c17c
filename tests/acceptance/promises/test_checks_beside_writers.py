"""Promise 2: a check is never in the way of whoever writes, and never wrong.

A writer creates, replaces, drops, checkpoints, closes and opens again, and tells when which tables were there. Each
reading that is certain must be what was there at some moment between its beginning and its end.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import duckdb
import pytest
from fixtures.figures import Figures, scaled
from fixtures.processes import ROOT
from fixtures.watching import Watch
from processes import NAME

from selfheald.catalog import Relation
from selfheald.catalog_reader import CatalogReader, read_database
from selfheald.client import file_identity

PINNED = os.environ.get("SELFHEALD_TEST_PINNED", "")
PYTHONS = {"2": sys.executable, "1": PINNED}
WAL_SUFFIXES = (".wal", ".wal.checkpoint", ".wal.recovery")

#: Writes until its standard input ends. Each line of its log: when a change began and ended, and what there was then.
WRITER = r"""
import duckdb, json, os, random, select, sys, time

path, log, seed, options, quiet, often = sys.argv[1:]
chance, turn, touched, failures, state = random.Random(int(seed)), 0, 0, [], []
log = open(log, "w")

def family():
    found = []
    for suffix in ("", ".wal", ".wal.checkpoint", ".wal.recovery"):
        try:
            is_ = os.stat(path + suffix)
            found.append((is_.st_ino, is_.st_mode, is_.st_size, is_.st_mtime_ns, is_.st_ctime_ns))
        except FileNotFoundError:
            found.append(None)
    return found

def changing(change, *arguments):
    "What only this process changes is as it was left; then it is changed."
    global touched, left
    touched += left is not None and family() != left
    begun = time.monotonic_ns()
    change(*arguments)
    ended = time.monotonic_ns()
    left = family()
    return begun, ended

def commit(change, *arguments):
    begun, ended = changing(change, *arguments)
    log.write(json.dumps([begun, ended, state]) + "\n")

def made():
    "A new database of the next generation, in place of the old one."
    new = path + ".new"
    connection = duckdb.connect(":memory:", config={"threads": 1})
    connection.execute(f"ATTACH '{new}' AS made {options}")
    connection.execute(f"CREATE TABLE made.gen_{turn}(c{turn} INTEGER); CREATE TABLE made.many(a INTEGER, b VARCHAR)")
    connection.close()
    assert not os.path.exists(new + ".wal")
    return new

def step(connection):
    global turn, state
    before, turn = turn, turn + 1
    state = [[f"gen_{turn}", [f"c{turn}"]], ["many", ["a", "b"]]]
    if turn % 3 == 0:
        state = [*state, ["pair_one", ["a"]], ["pair_two", ["a"]]]
    pairs = "".join(
        f"CREATE TABLE pair_{name}(a INTEGER);" if turn % 3 == 0 else f"DROP TABLE IF EXISTS pair_{name};"
        for name in ("one", "two")
    )
    commit(connection.execute,
           f"BEGIN; CREATE TABLE gen_{turn}(c{turn} INTEGER); DROP TABLE gen_{before}; {pairs} COMMIT")
    what = chance.randrange(5)
    if what == 0:
        changing(connection.execute, "INSERT INTO many SELECT range, 'x' || range FROM range(2000)")
    elif what == 1:
        changing(connection.execute, "CREATE OR REPLACE TABLE many(a INTEGER, b VARCHAR)")
    elif what == 2:
        changing(connection.execute, "CHECKPOINT")

left, state = None, [["gen_0", ["c0"]], ["many", ["a", "b"]]]
commit(os.replace, made(), path)
print("ready", flush=True)
opened = 0
while not select.select([0], [], [], 0)[0]:
    try:
        box = []
        changing(lambda: box.append(duckdb.connect(path, config={"threads": 1})))
        opened += 1
        [connection] = box
        for _ in range(chance.randrange(6)):
            step(connection)
        if chance.random() < float(often):
            time.sleep(float(quiet))  # open and quiet
            step(connection)
        changing(connection.close)
        del connection, box
        time.sleep(float(quiet) if chance.random() < float(often) else chance.choice([0, 0, 0.002, 0.03, 0.06]))
        if chance.random() < 0.2:
            turn += 1
            state = [[f"gen_{turn}", [f"c{turn}"]], ["many", ["a", "b"]]]
            commit(os.replace, made(), path)
    except Exception as error:
        failures.append(repr(error))
        if len(failures) > 20:
            break
log.close()
print(json.dumps({"version": duckdb.__version__, "turns": turn, "opened": opened, "touched": touched,
                  "failures": failures}), flush=True)
"""

#: Checks so many times, and until enough are certain. Each line of its log: when it began and ended, whether it is
#: certain, and what was seen.
CHECKER = r"""
import json, os, sys, time
from pathlib import Path
from selfheald.catalog_reader import read_database
import duckdb, fsspec

path, log, count, user, enough = sys.argv[1:]
log = open(log, "w")
if user != "same":
    os.setgroups([]); os.setgid(int(user)); os.setuid(int(user))
print("ready", flush=True)
done = certain = 0
while done < int(count) or certain < int(enough):
    begun = time.monotonic_ns()
    reading = read_database(Path(path))
    ended = time.monotonic_ns()
    state = [[item.name, [name for name, _ in item.columns]] for item in reading.relations]
    error = None if reading.error is None else [reading.error.code, reading.error.message]
    log.write(json.dumps([begun, ended, reading.certain, error, state, reading.holder and reading.holder.pid]) + "\n")
    done, certain = done + 1, certain + reading.certain
log.close()
print(duckdb.__version__, flush=True)
sys.stdin.read()
"""


@contextmanager
def started(python: str, code: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A script that runs when the body begins; killed in the end if it still does."""
    with subprocess.Popen(
        [python, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
    ) as process:
        try:
            assert hear(process) == "ready"
            yield process
        finally:
            process.kill()


def hear(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def stopped(process: subprocess.Popen[str]) -> Any:
    """Its last words, once it has been told to stop."""
    assert process.stdin is not None
    process.stdin.close()
    return json.loads(hear(process))


class History:
    """What a writer did: each state with the moments between which it came, and those between which it went."""

    def __init__(self, log: Path) -> None:
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        self._began = [begun for begun, _, _ in lines]
        self._ended = [ended for _, ended, _ in lines]
        self._states = [sorted(state) for _, _, state in lines]

    def agrees(self, state: list[Any], begun: int, ended: int) -> bool:
        """True if this was the state at a moment between the two."""
        last = bisect_right(self._began, ended) - 1
        for number in range(last, -1, -1):
            is_last = number + 1 == len(self._states)
            if not is_last and self._ended[number + 1] < begun:
                return False
            if self._states[number] == sorted(state):
                return True
        return False


@pytest.mark.promise(2)
@pytest.mark.soak
@pytest.mark.timeout(scaled(120, 3600))
@pytest.mark.parametrize(
    ("checker", "writer", "user", "count"),
    [
        ("2", "2", "same", scaled(100, 10_000)),
        ("1", "1", "same", scaled(100, 10_000)),
        ("2", "1", "nobody", scaled(50, 3_000)),
        ("1", "2", "nobody", scaled(50, 3_000)),
    ],
)
def test_checks_beside_a_writer(
    open_path: Path, tmp_path: Path, figures: Figures, checker: str, writer: str, user: str, count: int
) -> None:
    """In two cases the checker is a user who may only read, so that whatever else it tried would be refused."""
    if "1" in (checker, writer) and not PINNED:
        pytest.skip("needs SELFHEALD_TEST_PINNED, the Python of the pinned environment")
    if user == "nobody" and os.geteuid() != 0:
        pytest.skip("needs to be root to become another user")
    beside(open_path, tmp_path, figures, checker, writer, "65534" if user == "nobody" else "same", count)


@pytest.fixture
def coarse_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system whose stamps count whole seconds, as those of old ones and of some servers do."""
    image, mounted = tmp_path / "image", tmp_path / "mounted"
    mounted.mkdir()
    with image.open("wb") as file:
        file.truncate(64 << 20)
    done: list[subprocess.CompletedProcess[bytes]] = []
    for command in (["mkfs.ext4", "-q", "-I", "128", str(image)], ["mount", "-o", "loop", str(image), str(mounted)]):
        if os.geteuid() != 0 or shutil.which(command[0]) is None:
            pytest.skip("needs to be root, mkfs.ext4 and mount")
        done.append(subprocess.run(command, capture_output=True, check=False, timeout=60))
    if done[-1].returncode:
        pytest.skip("needs to be allowed to mount a file system")
    try:
        yield mounted
    finally:
        subprocess.run(["umount", "-l", str(mounted)], check=True, timeout=60)


@pytest.mark.promise(2)
@pytest.mark.soak
@pytest.mark.timeout(scaled(120, 3600))
def test_checks_where_stamps_count_seconds(coarse_folder: Path, tmp_path: Path, figures: Figures) -> None:
    """Two writes within a second leave the same stamps there: that these held still proves nothing."""
    beside(coarse_folder, tmp_path, figures, "2", "2", "same", scaled(600, 3_000), coarse=True)


@pytest.mark.promise(1)
def test_a_write_that_leaves_the_same_stamps_is_not_certified(
    coarse_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody opens, drops a table and closes while it is read, all within a second: no marker may come of that."""
    database, drop = coarse_folder / NAME, "import duckdb, sys; duckdb.connect(sys.argv[1]).execute('DROP TABLE t')"
    read, identities = CatalogReader.relations, list[Any]()

    def slowly(reader: CatalogReader) -> tuple[Relation, ...]:
        found = read(reader)
        identities.append(file_identity(database))
        subprocess.run([sys.executable, "-c", drop, str(database)], check=True, timeout=60)
        identities.append(file_identity(database))
        return found

    monkeypatch.setattr(CatalogReader, "relations", slowly)
    for _ in range(20):
        with duckdb.connect(str(database)) as connection:
            connection.execute("CREATE TABLE t(a INTEGER)")
        identities.clear()
        with suppress(subprocess.CalledProcessError):  # a second look finds no table to drop
            reading = read_database(database)
            assert not reading.certain
            if len(identities) == 2 and identities[0] == identities[1]:
                return
    pytest.skip("no round fell within a second")


def beside(
    folder: Path, logs: Path, figures: Figures, checker: str, writer: str, user: str, count: int, coarse: bool = False
) -> None:
    database = folder / NAME
    options = "(STORAGE_VERSION 'v1.0.0')" if writer == "2" and checker == "1" else ""
    # Seconds, longer than a tick, and how often.
    pauses = (3.0, 0.2) if coarse else (1.2, 0.02)
    enough = 1 if coarse else count // 20 + 1
    with started(PYTHONS[writer], WRITER, database, logs / "writer", 1, options, *pauses) as writing:
        with started(PYTHONS[checker], CHECKER, database, logs / "checker", count, user, enough) as checking:
            watch = Watch(database, checking.pid)
            with watch.kept():
                version = hear(checking)
        assert version, "the checker died"
        told = stopped(writing)
    history, seen, wrong = History(logs / "writer"), Counter[str](), []
    lines = (logs / "checker").read_text().splitlines()
    for line in lines:
        begun, ended, certain, error, state, holder = json.loads(line)
        seen["certain" if certain else "uncertain"] += 1
        seen["certain, while the writer had it open"] += certain and holder == writing.pid
        if certain and (error is not None or not history.agrees(state, begun, ended)):
            wrong.append(line)
        if holder not in (None, writing.pid):
            wrong.append(line)
    figures.tell(
        2,
        f"checks by DuckDB {version} beside a writer of {told['version']}{', stamps of whole seconds' * coarse}",
        tried=len(lines),
        survived=len(lines) - len(wrong),
        lost=len(told["failures"]) + told["touched"],
        wrong=len(wrong) + len(watch.for_writing) + len(watch.locks),
        note=f"{seen['certain']} certain; {told['turns']} states; the writer opened it {told['opened']} times",
    )
    print(seen, told, watch.looks, watch.opened)
    assert wrong == []
    assert told["failures"] == []
    assert told["touched"] == 0
    assert (watch.for_writing, watch.locks) == ([], [])
    assert watch.holders <= {writing.pid}
    assert watch.opened > 0
    assert len(lines) >= count
    assert seen["certain"] >= enough
    assert told["turns"] > 3
