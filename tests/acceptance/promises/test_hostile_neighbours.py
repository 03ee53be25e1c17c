"""Strangers who may write into a workspace: nothing outside of it is read or written, and the daemon goes on."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
from conftest import Copied
from fixtures.figures import SOAK, Figures
from fixtures.waiting import DEADLINE, wait_for
from processes import NAME, Daemon, Selfheald, change, members, rows, status, wait_until_marked
from projects import Fixed, copy_project, fixed, own_database

from selfheald.client import daemon_root, drop_request, valid_marker, wait_until_ready
from selfheald.errors import InitializationError

pytestmark = pytest.mark.promise(8)

#: Bytes: more than anybody would read in one piece.
HUGE = 1 << 40
SECRET = '{"format": 1, "id": "secret", "state": "ready", "initialized_at": "secret", "origin": "dbt"}\n'


class Victim:
    """A folder outside of the roots, with what somebody would like to read or to see destroyed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "file"
        (folder / "below").mkdir(parents=True)
        self.file.write_text(SECRET)
        own_database(folder)
        (folder / "staging-x").mkdir()
        (folder / "staging-x" / "file").write_text(SECRET)
        self._before = self._now()

    def is_whole(self) -> bool:
        """Nothing was added, removed or written; a further name, as the hostile link is, may have been."""
        return self._now() == self._before

    def _now(self) -> dict[str, Fixed]:
        return {str(path.relative_to(self.folder)): fixed(path) for path in sorted(self.folder.rglob("*"))}


def _link_to_file(place: Path, victim: Victim) -> None:
    place.symlink_to(victim.file)


def _link_to_folder(place: Path, victim: Victim) -> None:
    place.symlink_to(victim.folder)


def _dangling(place: Path, victim: Victim) -> None:
    place.symlink_to(victim.folder / "not there")


def _hard_link(place: Path, victim: Victim) -> None:
    place.hardlink_to(victim.file)


def _folder(place: Path, victim: Victim) -> None:
    place.mkdir()
    (place / "something").touch()


def _pipe(place: Path, victim: Victim) -> None:
    os.mkfifo(place)


def _socket(place: Path, victim: Victim) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        here = Path.cwd()
        os.chdir(place.parent)  # the length of a socket's path is limited
        try:
            made.bind(place.name)
        finally:
            os.chdir(here)


def _huge(place: Path, victim: Victim) -> None:
    place.touch()
    os.truncate(place, HUGE)


KINDS = [_link_to_file, _link_to_folder, _dangling, _hard_link, _folder, _pipe, _socket, _huge]
#: What a check and its answer touch, relative to the workspace.
OF_CHECKS = [
    f"{NAME}.ready",
    ".selfheald",
    f".selfheald/{NAME}.status",
    f".selfheald/{NAME}.request",
    f".selfheald/.{NAME}.request.taken",
]
#: What an initialization touches besides.
OF_INITIALIZATIONS = [
    f".selfheald/{NAME}.lock",
    f".selfheald/{NAME}.history",
    ".selfheald/logs",
    ".selfheald/staging-x",
    f".selfheald/.{NAME}.status.0123456789ab.tmp",
]
#: Those of the second kind that are tried in a hurry; the others too in the long form.
CHOSEN = [(place, kind) for place in OF_INITIALIZATIONS[:4] for kind in (_link_to_folder, _hard_link)]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_project(tmp_path_factory.mktemp("project") / "own")


@pytest.fixture(scope="module")
def small(shared_selfheald: Selfheald, tmp_path_factory: pytest.TempPathFactory, project: Path) -> Iterator[Daemon]:
    """A daemon that initializes with the small project."""
    root = tmp_path_factory.mktemp("small")
    with shared_selfheald.daemon(root, DBT__PROJECT_DIR=str(project), RETRY__BASE=0.1, RETRY__ATTEMPTS=2) as daemon:
        yield daemon


