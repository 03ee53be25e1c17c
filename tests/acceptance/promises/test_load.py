"""Promises 6, 7 and 9 under load: a thousand changes at once, one database that is never still, and who comes first."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import pytest
import restless
from fixtures.figures import Figures, scaled
from fixtures.waiting import DEADLINE, wait_for
from processes import ENDLESS, NAME, Daemon, Selfheald, cpu_seconds, status, wait_until_marked
from projects import copy_project, own_database

from selfheald.client import drop_request, file_identity, valid_marker
from selfheald.watch import PROBE

#: Seconds between two checks of one database, unless a test says otherwise.
MIN_INTERVAL = 1.0
#: Seconds by which the log's clock and the daemon's may be apart.
CLOCKS = 0.05
#: Megabytes that a daemon may take with a thousand databases, and for each thousand more.
FIRST_THOUSAND, THOUSAND = 180.0, 12.0
#: Megabytes that it may take more after many storms than after the first.
SPREAD = 30.0
#: Processor seconds in a window of so many seconds below which a daemon is quiet.
QUIET, WINDOW = 0.15, 2.0
#: Seconds in which others are served beside one that is never still, on a busy machine.
SERVED = 15.0
#: So many of them stay; the daemon must forget the rest, or its memory would grow.
KEPT = 20
RESTLESS = Path(restless.__file__)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The small project, which is read once for this module."""
    return {"DBT__PROJECT_DIR": str(copy_project(tmp_path_factory.mktemp("site") / "project"))}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A complete database of the small project, in as few bytes as DuckDB can."""
    path = tmp_path_factory.mktemp("small") / NAME
    with duckdb.connect() as connection:
        connection.execute(f"attach '{path}' as small (block_size 16384)")
        connection.execute("use small")
        connection.execute("create table regions (region_code varchar, region_name varchar, headcount integer)")
        connection.execute("create table fct_headcount (region_code varchar, plan_year integer, headcount bigint)")
        connection.execute("create table dim_regions (region_code varchar, headcount_of_all_years bigint)")
        connection.execute("create table notes (answer integer)")
        connection.execute("checkpoint")
    return path.read_bytes()


@pytest.mark.promise(6)
@pytest.mark.soak
@pytest.mark.timeout(scaled(300, 3600))
def test_all_change_at_once(
    root: Path, selfheald: Selfheald, settings: dict[str, Any], small: bytes, figures: Figures
) -> None:
    """Storm after storm every database is ready again, checked once for each, and the daemon is as it was before."""
    count, storms = scaled(1000, 10_000), 2
    databases = [put(root / f"{number // 100}" / f"{number}" / "dbt", small) for number in range(count)]
    sizes, seconds, checks = [], [], []
    with selfheald.daemon(root, WATCH__RESCAN=60, LOG__ROTATION="1 GB", **settings) as daemon:
        wait_until_all_marked(databases)
        quiet_after(daemon)
        for storm in range(storms + 1):
            before, began = len(daemon.log_lines("checked")), time.monotonic()
            if storm:
                for database in databases:
                    put(database.parent, small)
                wait_until_all_marked(databases)
            seconds.append(time.monotonic() - began)
            quiet_after(daemon)
            checks.append(len(daemon.log_lines("checked")) - before)
            sizes.append(megabytes(daemon.pid))
        first = Counter(str(line["database"]) for line in daemon.log_lines("adopted"))
        closest = closest_checks(daemon)
    lost = sum(valid_marker(database) is None for database in databases)
    bound = FIRST_THOUSAND + THOUSAND * (count / 1000 - 1)
    figures.tell(
        6,
        "databases that all change at once, storm after storm, on DuckDB " + duckdb.__version__,
        tried=count * storms,
        survived=count * storms - lost,
        lost=lost,
        wrong=sum(made > storms + 1 for made in first.values()),
        note=f"{storms} storms of {count:,}, each over in {max(seconds[1:]):.0f} s with {max(checks[1:]):,} checks at "
        f"most; {sizes[1]:.0f} MB after the first, {sizes[-1]:.0f} MB after the last; two checks of one at least "
        f"{closest:.2f} s apart",
    )
    assert lost == 0
    # Our own markers come back as events, and cause no check.
    assert all(made <= 1.2 * count for made in checks[1:]), checks
    assert closest >= MIN_INTERVAL - CLOCKS
    assert max(sizes) < bound, sizes
    assert sizes[-1] < sizes[1] + SPREAD, sizes


@pytest.mark.promise(7)
@pytest.mark.soak
@pytest.mark.timeout(scaled(240, 3600))
def test_one_that_is_never_still(
    root: Path,
    tmp_path: Path,
    selfheald: Selfheald,
    settings: dict[str, Any],
    small: bytes,
    figures: Figures,
) -> None:
    """It is checked no more often than it should be, its marker never lies, it is ready in its quiet moments; and
    others are served as if it were not there."""
    seconds, rests = scaled(15.0, 600.0), scaled(4, 24)
    database = put(root / "restless", small)
    served: list[float] = []
    quiet: list[float] = []
    with selfheald.daemon(root, WATCH__RESCAN=5, WATCH__HEAL="requested", LOG__ROTATION="1 GB", **settings) as daemon:
        wait_until_marked(database)
        with restless_simulator(database, tmp_path) as tell, watched_marker(database, tmp_path) as seen:
            for rest in range(rests):
                tell("go")
                until = time.monotonic() + seconds / rests
                while time.monotonic() < until:
                    began = time.monotonic()
                    wait_until_marked(put(root / f"other-{len(served)}", small))
                    served.append(time.monotonic() - began)
                    shutil.rmtree(root / f"other-{len(served) - KEPT}", ignore_errors=True)
                tell("hold" if rest % 2 else "rest")
                began = time.monotonic()
                wait_until_marked(database)
                quiet.append(time.monotonic() - began)
                if rest == 0:  # warm by now: what it takes from here on it would go on to take
                    size = megabytes(daemon.pid)
        quiet_after(daemon)
        grown = megabytes(daemon.pid) - size
        checked = len(daemon.log_lines("checked", database))
        closest = closest_checks(daemon)
    figures.tell(
        7,
        f"looks at the marker of a database that changes without pause for {seconds:g} s",
        tried=seen["looks"],
        survived=seen["looks"] - seen["lies"],
        wrong=seen["lies"],
        note=f"valid {seen['valid']} times, {seen['gone']} looks while a table was gone; checked {checked} times, at "
        f"least {closest:.2f} s apart; {len(served)} others ready in {max(served):.1f} s at most; ready in its "
        f"{rests} quiet moments after {max(quiet):.1f} s at most; {grown:+.0f} MB",
    )
    assert seen["lies"] == 0
    assert seen["gone"] > 10, seen
    assert seen["valid"] > 0, seen
    assert closest >= MIN_INTERVAL - CLOCKS
    assert checked > rests
    assert max(served) < SERVED, served
    assert max(quiet) < SERVED, quiet
    assert grown < SPREAD


@pytest.mark.promise(9)
@pytest.mark.soak
@pytest.mark.timeout(scaled(240, 900))
def test_who_waits_comes_first(
    root: Path, selfheald: Selfheald, settings: dict[str, Any], small: bytes, figures: Figures
) -> None:
    """Of a thousand due checks that of a requested database comes first, and of 200 queued ones its initialization."""
    complete = [put(root / f"{number}", small) for number in range(scaled(800, 3000))]
    queued = [own_copy(root / f"queued-{number}", root) for number in range(200)]
    asked = root / "asked" / NAME
    asked.parent.mkdir()
    drop_request(asked)
    late = root / "late" / NAME
    late.parent.mkdir()
    slow = {"DBT__PRE_SQL": ENDLESS, "DBT__TIMEOUT": 4, "RETRY__BASE": 60}
    with selfheald.daemon(root, WATCH__RESCAN=3600, LOG__ROTATION="1 GB", **settings, **slow) as daemon:
        wait_for(lambda: daemon.log_lines("checked"), what=daemon.told)
        drop_request(late)
        began = time.monotonic()
        wait_for(lambda: status(late).get("reason") == "queued" and status(late).get("answers"))
        told_after = time.monotonic() - began
        wait_until_all_marked(complete)
        wait_for(lambda: len(daemon.log_lines("queued")) >= len(queued), what=daemon.told)
        wait_for(lambda: len(daemon.log_lines("initialization_start")) >= 3, what=daemon.told)
        checked = [line["database"] for line in daemon.log_lines("checked")]
        begun = [line["database"] for line in daemon.log_lines("initialization_start")]
    # Its turn may come while one is under way: that one ends first.
    places = {str(database): (checked.index(str(database)), begun.index(str(database))) for database in (asked, late)}
    wrong = sum(check > len(checked) // 2 or begin > 2 for check, begin in places.values())
    figures.tell(
        9,
        f"requests among {len(complete) + len(queued)} due checks and {len(queued)} queued initializations",
        tried=2,
        survived=2 - wrong,
        wrong=wrong,
        note=f"one at the start: check number {places[str(asked)][0] + 1}, initialization "
        f"{places[str(asked)][1] + 1}; one meanwhile: check {places[str(late)][0] + 1}, initialization "
        f"{places[str(late)][1] + 1}, told of its place after {told_after:.1f} s",
    )
    assert places[str(asked)][0] < 8, places
    assert places[str(late)][0] < len(checked) // 2, places
    assert max(begin for _, begin in places.values()) <= 2, begun
    assert told_after < SERVED


@pytest.mark.promise(6)
def test_the_interval_delays_neither_the_first_check_nor_a_request(
    root: Path, selfheald: Selfheald, settings: dict[str, Any], small: bytes, figures: Figures
) -> None:
    """With an hour between two checks: a new database is ready at once, a changed one when somebody asks for it."""
    rounds, databases = 5, list[Path]()
    with selfheald.daemon(root, WATCH__RESCAN=0.3, WATCH__MIN_INTERVAL=3600, **settings) as daemon:
        for number in range(rounds):
            database = put(root / f"{number}", small)
            databases.append(database)
            wait_until_marked(database)
            put(database.parent, small)
            rescans(root, 2)
            assert valid_marker(database) is None
            asked = drop_request(database)
            assert wait_until_marked(database)["answers"] == asked
            wait_for(lambda: len(daemon.log_lines("checked", databases[-1])) == 2)
        assert all(len(daemon.log_lines("checked", database)) == 2 for database in databases)
    figures.tell(6, "first checks and requests that an interval of an hour does not delay", tried=10, survived=10)


@pytest.mark.promise(6)
def test_what_is_left_alone_is_not_read_at_each_scan(
    root: Path, selfheald: Selfheald, settings: dict[str, Any], figures: Figures
) -> None:
    """Incomplete databases that nobody asks for are read once, however often there is a scan; and again when they, or
    a marker beside them, have changed."""
    databases = [own_copy(root / f"{number}", root) for number in range(50)]
    with selfheald.daemon(root, WATCH__RESCAN=0.3, WATCH__HEAL="never", WATCH__MIN_INTERVAL=0.1, **settings) as daemon:
        wait_for(lambda: len(daemon.log_lines("checked")) >= len(databases), what=daemon.told)
        rescans(root, 5)
        read = Counter(str(line["database"]) for line in daemon.log_lines("checked"))
        forged = databases[0].with_name(f"{NAME}.ready")
        forged.write_text("{}")
        wait_for(lambda: not forged.exists(), what=daemon.told)
        own_copy(databases[1].parent, root)
        wait_for(lambda: len(daemon.log_lines("checked", databases[1])) >= 2, what=daemon.told)
    more = sum(times > 1 for times in read.values())
    figures.tell(6, "databases left alone, read once in five scans", tried=50, survived=50 - more, wrong=more)
    assert set(read) == set(map(str, databases))
    assert more == 0


def put(folder: Path, content: bytes) -> Path:
    """A database with this content in the folder, in place of the one that is there, from one moment to the next."""
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / ".draft"
    draft.write_bytes(content)
    return draft.rename(folder / NAME)


def own_copy(folder: Path, root: Path) -> Path:
    """A database that lacks all that is required; the first one serves as the pattern."""
    pattern = root.parent / "pattern"
    if not pattern.exists():
        own_database(pattern)
    return put(folder, (pattern / NAME).read_bytes())


def wait_until_all_marked(databases: list[Path]) -> None:
    """Wait until each has a marker about the file as it is; for a busy machine a second for every ten.

    One by one: to look at all of them again and again would be a load of its own.
    """
    left = list(databases)

    def none_left() -> bool:
        while left and valid_marker(left[-1]) is not None:
            left.pop()
        return not left

    wait_for(none_left, DEADLINE + len(databases) / 10, lambda: f"{len(left)} left, such as {left[-1]}")


def quiet_after(daemon: Daemon) -> None:
    """Wait until the daemon does nothing: hardly any processor time in a whole window."""
    last = [(time.monotonic(), cpu_seconds(daemon.pid))]

    def is_quiet() -> bool:
        now = time.monotonic()
        if now - last[0][0] < WINDOW:
            return False
        used, last[0] = cpu_seconds(daemon.pid) - last[0][1], (now, cpu_seconds(daemon.pid))
        return used < QUIET

    wait_for(is_quiet, what=daemon.told)


def rescans(root: Path, number: int) -> None:
    """Wait until so many more scans have ended: each proves its watch by writing a file."""
    probe = root / ".selfheald" / PROBE
    for _ in range(number):
        before = file_identity(probe)
        wait_for(lambda before=before: file_identity(probe) != before)  # type: ignore[misc]


def megabytes(pid: int) -> float:
    """The memory that a process has in use."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return round(int(line.split()[1]) / 1024, 1)


