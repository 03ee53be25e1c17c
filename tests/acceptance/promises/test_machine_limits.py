"""Rights that are missing, processes that cannot be started, folders that are not there, for a plain user."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from faults import QUICK, ROUNDS, Site, calm, finished_in, given_up, healed, told
from fixtures.figures import Figures, scaled
from machine import as_user, limited, program_of
from processes import NAME, Selfheald, hosts
from projects import NOTES, tables, two_lines

from selfheald.client import marker_path, valid_marker

pytestmark = [pytest.mark.promise(6), pytest.mark.soak, pytest.mark.timeout(scaled(120, 900))]

#: A user whom nobody else is.
STRANGER = 64999


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder to which every user finds the way, and that belongs to one who may do nothing else."""
    prefix = as_user(STRANGER)
    assert prefix
    folder = Path(tempfile.mkdtemp(prefix="selfheald-test-", dir=os.path.realpath(tempfile.gettempdir())))
    folder.chmod(0o755)
    os.chown(folder, STRANGER, STRANGER)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def site(place: Path, environment: dict[str, str]) -> Iterator[Site]:
    """A daemon of a user without a home, who may write neither the state folder nor that of the log."""
    mine = {name: value for name, value in environment.items() if not name.startswith(("SELFHEALD_", "XDG_", "HOME"))}
    for name in ("root", "aside", "programs"):
        (place / name).mkdir()
        os.chown(place / name, STRANGER, STRANGER)
    closed = place / "closed"
    closed.mkdir()
    selfheald = Selfheald(place / "programs", mine | {"SELFHEALD_STATE_DIR": str(closed)}, as_user(STRANGER))
    finished = finished_in(place / "finished", Selfheald(place / "programs", environment))
    settings = QUICK | program_of(selfheald.prefix) | {"LOG__FILE": str(closed / "logs" / "log")}
    daemon = selfheald.daemon(place / "root", **settings)
    with daemon:
        yield Site(daemon, selfheald, place, finished)


@dataclass(frozen=True)
class Lack:
    """A right that is missing: how it is taken away from a database's folder or files, and given."""

    complete: bool
    take: Callable[[Path], None]
    give: Callable[[Path], None]
    #: True if a status can be written all the same.
    shown: bool


def _owned(*names: str, mode: int | None = None) -> Callable[[Path], None]:
    """Gives the paths below a folder to the stranger, or to root with a mode."""

    def change(folder: Path) -> None:
        for name in names:
            path = folder / name
            owner = STRANGER if mode is None else 0
            os.chown(path, owner, owner)
            path.chmod(mode if mode is not None else 0o755 if path.is_dir() else 0o644)

    return change


def _closed_private(folder: Path) -> None:
    (folder / ".selfheald").mkdir()
    _owned(".selfheald", mode=0o755)(folder)


LACKS = {
    "folder of a complete database not writable": Lack(True, _owned(".", mode=0o555), _owned("."), False),
    "folder of an incomplete database not writable": Lack(False, _owned(".", mode=0o555), _owned("."), False),
    ".selfheald not writable": Lack(False, _closed_private, _owned(".selfheald"), False),
    "database not readable": Lack(False, _owned(NAME, mode=0o600), _owned(NAME), True),
    "database not writable": Lack(False, _owned(NAME, mode=0o444), _owned(NAME), True),
}


@pytest.mark.parametrize("lack", LACKS.values(), ids=list(LACKS))
def test_a_right_that_is_missing(lack: Lack, site: Site, figures: Figures, request: pytest.FixtureRequest) -> None:
    """It is told, and nothing is touched; once it is given, all goes on by itself."""
    survived = 0
    name = request.node.callspec.id
    for number in range(ROUNDS):
        short = f"{list(LACKS).index(name)}-{number}"
        database = (site.complete if lack.complete else site.incomplete)(short)
        os.chown(database.parent, STRANGER, STRANGER)
        os.chown(database, STRANGER, STRANGER)
        lack.take(database.parent)
        database = site.show(database)
        line = told(site.daemon, database, "permission_denied")
        assert str(database.parent) in line["message"], line
        if lack.shown:
            given_up(database, "permission_denied", f"Let uid {STRANGER} use it: ch")
        asked = site.selfheald.run("wait", database, "--timeout", "20")
        assert asked.returncode == 1, asked.stderr
        error, _ = two_lines(asked.stderr)
        assert error.startswith("error[permission_denied]"), asked.stderr
        assert str(database.parent) in error
        calm(site.daemon)
        assert not marker_path(database).exists()
        assert NOTES <= tables(database)
        lack.give(database.parent)
        healed(database)
        survived += 1
    figures.tell(6, f"no permission: {name}", tried=ROUNDS, survived=survived)


def test_no_process_can_be_started(site: Site, figures: Figures) -> None:
    survived = 0
    for number in range(ROUNDS):
        databases = []
        with ExitStack() as limits:
            for pid in (site.daemon.pid, *hosts(site.daemon.pid)):  # a host has the limits that it began with
                limits.enter_context(limited(pid, "nproc", 1, as_user(STRANGER)))
            for make, name in ((site.complete, "complete"), (site.incomplete, "incomplete")):
                database = make(f"processes-{name}-{number}")
                os.chown(database.parent, STRANGER, STRANGER)
                os.chown(database, STRANGER, STRANGER)
                databases.append(site.show(database))
            told(site.daemon, databases[1], "interrupted")
            given_up(databases[1], "interrupted", "too many processes", "TasksMax=")
            calm(site.daemon)
            assert valid_marker(databases[0]) is not None
            assert tables(databases[1]) == NOTES
        for database in databases:
            healed(database)
        survived += 1
    figures.tell(6, "no more processes for the user", tried=ROUNDS, survived=survived)


def test_a_folder_above_the_root_that_is_closed(site: Site, place: Path, figures: Figures) -> None:
    """Its daemon sees nothing then, and lives; another is not begun there."""
    survived = 0
    for number in range(ROUNDS):
        databases = [site.complete(f"above-complete-{number}"), site.incomplete(f"above-incomplete-{number}")]
        for database in databases:
            os.chown(database.parent, STRANGER, STRANGER)
            os.chown(database, STRANGER, STRANGER)
        ready = site.show(databases[0])
        healed(ready)
        os.chown(place, 0, 0)
        place.chmod(0o700)
        try:
            later = site.show(databases[1])
            calm(site.daemon)
            assert valid_marker(ready) is not None
            refused = site.selfheald.run("run", site.root)
            assert refused.returncode == 1, refused.stderr
            error, _ = two_lines(refused.stderr)
            assert error.startswith("error[permission_denied]"), error
        finally:
            os.chown(place, STRANGER, STRANGER)
            place.chmod(0o755)
        healed(later)
        survived += 1
    figures.tell(6, "a folder above the root that is closed", tried=ROUNDS, survived=survived)