@pytest.fixture
def victim(tmp_path: Path) -> Victim:
    return Victim(tmp_path / "victim")


def _outcome(database: Path) -> str:
    """``ready``, or the code of the error; within a limit, so that nobody is blocked."""
    try:
        wait_until_ready(database, timeout=DEADLINE)
    except InitializationError as error:
        return error.code if error.hint else "no hint"
    return "ready"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", OF_CHECKS, ids=["marker", "private", "status", "request", "taken"])
def test_what_stands_in_the_place_of_our_files(
    place: str, kind: Callable[[Path, Victim], None], daemon: Daemon, workspace: Path, complete: Copied, victim: Victim
) -> None:
    """Beside a complete database: it becomes ready all the same, or somebody is told what to remove."""
    path = workspace / place
    if path.parent != workspace:
        path.parent.mkdir()
    kind(path, victim)
    database = complete(workspace)
    outcome = _outcome(database)
    assert outcome in ("ready", "unsafe_path")
    assert (valid_marker(database) is not None) == (outcome == "ready")
    assert victim.is_whole()
    if outcome == "ready":
        assert "secret" not in database.with_name(f"{NAME}.ready").read_text()
    else:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
        assert _outcome(database) == "ready"
    neighbour = complete(workspace.with_name(f"{workspace.name}-neighbour"))
    wait_until_marked(neighbour)


@pytest.mark.soak
@pytest.mark.parametrize(
    ("place", "kind"), [(place, kind) for place in OF_INITIALIZATIONS for kind in KINDS] if SOAK else CHOSEN
)
def test_what_stands_in_the_way_of_an_initialization(
    place: str, kind: Callable[[Path, Victim], None], small: Daemon, tmp_path: Path, victim: Victim, request: Any
) -> None:
    workspace = small.roots[0] / request.node.name.replace("/", "-")
    path = workspace / place
    path.parent.mkdir(parents=True)
    kind(path, victim)
    database = workspace / NAME
    outcome = _outcome(database)
    assert outcome in ("ready", "unsafe_path")
    assert victim.is_whole()
    assert (valid_marker(database) is not None) == (outcome == "ready")
    if outcome != "ready":
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
        assert _outcome(database) == "ready"
    history = workspace / ".selfheald" / f"{NAME}.history"
    if not history.is_symlink() and history.is_file() and history.stat().st_nlink == 1:
        assert "secret" not in history.read_text()


@pytest.mark.parametrize("what", ["staging", "private", "workspace", "logs"])
def test_a_folder_that_is_swapped_for_a_link_while_dbt_runs(
    what: str, selfheald: Selfheald, root: Path, tmp_path: Path, project: Path
) -> None:
    """dbt, and who publishes, reach their folders by descriptors: they write where they were sent, or nowhere."""
    gate = tmp_path / "gate"
    slow = f"select count(*) from read_csv('{gate}', header = false)"
    os.mkfifo(gate)
    elsewhere = tmp_path / "elsewhere"
    own_database(elsewhere)
    (elsewhere / "work").mkdir()
    (elsewhere / "logs").mkdir()
    before = {str(path): fixed(path) for path in sorted(elsewhere.rglob("*"))}
    workspace = root / "workspace"
    workspace.mkdir()
    database = workspace / NAME
    with selfheald.daemon(root, DBT__PROJECT_DIR=str(project), DBT__PRE_SQL=slow, RETRY__ATTEMPTS=1) as daemon:
        drop_request(database)
        with gate.open("w") as writer:  # dbt's child has opened the other end: staging stands, nothing is built
            private = workspace / ".selfheald"
            (staging,) = private.glob("staging-*")
            swapped = {"staging": staging, "private": private, "workspace": workspace, "logs": private / "logs"}[what]
            swapped.rename(swapped.with_name("away"))
            swapped.symlink_to(elsewhere)
            writer.write("1\n")
        wait_for(lambda: daemon.log_lines("initialization_complete") or daemon.log_lines("initialization_failed"))
        wait_for(lambda: not [pid for pid in members(daemon.pid) if pid != daemon.pid])
        assert {str(path): fixed(path) for path in sorted(elsewhere.rglob("*"))} == before
    if what in ("staging", "logs"):
        assert valid_marker(database) is not None
        assert rows(database, "select count(*) from fct_headcount") != [(0,)]


