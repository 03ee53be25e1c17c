"""A machine that fails: disks that fill up or turn read-only, limits that are reached, a clock that jumps.

Disks are small file systems of their own, mounted where nobody but this process and its children sees them.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

_CLONE_NEWNS = 0x00020000
MB = 1_000_000
#: Files that a disk has room for, unless that is changed.
MANY_FILES = 100_000

#: Moves the wall clock of a process, and no other of its clocks, by the seconds that a file holds.
_CLOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long offset(void) {
    char text[32] = {0};
    const char *path = getenv("CLOCK_OFFSET_FILE");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return 0;
    if (read(file, text, sizeof text - 1) < 0) text[0] = 0;
    close(file);
    return atol(text);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*original)(clockid_t, struct timespec *);
    if (!original) original = dlsym(RTLD_NEXT, "clock_gettime");
    int failed = original(clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += offset();
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *where) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (where) *where = exact.tv_sec;
    return exact.tv_sec;
}
"""


@contextmanager
def private_mounts() -> Iterator[None]:
    """What this thread mounts in the body is seen by it and by what it starts, and is gone afterwards."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("mounts a small disk of its own: needs Linux, and to be root")
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.unshare(_CLONE_NEWNS) != 0:
            pytest.skip(f"mounts a small disk of its own, which this system refuses: {os.strerror(ctypes.get_errno())}")
        _run("mount", "--make-rprivate", "/")
        try:
            yield
        finally:
            # Refused where a thread that began meanwhile shares our root: then the rest of the run stays here,
            # where all is as it was but for mounts that are gone.
            libc.setns(before, _CLONE_NEWNS)
    finally:
        os.close(before)


class Disk:
    """A file system in memory, of a size in bytes, mounted at ``path``."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        _run("mount", "-t", "tmpfs", "-o", f"size={size},nr_inodes={MANY_FILES},mode=0755", "tmpfs", path)

    @property
    def free(self) -> int:
        """Bytes that can still be written."""
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    @property
    def ballast(self) -> Path:
        """The file that takes the room, outside of every workspace."""
        return self.path / "ballast"

    def fill(self, leave: int = 0) -> None:
        """Take all room but ``leave`` bytes."""
        with self.ballast.open("ab") as file:
            with suppress(OSError):
                while self.free > leave:
                    file.write(bytes(min(1 << 20, self.free - leave)))
                    file.flush()

    def make_room(self) -> None:
        """Give back what was taken."""
        self.ballast.unlink(missing_ok=True)

    @contextmanager
    def full(self, leave: int = 0) -> Iterator[None]:
        """No room but ``leave`` bytes while the body runs."""
        self.fill(leave)
        try:
            yield
        finally:
            self.make_room()

    @contextmanager
    def no_files_left(self) -> Iterator[None]:
        """No room for a further file, folder or link while the body runs."""
        _run("mount", "-o", f"remount,nr_inodes={self.files}", self.path)
        try:
            yield
        finally:
            _run("mount", "-o", f"remount,nr_inodes={MANY_FILES}", self.path)

    @property
    def files(self) -> int:
        """How many files, folders and links there are."""
        found = os.statvfs(self.path)
        return found.f_files - found.f_ffree

    @contextmanager
    def read_only(self, folder: Path, moved_in: Iterable[Path]) -> Iterator[None]:
        """Nothing can be written in a folder of this disk by its path, not even by root, while the body runs.

        The kernel turns no file system read-only as long as a file of it is open for writing. So the folder is
        mounted over itself; what is to be in it when that begins is moved there at the last moment.
        """
        for each in moved_in:
            each.rename(folder / each.name)
        _run("mount", "--bind", folder, folder)
        try:
            _run("mount", "-o", "remount,bind,ro", folder)
            yield
        finally:
            _run("umount", "--lazy", folder)

    def unmount(self) -> None:
        """Take it away, also while something is open on it."""
        _run("umount", "--lazy", self.path)


@contextmanager
def disk(path: Path, size: int) -> Iterator[Disk]:
    """A :class:`Disk` for as long as the body runs; only within :func:`private_mounts`."""
    made = Disk(path, size)
    try:
        yield made
    finally:
        made.unmount()


@contextmanager
def limited(pid: int, kind: str, value: int, prefix: Sequence[str] = ()) -> Iterator[None]:
    """Lower a limit of a running process (``nofile``, ``nproc``), and give it back, as the user whom ``prefix`` names.

    The hard limit stays, so that whoever owns the process may do both.
    """

    def limit(soft: str) -> list[str]:
        return [*prefix, "prlimit", f"--pid={pid}", f"--{kind}={soft}:"]

    command = [*prefix, "prlimit", f"--pid={pid}", f"--{kind}", "--noheadings", "--output=SOFT"]
    before = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.strip()
    _run(*limit(str(value)))
    try:
        yield
    finally:
        if Path(f"/proc/{pid}").exists():
            _run(*limit(before))


def open_files(pid: int) -> int:
    """How many descriptors a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def as_user(uid: int) -> list[str]:
    """What a command line begins with, to be run as a user who may do little."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("runs the program as another user: needs to be root, and setpriv")
    return ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]


def program_of(prefix: Sequence[str]) -> dict[str, object]:
    """Settings with which that user's daemon can run dbt: this interpreter may lie where others find no way."""
    packages = sysconfig.get_path("purelib")
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    others = [shutil.which(name, path=folder) for folder in ("/usr/local/bin", "/usr/bin")]
    for python in filter(None, [sys.executable, *others]):
        # A shell in between: what starts as root may start whatever it likes.
        trial = [*prefix, "sh", "-c", f'exec "{python}" -c "import duckdb, dbt.version"']
        if not subprocess.run(trial, env={"PYTHONPATH": packages}, cwd="/", stderr=subprocess.DEVNULL).returncode:
            return {"DBT__PYTHON": python, "DBT__ENV": {"PYTHONPATH": packages}}
    pytest.skip("another user can run no interpreter of this version here")


class Clock:
    """The wall clock of the processes that are started with ``environment``."""

    def __init__(self, folder: Path) -> None:
        compiler = shutil.which("cc")
        if sys.platform != "linux" or compiler is None:
            pytest.skip("moves a process's clock: needs Linux and a C compiler")
        source, library = folder / "clock.c", folder / "clock.so"
        source.write_text(_CLOCK)
        _run(compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl")
        self._file = folder / "offset"
        self.set(0)
        self.environment = {"LD_PRELOAD": str(library), "CLOCK_OFFSET_FILE": str(self._file)}

    def set(self, offset: int) -> None:
        """From now on the clock is ``offset`` seconds ahead of the true time."""
        draft = self._file.with_suffix(".draft")
        draft.write_text(str(offset))
        draft.rename(self._file)


def _run(*command: object) -> None:
    subprocess.run([str(word) for word in command], check=True, timeout=30)
