"""The graft as an abstract model: every state that initializations, simulators, a person and a crash can lead to.

Two initializations of one database, of which one may be killed at any step; two simulators, one that writes rows from
which missing tables are built, one that drops a finished table; a person who deletes or replaces the file. Each reads
the headers of a file before it locks it, as DuckDB 2.0 does. It holds under two assumptions: a write changes the file's
stamps (the program waits for a tick of the clock where it must), and a simulator needs less than the hold from reading
the headers to its try to lock.

``without`` takes one precaution out of the protocol: each of them must then lead to a broken promise.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest
from fixtures.figures import Figures, scaled

ABSENT = -1


class File(NamedTuple):
    """An inode: its stamp, which of the missing tables it has, the version of the rows they are built from, commits."""

    stamp: int = 0
    tables: str = "none"
    rows: int = 0
    commits: frozenset[str] = frozenset()
    lock: str = ""


class Daemon(NamedTuple):
    """An initialization: where it stands, the identity it saw, the rows it copied, and the file as it opened it."""

    name: str
    at: str = "begins"
    seen: tuple[int, int] = (ABSENT, 0)
    rows: int = 0
    opened: File = File()


class Simulator(NamedTuple):
    """A session: where it stands, and the file as it opened it."""

    name: str
    at: str = "begins"
    inode: int = ABSENT
    opened: File = File()


class State(NamedTuple):
    """All that there is. ``excused``: commits that simulators or a person took away, and not we."""

    files: tuple[File, ...] = (File(),)
    path: int = 0
    marker: tuple[int, int] | None = None
    flock: str = ""
    daemons: tuple[Daemon, ...] = (Daemon("first"), Daemon("second"))
    simulators: tuple[Simulator, ...] = (Simulator("writes"), Simulator("drops"))
    crashes: int = 1
    hands: int = 1
    acknowledged: frozenset[tuple[str, int]] = frozenset()
    excused: frozenset[str] = frozenset()
    broken: str = ""

    @property
    def identity(self) -> tuple[int, int]:
        return (self.path, self.files[self.path].stamp) if self.path != ABSENT else (ABSENT, 0)

    def with_file(self, inode: int, **changes: object) -> State:
        changed = self.files[inode]._replace(**changes)  # type: ignore[arg-type]
        return self._replace(files=(*self.files[:inode], changed, *self.files[inode + 1 :]))

    def with_daemon(self, number: int, at: str, **changes: object) -> State:
        changed = self.daemons[number]._replace(at=at, **changes)  # type: ignore[arg-type]
        return self._replace(daemons=(*self.daemons[:number], changed, *self.daemons[number + 1 :]))

    def with_simulator(self, number: int, at: str, **changes: object) -> State:
        changed = self.simulators[number]._replace(at=at, **changes)  # type: ignore[arg-type]
        return self._replace(simulators=(*self.simulators[:number], changed, *self.simulators[number + 1 :]))


#: Where an initialization has nothing in its hands, and where it may hold the database's lock.
IDLE = ("begins", "ended", "killed")
PUBLISHING = ("open", "same", "half", "committed", "checkpointed")


def nexts(state: State, without: str) -> Iterator[State]:
    """All that can happen next."""
    for number, daemon in enumerate(state.daemons):
        yield from daemon_nexts(state, number, daemon, without)
        if state.crashes and daemon.at not in IDLE:
            yield freed(state, daemon).with_daemon(number, "killed")._replace(crashes=state.crashes - 1)
    for number, simulator in enumerate(state.simulators):
        yield from simulator_nexts(state, number, simulator)
    if state.hands and state.path != ABSENT:
        lost = state.excused | {name for name, inode in state.acknowledged if inode == state.path}
        person = state._replace(hands=state.hands - 1, excused=lost)
        yield person._replace(path=ABSENT)
        yield person._replace(path=len(state.files), files=(*state.files, File()))


def freed(state: State, daemon: Daemon) -> State:
    """What the kernel does when it ends: its locks are free. What was not committed is gone with it."""
    for inode, file in enumerate(state.files):
        if file.lock == daemon.name:
            state = state.with_file(inode, lock="")
    return state._replace(flock="" if state.flock == daemon.name else state.flock)


def daemon_nexts(  # noqa: C901 - the protocol in its order, one branch for each step
    state: State, number: int, daemon: Daemon, without: str
) -> Iterator[State]:
    """The next step of an initialization; it ends where it would begin anew."""
    ended = freed(state, daemon).with_daemon(number, "ended")
    there = state.files[state.path] if state.path != ABSENT else None
    inode = daemon.seen[0]
    unchanged = state.identity == daemon.seen

    if daemon.at == "begins":
        if not state.flock or without == "the flock":
            yield state._replace(flock=daemon.name).with_daemon(number, "locked")
    elif daemon.at == "locked":  # the second check
        if there is None or there.lock:
            yield ended
        elif there.tables == "all":
            yield state.with_daemon(number, "certified", seen=state.identity)
        else:
            yield state._replace(marker=None).with_daemon(number, "looked", seen=state.identity)
    elif daemon.at == "looked":  # copy what the missing tables are built from
        yield state.with_daemon(number, "copied", rows=there.rows) if there is not None and unchanged else ended
    elif daemon.at == "copied":  # dbt builds; then the identity is looked at for the first time
        yield state.with_daemon(number, "quiet") if unchanged else ended
    elif daemon.at == "quiet":  # open: headers first
        yield state.with_daemon(number, "read", opened=there, seen=state.identity) if there is not None else ended
    elif daemon.at == "read":  # then the lock
        busy = state.files[inode].lock
        yield ended if busy else state.with_file(inode, lock=daemon.name).with_daemon(number, "open")
    elif daemon.at == "open":
        yield state.with_daemon(number, "same") if unchanged or without == "the second look" else ended
    elif daemon.at == "same":
        still = daemon.opened.tables == "none" and daemon.opened.rows == daemon.rows
        if not still and without != "comparing what was copied":
            yield ended
        elif without == "the transaction":
            yield grafted(state, inode, daemon, "half").with_daemon(number, "half")
        else:
            yield grafted(state, inode, daemon, "all").with_daemon(number, "committed")
    elif daemon.at == "half":
        yield grafted(state, inode, daemon, "all").with_daemon(number, "committed")
    elif daemon.at == "committed":
        yield state.with_file(inode, stamp=state.files[inode].stamp + 1).with_daemon(number, "checkpointed")
    elif daemon.at == "checkpointed":  # the hold
        late = any(
            simulator.at == "read" and simulator.inode == inode and simulator.opened.tables != "all"
            for simulator in state.simulators
        )
        if not late or without == "the hold":
            yield state.with_file(inode, lock="").with_daemon(number, "closed")
    elif daemon.at == "closed":  # look at the live file
        if without == "the last look" and there is not None:
            yield state.with_daemon(number, "certified", seen=state.identity)
        else:
            complete = there is not None and there.tables == "all"
            yield state.with_daemon(number, "certified", seen=state.identity) if complete else ended
    elif daemon.at == "certified":
        yield state.with_daemon(number, "writes") if unchanged else ended
    elif daemon.at == "writes":  # whatever happened since it was compared: the marker names what was certified
        named = state.identity if without == "naming what was certified" else daemon.seen
        yield state._replace(marker=named).with_daemon(number, "written")
    elif daemon.at == "written":
        yield ended if state.path == inode else ended._replace(marker=None)


def grafted(state: State, inode: int, daemon: Daemon, tables: str) -> State:
    """The file as it is after our commit, which knows of it what was read when it was opened."""
    file = state.files[inode]
    if file.rows != daemon.rows:
        state = state._replace(broken="3: the tables are built from other rows than those beside them")
    commits = daemon.opened.commits
    return state.with_file(inode, stamp=file.stamp + 1, tables=tables, rows=daemon.opened.rows, commits=commits)


def simulator_nexts(state: State, number: int, simulator: Simulator) -> Iterator[State]:
    """The next step of a simulator; without its lock, or its file, it gives up."""
    inode = simulator.inode
    if simulator.at == "begins" and state.path != ABSENT:
        yield state.with_simulator(number, "read", inode=state.path, opened=state.files[state.path])
    elif simulator.at == "read":
        free = not state.files[inode].lock
        locked = state.with_file(inode, lock=simulator.name).with_simulator(number, "open")
        yield locked if free else state.with_simulator(number, "failed")
    elif simulator.at == "open":
        file, opened = state.files[inode], simulator.opened
        if file.tables == "all" and opened.tables != "all" and not any(each.at == "killed" for each in state.daemons):
            state = state._replace(broken="4: a simulator overwrote what was published")
        drops = simulator.name == "drops"
        written = state.with_file(
            inode,
            stamp=file.stamp + 1,
            tables="none" if drops else opened.tables,
            rows=opened.rows + (not drops),
            commits=opened.commits | {simulator.name},
        )
        yield written._replace(
            acknowledged=state.acknowledged | {(simulator.name, inode)},
            excused=state.excused
            | (file.commits - opened.commits)
            | (set() if inode == state.path else {simulator.name}),
        ).with_simulator(number, "committed")
    elif simulator.at == "committed":
        yield state.with_file(inode, lock="").with_simulator(number, "ended")


def broken(state: State) -> str:
    """The promise that is broken in a state, if any."""
    at_work = [daemon for daemon in state.daemons if daemon.at not in IDLE]
    if state.broken:
        return state.broken
    if state.marker == state.identity and state.files[state.path].tables != "all":
        return "1: the marker lies"
    for file in state.files:
        if any(file.lock == daemon.name and daemon.at not in PUBLISHING for daemon in state.daemons):
            return "2: the database is locked for other than publishing"
    for name, inode in state.acknowledged:
        if name not in state.excused and (inode != state.path or name not in state.files[inode].commits):
            return "3: a commit is lost"
    if any(file.tables == "half" and not file.lock for file in state.files):
        return "4: half of the tables"
    return "5: two at once" if len(at_work) > 1 else ""


def explore(start: State, without: str = "", until: str = "") -> tuple[int, int, dict[str, State]]:
    """States met, steps taken, and the first state of each broken promise; what follows on one is not looked at.

    ``until``: as soon as that one is found, no further.
    """
    states, frontier, steps = {start}, [start], 0
    found: dict[str, State] = {}
    while frontier and until not in found:
        state = frontier.pop()
        for following in nexts(state, without):
            steps += 1
            if following in states:
                continue
            states.add(following)
            what = broken(following)
            if what:
                found.setdefault(what, following)
            else:
                frontier.append(following)
    return len(states), steps, found


@pytest.mark.promise(4)
@pytest.mark.soak
@pytest.mark.timeout(scaled(120, 900))
def test_every_state(figures: Figures) -> None:
    states, steps, found = explore(State(hands=scaled(0, 1)))
    figures.tell(
        4,
        "graft in every interleaving (abstract model, promises 1 to 5)",
        tried=steps,
        survived=steps - len(found),
        wrong=len(found),
        note=f"{states:,} states",
    )
    assert found == {}
    assert states > 1000


@pytest.mark.parametrize(
    ("without", "expected"),
    [
        ("the flock", "5: two at once"),
        ("the second look", "3: a commit is lost"),
        ("comparing what was copied", "3: the tables are built from other rows than those beside them"),
        ("the transaction", "4: half of the tables"),
        ("the hold", "4: a simulator overwrote what was published"),
        ("the last look", "1: the marker lies"),
        ("naming what was certified", "1: the marker lies"),
    ],
)
def test_each_precaution_is_needed(without: str, expected: str) -> None:
    _, _, found = explore(State(), without, until=expected)
    assert expected in found, found
