"""A machine that systemd has booted, as a test holds it: private namespaces, a root of its own, the host's ``/usr``.

Nothing of it stays: no process, no mount, no cgroup, no changed parameter of the kernel. Limits on memory, tasks and
processor time are not enforced in there.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path, PurePath
from types import TracebackType
from typing import Any, Self

from fixtures.waiting import DEADLINE, wait_for

_BOOT = Path(__file__).with_name("boot.sh")
_SYSTEMD = Path("/lib/systemd/systemd")
_TOOLS = ("unshare", "nsenter", "setpriv", "runuser", "systemctl", "journalctl", "dbus-daemon")
_ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "SYSTEMD_PAGER": "",
    "SYSTEMD_COLORS": "0",
    "SYSTEMD_URLIFY": "0",
}

Done = subprocess.CompletedProcess[str]
Entry = dict[str, Any]


def hindrance() -> str | None:
    """Why this machine can boot none, in plain words."""
    if os.geteuid() != 0:
        return "only root can boot a systemd of its own"
    if not _SYSTEMD.exists():
        return f"there is no systemd: {_SYSTEMD}"
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    cgroups = _cgroups()
    if cgroups is None:
        return "cgroup2 is not mounted"
    if not os.access(cgroups, os.W_OK) or os.statvfs(cgroups).f_flag & os.ST_RDONLY:
        return f"cgroup2 is read-only: {cgroups}"
    tried = subprocess.run(
        "unshare --mount --pid --cgroup --net --ipc --uts --fork mount -t tmpfs tried /tmp".split(),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    return f"no namespaces can be had: {tried.stderr.strip()}" if tried.returncode else None


class Machine:
    """It boots when made; to be used as a context manager. ``shown`` says what of the host is seen where, read-only."""

    def __init__(self, shown: Mapping[Path, str]) -> None:
        cgroups = _cgroups()
        assert cgroups is not None
        _sweep(cgroups)
        self._cgroup = cgroups / f"selfheald-test-{os.getpid()}-{time.monotonic_ns()}"
        self._folder = Path(tempfile.mkdtemp(prefix="machine-"))
        (self._folder / "root").mkdir()
        binds = [f"{source}:{target}" for source, target in shown.items()]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                ["bash", _BOOT, self._cgroup, self._folder / "root", *binds],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            self._pid = wait_for(self._first_process, what=self._log.read_text)
            wait_for(self._is_up, what=self._log.read_text)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Switch it off: its first process dies, and with it all others."""
        self._process.kill()
        self._process.wait(DEADLINE)
        with suppress(OSError):
            (self._cgroup / "cgroup.kill").write_text("1")
        _remove(self._cgroup)
        shutil.rmtree(self._folder)

    def path(self, inside: str | PurePath) -> Path:
        """A path of the machine's as the test reaches it."""
        return Path(f"/proc/{self._pid}/root{inside}")

    def run(
        self,
        *arguments: object,
        user: str | None = None,
        umask: int = 0o022,
        env: Mapping[str, str] | None = None,
        timeout: float = DEADLINE,
    ) -> Done:
        """A command in there, from start to end. As root, unless a user is named."""
        return subprocess.run(
            self.command(*arguments, user=user, umask=umask, env=env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def ok(self, *arguments: object, **options: Any) -> str:
        """What a command prints that must end with 0."""
        done = self.run(*arguments, **options)
        assert done.returncode == 0, (arguments, done.returncode, done.stdout, done.stderr)
        return done.stdout

    def command(
        self,
        *arguments: object,
        user: str | None = None,
        umask: int = 0o022,
        env: Mapping[str, str] | None = None,
    ) -> list[str]:
        """The host's command line that runs one in there."""
        environment = _ENVIRONMENT | dict(env or {})
        changed: Sequence[str] = [] if user is None else ["runuser", "-u", user, "--"]
        return [
            *("nsenter", "-t", str(self._pid), "-m", "-p", "-n", "-i", "-u", "-C", "--"),
            *("env", "-i", *(f"{name}={value}" for name, value in environment.items())),
            *changed,
            *("sh", "-c", f'cd / && umask {umask:03o} && exec "$@"', "sh"),
            *map(str, arguments),
        ]

    def shows(self, unit: str, name: str, *options: str) -> str:
        """One property of a unit."""
        return self.ok("systemctl", *options, "show", unit, "--property", name, "--value").strip()

    def journal(self, *match: str) -> list[Entry]:
        """The journal's entries so far, such as those of ``--unit=NAME``; each with its fields."""
        self.ok("journalctl", "--sync")
        lines = self.ok("journalctl", "--no-pager", "--output=json", *match).splitlines()
        return [json.loads(line) for line in lines]

    @property
    def _log(self) -> Path:
        return self._folder / "log"

    def _first_process(self) -> int | None:
        """systemd, once it is that."""
        outside = self._process.pid
        assert self._process.poll() is None, self._log.read_text()
        with suppress(OSError):
            for pid in Path(f"/proc/{outside}/task/{outside}/children").read_text().split():
                if Path(f"/proc/{pid}/comm").read_text() == "systemd\n":
                    return int(pid)
        return None

    def _is_up(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()
        return self.run("systemctl", "is-active", "multi-user.target").returncode == 0


def _cgroups() -> Path | None:
    """Where cgroup2 is mounted."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, folder, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(folder)
    return None


def _sweep(cgroups: Path) -> None:
    """Remove what tests have left that were killed."""
    for cgroup in cgroups.glob("selfheald-test-*"):
        maker = cgroup.name.split("-")[2]
        if not Path("/proc", maker).exists() and "populated 0" in (cgroup / "cgroup.events").read_text():
            _remove(cgroup)


def _remove(cgroup: Path) -> None:
    """A cgroup goes once its last process is gone, the inner ones first."""
    for folder, _, _ in os.walk(cgroup, topdown=False):
        wait_for(partial(_removed, Path(folder)), what=folder)


def _removed(cgroup: Path) -> bool:
    with suppress(OSError):
        cgroup.rmdir()
    return not cgroup.exists()
