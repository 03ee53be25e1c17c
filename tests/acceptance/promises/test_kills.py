"""Promises 1, 3, 4 and 5: ``kill -9`` of the daemon, of its children and of both, at any instant of an initialization.

A failure tells its seed: ``SELFHEALD_KILLS_SEED`` brings the same databases, moments and victims about again.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from fixtures.figures import Figures, scaled
from fixtures.processes import pinned_python
from fixtures.waiting import DEADLINE, wait_for
from killing import TOKEN, Digests, Finding, Site, Tally, choose_moment, copy_family, is_up
from processes import NAME, Selfheald, digests, wait_until_marked
from projects import copy_project

from selfheald.client import drop_request, read_record, valid_marker

NEW = frozenset({"regions", "fct_headcount", "dim_regions"})
LANES = 2
#: Findings after which a lane gives up.
ENOUGH = 3

_EXECUTE = """
import duckdb, os, sys
connection = duckdb.connect(sys.argv[1])
connection.execute(sys.argv[2])
if sys.argv[3] == "closed":
    connection.execute("checkpoint")
    connection.close()
os._exit(0)
"""
_NOTES = "create table notes as select range as id, 'note ' || range as text from range(5000);"
#: A seed as a user has edited it.
_REGIONS = """
create table regions (region_code varchar, region_name varchar, headcount integer);
insert into regions values ('01', 'North', 121), ('02', 'South, and islands', 80);
"""
_MORE = "insert into regions values ('04', 'Far East', 7); insert into notes values (-1, 'the last one');"


@dataclass(frozen=True)
class Case:
    """How a database is before: a template to copy, or ``None`` where there is none.

    ``begin`` makes it need an initialization once it lies in the root; ``never`` are moments that don't come to it.
    """

    name: str
    template: Path | None
    before: Digests
    after: Digests
    never: frozenset[str]
    begin: Callable[[Path], str | None] = lambda database: None


@dataclass(frozen=True)
class Kit:
    """What the lanes of one DuckDB share. ``duration`` is that of an undisturbed initialization, in seconds."""

    cases: tuple[Case, ...]
    settings: dict[str, Any]
    state_dir: Path
    python: str
    duration: float


def execute(python: str, database: Path, sql: str, *, closed: bool = True) -> None:
    """Run SQL as a simulator would, with the DuckDB of ``python``; not ``closed``, it leaves its WAL behind."""
    how = "closed" if closed else "left"
    subprocess.run([python, "-c", _EXECUTE, str(database), sql, how], check=True, timeout=DEADLINE)


@pytest.fixture(scope="module", params=["newest", pytest.param("pinned", marks=pytest.mark.pinned)])
def kit(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Kit:
    """The cases, and what undisturbed initializations make of them."""
    python = sys.executable if request.param == "newest" else pinned_python()
    folder = tmp_path_factory.mktemp(request.param)
    state_dir = folder / "state"
    settings = {
        "STATE_DIR": str(state_dir),
        "DBT__PROJECT_DIR": str(copy_project(folder / "project")),
        "DBT__PYTHON": python,
        "WATCH__SETTLE": 0.05,
        "WATCH__MIN_INTERVAL": 0.05,
        "RETRY__BASE": 0.05,
        "RETRY__MAX": 0.2,
        "RETRY__ATTEMPTS": 1000,
    }
    bare, graft, logged = (_made(folder / name) / NAME for name in ("bare", "graft", "logged"))
    execute(python, bare, _NOTES)
    execute(python, graft, _NOTES + _REGIONS + _MORE)
    execute(python, logged, _NOTES + _REGIONS)
    execute(python, logged, _MORE, closed=False)
    assert logged.with_name(f"{NAME}.wal").stat().st_size > 0

    root = _made(folder / "root")
    undisturbed = []
    with Selfheald(folder, environment).daemon(root, **settings):
        for template in (bare, graft):
            workspace = _made(root / template.parent.name)
            began = time.monotonic()
            copied = copy_family(template, workspace)
            assert copied is not None
            wait_until_marked(copied)
            undisturbed.append(copied)
    duration = time.monotonic() - began
    of_bare, of_graft = map(_digests, undisturbed)
    assert set(of_bare) == set(of_graft) == NEW | {"notes"}
    new = {name: of_bare[name] for name in NEW}
    created = frozenset({"unmarked", "taken", "copying child", "log"})
    grafted = frozenset({"unmarked", "taken", "publish folder"})
    built = grafted | {"load_seeds"}
    empty = _made(folder / "empty") / NAME
    empty.touch()

    def drop(database: Path) -> None:
        wait_until_marked(database)
        execute(python, database, "drop table dim_regions")

    without = {name: digest for name, digest in of_graft.items() if name != "dim_regions"}
    cases = (
        Case("absent", None, {}, new, created - {"taken"}, drop_request),
        Case("empty", empty, {}, new, created),
        Case("bare", bare, _digests(bare), of_bare, grafted | {"copying child"}),
        Case("graft", graft, _digests(graft), of_graft, built),
        Case("logged", logged, _digests(logged), of_graft, built),
        Case("dropped", undisturbed[1], without, of_graft, built - {"unmarked"}, drop),
    )
    return Kit(cases, settings, state_dir, python, duration)


@pytest.mark.promise(4)
@pytest.mark.soak
@pytest.mark.timeout(scaled(600, 3600))
def test_kills_at_any_instant(kit: Kit, tmp_path: Path, environment: dict[str, str], figures: Figures) -> None:
    """Two daemons, each with a database after the other; the kills are spread over what an initialization takes."""
    pinned = kit.python != sys.executable
    what = f"kill -9 at any instant of an initialization, DuckDB {'1.0.0' if pinned else '2.0.0'}"
    _kill(kit, what, scaled(16, 170) if pinned else scaled(34, 330), tmp_path, environment, figures)


#: What is not seen of a database that is made from a template: no child does it, and no step lasts.
_NOT_OF_COPIES = frozenset(
    {"copying child", "building child", "load_seeds", "build_foundation", "verify", "publish", "log"}
)


@pytest.mark.promise(4)
@pytest.mark.soak
@pytest.mark.timeout(scaled(600, 3600))
def test_kills_while_templates_are_copied(
    kit: Kit, tmp_path: Path, environment: dict[str, str], figures: Figures
) -> None:
    """As above, where dbt is not needed any more: what is killed is the copying, and the daemon's own publishing."""
    settings = kit.settings | {"TEMPLATES__MODE": "on", "TEMPLATES__DIR": str(tmp_path / "templates")}
    first = _made(tmp_path / "first")
    Selfheald(tmp_path, environment).ok("ensure", first, **settings)
    cases = tuple(
        replace(case, never=case.never | _NOT_OF_COPIES | (frozenset() if case.before else {"publishing child"}))
        for case in kit.cases
        if case.name in ("absent", "empty", "bare")
    )
    copies = replace(kit, cases=cases, settings=settings, duration=0.3)
    pinned = kit.python != sys.executable
    what = f"kill -9 while a template is used, DuckDB {'1.0.0' if pinned else '2.0.0'}"
    _kill(copies, what, scaled(4, 60) if pinned else scaled(12, 200), tmp_path, environment, figures)
    made = [read_record(path) or {} for path in tmp_path.glob(f"lane*/*/*/{NAME}.ready")]
    assert made
    # A daemon that is killed between link and marker finds a finished database.
    assert {record["origin"] for record in made} <= {"template", "adopted"}