def test_a_request_behind_a_link_is_none_of_ours(
    small: Daemon, tmp_path: Path, complete: Copied, figures: Figures
) -> None:
    """A linked workspace is not in the root, whatever its path says: nobody watches it, and nothing is made there."""
    outside = tmp_path / "outside"
    outside.mkdir()
    link = small.roots[0] / "link"
    link.symlink_to(outside)
    assert daemon_root(link / NAME) is None
    (outside / ".selfheald").mkdir()
    (outside / ".selfheald" / f"{NAME}.request").touch()
    before = fixed(outside / ".selfheald")
    with pytest.raises(InitializationError) as refused:
        wait_until_ready(link / NAME, timeout=DEADLINE)
    assert refused.value.code == "no_daemon"
    assert fixed(outside / ".selfheald") == before
    assert not (outside / NAME).exists()


def test_sql_of_the_database_is_never_run(small: Daemon, tmp_path: Path, figures: Figures) -> None:
    """Views under required names that would read a file, macros in the place of functions, views beside."""
    trap = tmp_path / "trap"
    os.mkfifo(trap)  # whoever opened it would wait for ever, and be seen by us
    kept = tmp_path / "other.duckdb"
    own_database(tmp_path / "other").rename(kept)
    workspace = small.roots[0] / "sql"
    workspace.mkdir()
    with duckdb.connect(str(tmp_path / "made.duckdb")) as connection:
        connection.execute("create table source as select 1 as region_code, 2 as x")
        connection.execute("create macro count(x) as error('run')")
        connection.execute("create macro lower(x) as error('run')")
        connection.execute(f"attach '{kept}' as other")
        connection.execute("create view beside as select * from other.notes")
        open_end = os.open(trap, os.O_RDWR)
        try:
            os.write(open_end, b"region_code\n1\n" * 100)
            connection.execute(
                f"create view regions as select * from read_csv('{trap}', auto_detect = false, "
                "columns = {'region_code': 'varchar'})"
            )
        finally:
            os.close(open_end)
    database = workspace / NAME
    (tmp_path / "made.duckdb").rename(database)
    held = fixed(database)
    assert _outcome(database) == "schema_mismatch"
    with pytest.raises(OSError, match="No such device"):  # nobody has opened the other end
        os.open(trap, os.O_WRONLY | os.O_NONBLOCK)
    assert fixed(database) == held
    change(database, "drop view regions")
    assert _outcome(database) == "ready"
    assert rows(database, "select * from source") == [(1, 2)]
    assert status(database).get("state") == "completed"


def test_the_daemon_is_not_blocked_by_any_of_it(small: Daemon, tmp_path: Path, figures: Figures) -> None:
    """Many hostile workspaces at once; one that is not hostile is served beside them."""
    root, tried = small.roots[0] / "many", 0
    victims = []
    for number, kind in enumerate(KINDS):
        for place in OF_CHECKS:
            victim = Victim(tmp_path / f"victim-{tried}")
            path = root / f"hostile-{tried}-{number}" / place
            path.parent.mkdir(parents=True)
            kind(path, victim)
            (path.parents[len(Path(place).parts) - 1] / NAME).touch()
            victims.append(victim)
            tried += 1
    (root / "honest").mkdir()
    assert _outcome(root / "honest" / NAME) == "ready"
    touched = [victim.folder for victim in victims if not victim.is_whole()]
    figures.tell(
        8, "hostile files in the place of ours, at once", tried=tried, survived=tried - len(touched), wrong=len(touched)
    )
    assert touched == []
