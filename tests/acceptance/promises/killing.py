"""``kill -9`` at any instant: the moments, whom it hits, and what must hold right after it."""

from __future__ import annotations

import os
import random
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from fixtures.waiting import DEADLINE, wait_for
from processes import Daemon, Record, arguments, children, digests, hosts, lock_on, status, steps_of

from selfheald.client import file_identity, read_record, valid_marker
from selfheald.locks import held
from selfheald.workspace import WAL_SUFFIXES, Database

#: Seconds between two looks for the moment of a kill.
GLANCE = 0.001
#: Seconds within which all that a killed daemon had started must be gone, on a machine that is busy with other things.
OUTLIVE = 2.0
#: A variable of the environment by which a daemon's descendants are known, whoever their parent is by now.
TOKEN = "KILLED_LANE"

Digests = dict[str, tuple[Any, ...]]


class Finding(NamedTuple):
    """A broken promise, and how: ``lost`` if what a user had is gone."""

    promise: int
    lost: bool
    text: str


@dataclass
class Tally:
    """What was tried in a lane, and what came of it."""

    kills: dict[str, int] = field(default_factory=dict)
    moments: dict[str, int] = field(default_factory=dict)
    databases: int = 0
    markers: int = 0
    tables: int = 0
    longest_life: float = 0.0
    findings: list[Finding] = field(default_factory=list)

    def count(self, whom: str, moment: str) -> None:
        self.kills[whom] = self.kills.get(whom, 0) + 1
        self.moments[moment] = self.moments.get(moment, 0) + 1

    @property
    def killed(self) -> int:
        """Kills that hit, each of ``both`` being one."""
        return sum(self.kills.values())


@dataclass
class Site:
    """A database that a daemon makes ready while it is being killed.

    ``before`` are the tables that it had, ``after`` those that it must have in the end; ``token`` marks the daemon's
    descendants.
    """

    database: Path
    daemon: Daemon
    token: str
    before: Digests
    after: Digests
    scratch: Path
    tally: Tally
    story: list[str]

    def find(self, promise: int, text: str, *, lost: bool = False) -> None:
        """Note that a promise was broken."""
        self.tally.findings.append(Finding(promise, lost, f"{text} [{' | '.join(self.story)}]"))

    def descendants(self) -> list[int]:
        """All processes that the daemon started, by their environment."""
        return [pid for pid in marked_processes(self.token) if pid != self.daemon.pid]

    def look(self) -> None:
        """None or all of the new tables, and the others as they were; a marker only where all are there."""
        marker, tables = self._marker_and_tables()
        new = self.after.keys() - self.before.keys()
        for name, digest in self.before.items():
            self.tally.tables += 1
            if tables.get(name) != digest:
                self.find(3, f"the table {name} was {digest}, and is {tables.get(name)}", lost=True)
        made = tables.keys() - self.before.keys()
        if made and made != new:
            self.find(4, f"of the new tables there are only {sorted(made)}, or others")
        for name in made & new:
            if tables[name] != self.after[name]:
                self.find(4, f"the table {name} is {tables[name]}, undisturbed it is {self.after[name]}")
        if marker is not None:
            self.tally.markers += 1
            if tables.keys() != self.after.keys():
                self.find(1, f"a valid marker, but the tables are {sorted(tables)}: {marker}")

    def _marker_and_tables(self) -> tuple[Record | None, Digests]:
        """What the marker and the file said at one moment, from a copy: nothing is opened or locked here."""
        until = time.monotonic() + DEADLINE
        while True:
            marker, identity = valid_marker(self.database), stamps(self.database)
            folder = Path(tempfile.mkdtemp(dir=self.scratch))
            try:
                copy = copy_family(self.database, folder)
                if stamps(self.database) == identity and valid_marker(self.database) == marker:
                    return marker, {} if copy is None else digests(copy)
            finally:
                shutil.rmtree(folder)
            if time.monotonic() > until:
                raise AssertionError(f"it never holds still: {self.database}")
            time.sleep(GLANCE)

    @contextmanager
    def markers_watched(self) -> Iterator[None]:
        """While the body runs, each marker is looked at as soon as it is valid: do the tables bear it out?"""
        done = threading.Event()

        def watch() -> None:
            seen: Record | None = None
            while not done.wait(0.003):
                marker = valid_marker(self.database)
                if marker is not None and marker != seen:
                    self.look()
                seen = marker

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def kill(self, whom: str, rng: random.Random) -> str:
        """``kill -9`` the daemon, one of its children, its dbt host, or all in any order; who was hit."""
        daemon, below, warm = self.daemon.pid, children(self.daemon.pid), hosts(self.daemon.pid)
        victims = {
            "daemon": [daemon],
            "child": below[:1] or warm or [daemon],
            "host": warm or below[:1] or [daemon],
            "both": [*below, *warm, daemon],
        }[whom]
        rng.shuffle(victims)
        for victim in victims:
            with suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
        if daemon in victims:
            self._buried()
        hit = "both" if len(victims) > 1 else "daemon" if daemon in victims else "host" if warm == victims else "child"
        self.story.append(f"{hit} killed")
        return hit

    def _buried(self) -> None:
        """The daemon is dead: what it had started dies too, soon, and then the files hold still."""
        killed = time.monotonic()
        assert self.daemon.process is not None
        self.daemon.process.wait(DEADLINE)
        while left := marked_processes(self.token):
            if time.monotonic() - killed > OUTLIVE:
                self.find(5, f"outlived its daemon by {OUTLIVE} s: {[arguments(pid) for pid in left]}")
                break
            time.sleep(GLANCE)
        self.tally.longest_life = max(self.tally.longest_life, time.monotonic() - killed)

    def in_order(self, state_dir: Path) -> None:
        """After it became ready: everything as if nothing had happened, and nothing left lying about."""
        self.look()
        wait_for(lambda: not self._untidy(state_dir), what=lambda: f"left behind: {self._untidy(state_dir)}")

    def _untidy(self, state_dir: Path) -> list[str]:
        private = Database(self.database).private
        left = [str(path) for path in private.glob("staging-*")]
        places = (self.database.parent, private)
        left += [str(path) for place in places for path in place.glob(".*.tmp")]
        left += [str(path) for path in state_dir.glob("plans/parse-*")]
        left += [str(path) for path in private.glob(".*.taken")]
        if lock_on(self.database) is not None:
            left.append(f"a lock: {lock_on(self.database)}")
        if held(Database(self.database).lock):
            left.append("the lock of an initialization")
        if status(self.database).get("state") not in (None, "completed"):
            left.append(f"the status {status(self.database)}")
        return left


