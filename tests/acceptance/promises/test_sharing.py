"""A workspace that several users share: it works, or says exactly which commands make it work."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fixtures.waiting import DEADLINE, wait_for
from processes import NAME, Selfheald
from projects import copy_project, two_lines

ROOT = Path(__file__).parents[3]
#: Ids that no account has.
ANALYST, DAEMON, SHARED = 64101, 64102, 64100

pytestmark = pytest.mark.promise(8, 9)

_OPEN = "import duckdb, sys; duckdb.connect(sys.argv[1]).execute('create table own as select 1')"


class Users:
    """Runs Python as an analyst or as the daemon's user: both are in the group ``SHARED``, and in one of their own."""

    def __init__(self, python: str, environment: dict[str, str]) -> None:
        self.python = python
        self.environment = environment

    def command(self, user: int, *arguments: object, umask: str = "022") -> list[str]:
        """A command line by which a user runs Python."""
        become = ["setpriv", f"--reuid={user}", f"--regid={user}", f"--groups={user},{SHARED}"]
        # Once more from a shell: what root executes right after setpriv, root's own rights open.
        return [*become, "sh", "-c", f'umask {umask}; exec "$0" "$@"', self.python, *map(str, arguments)]

    def run(self, user: int, *arguments: object, umask: str = "022") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(user, *arguments, umask=umask),
            env=self.environment, cwd="/", capture_output=True, text=True, timeout=DEADLINE, check=False,
        )  # fmt: skip


@pytest.fixture
def shared(environment: dict[str, str]) -> Iterator[Path]:
    """A folder that both find, with a root of the group, a project, and a home for what the daemon keeps."""
    folder = Path(tempfile.mkdtemp(prefix="selfheald-test-", dir=os.path.realpath(tempfile.gettempdir())))
    folder.chmod(0o755)
    for name in ("root", "home"):
        (folder / name).mkdir()
        os.chown(folder / name, DAEMON, SHARED)
        (folder / name).chmod(0o2775)
    copy_project(folder / "project")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def users(shared: Path, environment: dict[str, str]) -> Users:
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root can become somebody else, by setpriv")
    packages = os.pathsep.join([str(ROOT), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    home = shared / "home"
    own = {
        "HOME": str(home),
        "SELFHEALD_STATE_DIR": str(home / "state"),
        "SELFHEALD_LOG__FILE": "",
        "SELFHEALD_LOG__JSON": "true",
        "SELFHEALD_DBT__PROJECT_DIR": str(shared / "project"),
        "SELFHEALD_DBT__VARS": "{}",
        "SELFHEALD_RETRY__BASE": "0.2",
    }
    for python in filter(None, (sys.executable, shutil.which(name, path="/usr/bin:/usr/local/bin"))):
        path = {} if python == sys.executable else {"PYTHONPATH": packages}
        tried = Users(python, environment | own | path)
        if tried.run(ANALYST, "-c", "import selfheald.cli, dbt.version, duckdb").returncode == 0:
            return tried
    pytest.skip("nobody else may run this Python, or read this folder")


@contextmanager
def daemon_of(users: Users, root: Path, folder: Path, umask: str) -> Iterator[Path]:
    """The daemon of its own user, ready; its log."""
    log = folder / "stderr"
    with log.open("wb") as stderr:
        arguments = users.command(DAEMON, "-m", "selfheald", "run", root, umask=umask)
        process = subprocess.Popen(arguments, env=users.environment, cwd="/", stderr=stderr)
    try:
        wait_for(lambda: "daemon_ready" in log.read_text(), what=log.read_text)
        yield log
    finally:
        process.terminate()
        assert process.wait(DEADLINE) == 0
    assert "Traceback" not in log.read_text()


def make(users: Users, workspace: Path, umask: str) -> None:
    """The analyst makes a workspace."""
    made = users.run(ANALYST, "-c", "import os, sys; os.mkdir(sys.argv[1])", workspace, umask=umask)
    assert made.returncode == 0, made.stderr


def follow(users: Users, hint: str) -> None:
    """The analyst does what the hint says, to the letter."""
    assert "use it: " in hint, hint
    for line in hint.partition("use it: ")[2].split("; "):
        words = shlex.split(line)
        assert words[0] in ("chmod", "chgrp"), hint
        become = ["setpriv", f"--reuid={ANALYST}", f"--regid={ANALYST}", f"--groups={ANALYST},{SHARED}"]
        done = subprocess.run([*become, *words], capture_output=True, text=True, timeout=DEADLINE, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("umask", ["022", "077"])
def test_a_workspace_of_the_group(umask: str, users: Users, shared: Path) -> None:
    """Whatever the daemon's umask is, and the analyst's: the simulator can read the marker and write the database."""
    workspace = shared / "root" / "alpha"
    make(users, workspace, "002")
    with daemon_of(users, shared / "root", shared, umask):
        waited = users.run(ANALYST, "-m", "selfheald", "wait", workspace, umask=umask)
        assert waited.returncode == 0, waited.stderr
        opened = users.run(ANALYST, "-c", _OPEN, workspace / NAME, umask=umask)
        assert opened.returncode == 0, opened.stderr
        again = users.run(ANALYST, "-m", "selfheald", "wait", workspace, umask=umask)
        assert again.returncode == 0, again.stderr
    assert (workspace / NAME).stat().st_gid == SHARED
    assert (workspace / NAME).stat().st_uid == DAEMON


def test_a_workspace_that_the_daemon_may_not_use(users: Users, shared: Path) -> None:
    """An analyst's umask has shut the daemon out; the hint is done to the letter, and then it works."""
    workspace = shared / "root" / "private one"
    make(users, workspace, "077")
    with daemon_of(users, shared / "root", shared, "022"):
        waited = users.run(ANALYST, "-m", "selfheald", "wait", workspace, umask="077")
        assert waited.returncode == 1, waited.stderr
        error, hint = two_lines(waited.stderr)
        assert error.startswith("error[permission_denied]: ")
        assert not (workspace / ".selfheald").exists()
        follow(users, hint)
        waited = users.run(ANALYST, "-m", "selfheald", "wait", workspace, umask="077")
        assert waited.returncode == 0, waited.stderr


def test_a_database_that_the_daemon_may_not_read(users: Users, shared: Path, selfheald: Selfheald) -> None:
    workspace = shared / "root" / "beta"
    make(users, workspace, "002")
    made = users.run(ANALYST, "-c", _OPEN, workspace / NAME, umask="077")
    assert made.returncode == 0, made.stderr
    with daemon_of(users, shared / "root", shared, "022"):
        waited = users.run(ANALYST, "-m", "selfheald", "wait", workspace)
        assert waited.returncode == 1, waited.stderr
        error, hint = two_lines(waited.stderr)
        assert error.startswith("error[permission_denied]: ")
        assert str(workspace / NAME) in hint
        follow(users, hint)
        waited = users.run(ANALYST, "-m", "selfheald", "wait", workspace)
        assert waited.returncode == 0, waited.stderr
    assert (workspace / NAME).stat().st_uid == ANALYST