def closest_checks(daemon: Daemon) -> float:
    """The least number of seconds between the beginnings of two checks of one database that nobody asked for."""
    asked = {line["database"] for line in daemon.log_lines("request")}
    begun: defaultdict[str, list[float]] = defaultdict(list)
    for line in daemon.log_lines("checked"):
        if line["database"] not in asked:
            begun[line["database"]].append(datetime.fromisoformat(line["started_at"]).timestamp())
    gaps = [later - earlier for times in begun.values() for earlier, later in pairwise(times)]
    return min(gaps, default=float("inf"))


@contextmanager
def restless_simulator(database: Path, folder: Path) -> Iterator[Callable[[str], None]]:
    """The process of :mod:`promises.restless`, and what tells it to go or to rest."""
    memory = folder / "phases"
    memory.write_bytes(bytes(8))
    command = [sys.executable, str(RESTLESS), str(database), str(memory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def tell(word: str) -> None:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f"{word}\n")
            process.stdin.flush()
            assert process.stdout.readline().startswith("done"), "the simulator has died"

        try:
            yield tell
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(DEADLINE) == 0
        finally:
            with suppress(OSError):
                process.kill()


@contextmanager
def watched_marker(database: Path, folder: Path) -> Iterator[Counter[str]]:
    """Look at the marker all the time: valid although a table was gone before the look and after it is a lie."""
    memory, seen, done = restless.shared(folder / "phases"), Counter[str](), threading.Event()

    def look() -> None:
        while not done.wait(0.001):
            before = restless.counter(memory)
            valid = valid_marker(database) is not None
            gone = before == restless.counter(memory) and before % 4 == restless.GONE
            seen["looks"] += 1
            seen["valid"] += valid
            seen["gone"] += gone
            seen["lies"] += valid and gone

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()
        memory.close()