@dataclass(frozen=True)
class Moment:
    """When to kill: ``offset`` seconds after something was first seen."""

    name: str
    offset: float
    seen: Callable[[], bool]

    def wait(self, limit: Callable[[], bool]) -> bool:
        """True if it came before ``limit`` did, which ends the waiting too."""
        until = time.monotonic() + DEADLINE
        while not self.seen():
            if limit():
                return False
            assert time.monotonic() < until, f"the moment {self.name!r} never comes"
            time.sleep(GLANCE)
        time.sleep(self.offset)
        return True

    def __str__(self) -> str:
        return f"{self.name} + {self.offset * 1000:.0f} ms"


#: Moments at a step or file on the way to the publishing, and around it; half of all kills are of the latter.
NAMED = (
    "unmarked", "taken", "begun", "check_tables", "staging", "copying child", "building child", "load_seeds",
    "build_foundation",
)  # fmt: skip
PUBLISHING = ("publishing child", "verify", "publish", "publish folder", "database changes", "log", "marker", "done")


def choose_moment(site: Site, rng: random.Random, duration: float, never: frozenset[str]) -> Moment:
    """A moment from now on, but none of those that ``never`` come to this database.

    ``duration`` is that of an undisturbed initialization, in seconds.
    """
    kind = rng.choice(("any", "named", "publishing", "publishing"))
    if kind == "any":
        return Moment("any", rng.uniform(0, 1.1 * duration), lambda: True)
    name = rng.choice([name for name in (NAMED if kind == "named" else PUBLISHING) if name not in never])
    widest = {"building child": 1.5, "publishing child": 0.4, "load_seeds": 1.5, "verify": 0.1}.get(name, 0.03)
    return Moment(name, rng.choice((0, rng.uniform(0, widest))), _sight(name, site))


def _sight(name: str, site: Site) -> Callable[[], bool]:
    """What is to be seen of it. What an earlier attempt has left counts for nothing."""
    database = Database(site.database)
    attempt, there, staged = status(site.database).get("attempt_id"), stamps(site.database), set(_staging(database))

    def new_record() -> Record:
        record = status(site.database)
        return record if record.get("attempt_id") != attempt and record.get("state") == "in_progress" else {}

    def step() -> bool:
        record = new_record()
        return bool(record) and steps_of(record)[name] != "pending"

    def running(words: list[str]) -> bool:
        return any(set(words) <= set(arguments(pid)) for pid in children(site.daemon.pid))

    sights: dict[str, Callable[[], bool]] = {
        "unmarked": lambda: not database.marker.exists(),
        "begun": lambda: _signed(database.lock) == site.daemon.pid,
        "taken": database.taken_request.exists,
        "staging": lambda: bool(set(_staging(database)) - staged),
        "copying child": lambda: bool(new_record()) and any(map(_copies, children(site.daemon.pid))),
        "building child": lambda: running(["build"]),
        "publishing child": lambda: running(["publish"]),
        "publish folder": lambda: any((path / "publish").exists() for path in set(_staging(database)) - staged),
        "database changes": lambda: stamps(site.database) != there,
        "log": lambda: (stamps(site.database)[1:]) != there[1:],
        "marker": lambda: any(site.database.parent.glob(f".{site.database.name}.ready.*")) or database.marker.exists(),
        "done": lambda: valid_marker(site.database) is not None,
    }
    return sights.get(name, step)


def _staging(database: Database) -> list[Path]:
    return list(database.private.glob("staging-*"))


def _signed(lock: Path) -> int:
    try:
        return int(lock.read_text() or 0)
    except (OSError, ValueError):
        return 0


def _copies(pid: int) -> bool:
    return any("selfheald.check_child" in word for word in arguments(pid))


def is_up(daemon: Daemon) -> bool:
    """True once a daemon that was started again is ready, and so can be stopped in its orderly way."""
    records = [read_record(root / ".selfheald" / "daemon.json") or {} for root in daemon.roots]
    return all(record.get("pid") == daemon.pid and record.get("state") == "ready" for record in records)


def marked_processes(token: str) -> list[int]:
    """The processes with this token in their environment that have not ended."""
    wanted, found = f"{TOKEN}={token}".encode(), []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found


def stamps(database: Path) -> list[Record | None]:
    """The identity of the database, and of each file of its log."""
    return [file_identity(f"{database}{suffix}") for suffix in ("", *WAL_SUFFIXES)]


def copy_family(database: Path, folder: Path) -> Path | None:
    """A copy of the database with its logs, to be opened; ``None`` if there is none yet."""
    copy = folder / database.name
    for suffix in ("", *WAL_SUFFIXES):
        with suppress(FileNotFoundError):
            shutil.copyfile(f"{database}{suffix}", f"{copy}{suffix}")
    return copy if copy.exists() and copy.stat().st_size else None
