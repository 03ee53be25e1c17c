"""Namespaces of the kernel's in which a test may mount, and lower limits, without the machine taking part in it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fixtures.waiting import DEADLINE, wait_for
from processes import Daemon, Selfheald


class Shell:
    """A shell in namespaces of its own."""

    def __init__(self, process: subprocess.Popen[str], flags: str) -> None:
        self.pid = process.pid
        user = ["--preserve-credentials"] if "U" in flags else []
        #: What must stand before a command that is to run there.
        self.enter = ["nsenter", "-t", str(process.pid), f"-{flags.removesuffix('r')}", *user]
        self._process = process

    def run(self, command: str) -> None:
        """Run a command there; it must succeed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{{ {command}; }} </dev/null >&2; echo $?\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "0\n", command

    def limit(self, what: str, number: int) -> None:
        """How many ``inotify_watches`` or ``inotify_instances`` a user may have there."""
        self.run(f"echo {number} > /proc/sys/user/max_{what}")


@contextmanager
def namespaces(flags: str) -> Iterator[Shell]:
    """A shell in new namespaces: ``m`` for mounts, ``Ur`` for limits of a user's. Skips where there are none."""
    try:
        subprocess.run(["unshare", f"-{flags}", "true"], check=True, capture_output=True, timeout=DEADLINE)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no namespaces of one's own can be had here")
    if shutil.which("nsenter") is None:
        pytest.skip("there is no nsenter")
    with subprocess.Popen(
        ["unshare", f"-{flags}", "sh"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            shell = Shell(process, flags)
            shell.run("true")
            yield shell
        finally:
            process.kill()


@contextmanager
def daemon_in(shell: Shell, selfheald: Selfheald, root: Path, **settings: object) -> Iterator[Daemon]:
    """A daemon in the shell's namespaces, from READY to its end by SIGTERM."""
    daemon = selfheald.daemon(root, **settings)
    daemon.within = shell.enter
    daemon.start(ready=False)
    assert daemon.process is not None
    try:
        wait_for(lambda: daemon.log_lines("daemon_ready"), what=daemon.told)
        yield daemon
        daemon.stop()
    finally:
        if daemon.process.poll() is None:
            daemon.kill()
