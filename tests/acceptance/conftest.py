"""What the acceptance tests share: one state folder (so that dbt reads the project once) and one finished database."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fixtures.waiting import DEADLINE
from processes import EXAMPLES, NAME, Daemon, Selfheald
from reloads import Reloaded
from service_manager import Manager

Copied = Callable[[Path], Path]

ROOT = Path(__file__).parents[2]
NOBODY = ["--reuid=65534", "--regid=65534", "--clear-groups"]

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Shells start background jobs so, and what is ignored is inherited: Ctrl-C could not be tested then.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory, census: Path) -> dict[str, str]:
    """An environment in which nothing points out of the tests' own folder, and databases are made with a census."""
    home = tmp_path_factory.mktemp("home")
    theirs = ("DATABASE_PATH", "NO_COLOR", "TERM", "COLUMNS", "LINES")  # readline sets the last two, wherever it is
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SELFHEALD_", "XDG_", "DBT_")) and name not in theirs
    }
    return inherited | {
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / "config"),
        "XDG_CACHE_HOME": str(home / "cache"),
        "XDG_DATA_HOME": str(home / "data"),
        "XDG_STATE_HOME": str(home / "state"),
        "SELFHEALD_STATE_DIR": str(home / "selfheald"),
        "SELFHEALD_LOG__FILE": str(home / "selfheald.log"),
        "SELFHEALD_TEMPLATES__MODE": "off",  # what dbt does is what most tests are about
        "SELFHEALD_DBT__VARS": json.dumps({"census_parquet_path": str(census)}),
    }


@pytest.fixture
def selfheald(tmp_path: Path, environment: dict[str, str]) -> Selfheald:
    """Starts daemons and commands; whatever they write apart from databases' folders is below ``folder``."""
    return Selfheald(_made(tmp_path / "selfheald"), environment)


@pytest.fixture(scope="module")
def shared_selfheald(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Selfheald:
    """As ``selfheald``, for a daemon that the tests of a module share."""
    return Selfheald(tmp_path_factory.mktemp("selfheald"), environment)


@pytest.fixture(scope="module")
def shared_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that ``daemon`` watches."""
    return tmp_path_factory.mktemp("root")


@pytest.fixture(scope="module")
def daemon(shared_selfheald: Selfheald, shared_root: Path) -> Iterator[Daemon]:
    """The daemon of all tests of a module that have a workspace of their own. It hardly scans: events must do."""
    with shared_selfheald.daemon(shared_root) as daemon:
        yield daemon


@pytest.fixture
def workspace(daemon: Daemon, shared_root: Path, request: pytest.FixtureRequest) -> Path:
    """An empty folder for one test, in the root that ``daemon`` watches."""
    return _made(shared_root / str(request.node.name))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An empty folder to be watched."""
    return _made(tmp_path / "root")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Path:
    """A complete database, made by ``selfheald ensure`` from a census. Not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    Selfheald(folder, environment).ok("ensure", folder)
    return folder / NAME


@pytest.fixture(scope="session")
def complete(finished: Path) -> Copied:
    """Put a copy of the finished database, and nothing else, into a folder, which is made if it is not there."""

    def copy(folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        draft = folder.parent / f".{folder.name}.copy"
        shutil.copyfile(finished, draft)
        return draft.rename(folder / NAME)

    return copy


@pytest.fixture(scope="session")
def census(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A census of 500 employees."""
    path = tmp_path_factory.mktemp("census") / "census.parquet"
    script = EXAMPLES / "make_census.py"
    subprocess.run([sys.executable, str(script), str(path), "--employees", "500"], check=True, timeout=DEADLINE)
    return path


@pytest.fixture
def nobody() -> tuple[list[str], dict[str, str]]:
    """The beginning of a command line by which somebody else runs selfheald, and what it needs in the environment."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root can become somebody else, by setpriv")
    packages = os.pathsep.join([str(ROOT), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    own = Path(sys.executable).name
    shared = shutil.which(f"python{sys.version_info.major}.{sys.version_info.minor}", path="/usr/bin:/usr/local/bin")
    for python in [sys.executable, shared or own]:
        # Once more from a shell: what root executes right after setpriv, root's own rights open.
        prefix = ["setpriv", *NOBODY, "sh", "-c", 'exec "$0" "$@"', python]
        environment = {} if python == sys.executable else {"PYTHONPATH": packages}
        tried = subprocess.run(
            [*prefix, "-c", "import selfheald.cli, dbt.version, duckdb"],
            env=os.environ | environment, capture_output=True, timeout=DEADLINE, check=False,
        )  # fmt: skip
        if tried.returncode == 0:
            return [*prefix, "-m", "selfheald"], environment
    pytest.skip("nobody else may run this Python, or read this folder")


@pytest.fixture
def reloaded(selfheald: Selfheald, tmp_path: Path) -> Iterator[Reloaded]:
    with Manager(tmp_path) as manager:
        made = Reloaded(selfheald, tmp_path, manager)
        yield made
        if made.daemon.process is not None and made.daemon.process.poll() is None:
            made.daemon.kill()


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