def _kill(kit: Kit, what: str, wanted: int, tmp_path: Path, environment: dict[str, str], figures: Figures) -> None:
    seed = int(os.environ.get("SELFHEALD_KILLS_SEED") or random.randrange(1_000_000))
    print("SELFHEALD_KILLS_SEED =", seed)
    with ThreadPoolExecutor(LANES) as pool:
        lanes = [
            pool.submit(_lane, kit, _made(tmp_path / f"lane{lane}"), environment, f"{seed}-{lane}", wanted // LANES)
            for lane in range(LANES)
        ]
        tallies = [lane.result() for lane in lanes]

    findings = [finding for tally in tallies for finding in tally.findings]
    killed = sum(tally.killed for tally in tallies)
    whom = _sum(tally.kills for tally in tallies)
    life = max(tally.longest_life for tally in tallies)
    _tell(figures, 4, f"{what}: none or all of the new tables", killed, findings, f"{whom}; seed {seed}")
    _tell(figures, 1, f"{what}: markers looked at", sum(tally.markers for tally in tallies), findings)
    _tell(figures, 3, f"{what}: existing tables compared", sum(tally.tables for tally in tallies), findings)
    orphaned = killed - sum(tally.kills.get(whom, 0) for whom in ("child", "host") for tally in tallies)
    _tell(figures, 5, f"{what}: children gone", orphaned, findings, f"the last one {life:.2f} s after its daemon")
    print(_sum(tally.moments for tally in tallies))
    assert not findings, "\n".join(f"promise {each.promise}: {each.text}" for each in findings)
    assert killed >= wanted
    assert len([tally for tally in tallies if tally.markers]) == LANES


def _lane(kit: Kit, folder: Path, environment: dict[str, str], seed: str, wanted: int) -> Tally:
    """A daemon of its own, killed until it has been killed often enough."""
    rng, tally = random.Random(seed), Tally()
    root, scratch = _made(folder / "root"), _made(folder / "scratch")
    daemon = Selfheald(folder, environment | {TOKEN: seed}).daemon(root, **kit.settings)
    with daemon:
        while tally.killed < wanted and len(tally.findings) < ENOUGH:
            case = rng.choice(kit.cases)
            database = root / f"{tally.databases:03}-{case.name}" / NAME
            tally.databases += 1
            story = [f"seed {seed}", f"database {tally.databases}: {case.name}"]
            site = Site(database, daemon, seed, case.before, case.after, scratch, tally, story)
            try:
                _one_database(kit, case, site, rng)
            except AssertionError as error:
                site.find(4, f"it does not get there: {error}")
                assert daemon.process is not None
                if daemon.process.poll() is not None:
                    daemon.start()
    return tally


def _one_database(kit: Kit, case: Case, site: Site, rng: random.Random) -> None:
    """Kill up to four times until it is ready, then let it become so."""
    request = _bring(case, site.database)
    never = case.never
    with site.markers_watched():
        for _ in range(rng.choice((1, 2, 3, 4))):
            moment = choose_moment(site, rng, kit.duration, never)
            site.story.append(str(moment))
            if not moment.wait(limit=lambda: valid_marker(site.database) is not None):
                break
            site.tally.count(
                site.kill(rng.choice(("daemon", "child", "child", "host", "both", "both")), rng), moment.name
            )
            site.look()
            assert site.daemon.process is not None
            if site.daemon.process.returncode is not None:
                site.daemon.start(ready=rng.random() < 0.5)
            never = never | {"taken", "unmarked"}
        marker = wait_until_marked(site.database)
    if request is not None and marker["answers"] != request:
        site.find(1, f"the request {request} is not answered: {marker}")
    site.in_order(kit.state_dir)
    wait_for(lambda: is_up(site.daemon), what=site.daemon.told)


def _bring(case: Case, database: Path) -> str | None:
    """Put the database into the root, as a whole, and let it need its tables; the request's id, if there is one."""
    draft = database.parents[2] / database.parent.name
    draft.mkdir()
    if case.template is not None:
        for file in case.template.parent.glob(f"{NAME}*"):
            if file.name in (NAME, f"{NAME}.wal"):
                (draft / file.name).write_bytes(file.read_bytes())
    draft.rename(database.parent)
    return case.begin(database)


def _digests(database: Path) -> Digests:
    """Of a copy, so that a WAL stays where it is."""
    folder = _made(database.with_name("copy"))
    copy = copy_family(database, folder)
    assert copy is not None
    return digests(copy)


def _tell(figures: Figures, promise: int, what: str, tried: int, findings: list[Finding], note: str = "") -> None:
    mine = [finding for finding in findings if finding.promise == promise]
    lost = sum(finding.lost for finding in mine)
    figures.tell(promise, what, tried=tried, survived=tried - len(mine), lost=lost, wrong=len(mine) - lost, note=note)


def _sum(counts: Any) -> str:
    total: dict[str, int] = {}
    for count in counts:
        for name, number in count.items():
            total[name] = total.get(name, 0) + number
    return ", ".join(f"{name} {number}" for name, number in sorted(total.items()))


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
