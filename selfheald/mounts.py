"""What is mounted where: the type of the file system that a path lies on."""

from __future__ import annotations

import re
import select
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from selfheald.workspace import is_under

#: File systems whose changes by other hosts the kernel doesn't tell of; in user space they are called `fuse.sshfs` on
#: Linux, and on macOS as what brings them there.
NETWORK = frozenset("nfs nfs4 cifs smb3 smbfs 9p ceph lustre glusterfs afs sshfs afpfs webdav macfuse osxfuse".split())
_MOUNT_SECONDS = 5.0
#: `//user@host/share on /Volumes/share (smbfs, nodev, nosuid, mounted by user)`
_BSD_LINE = re.compile(r".*? on (/.*) \(([^,()]+)(?:, [^()]*)?\)")

_MOUNTINFO = Path("/proc/self/mountinfo")

Mount = tuple[Path, str]


class MountTable:
    """Tells whether something was mounted or unmounted below some folders, of which no event tells (on Linux)."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = folders
        self._poll = select.poll()
        self._table = None
        with suppress(OSError):
            self._table = _MOUNTINFO.open("rb", buffering=0)
            self._poll.register(self._table, select.POLLPRI)
        self._below = self._look()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._table is not None:
            self._table.close()

    def has_changed(self) -> bool:
        """True if that has happened since this was asked last; while nothing is mounted anywhere it costs nothing."""
        if self._table is None or not self._poll.poll(0):
            return False
        before, self._below = self._below, self._look()
        return before != self._below

    def _look(self) -> list[str]:
        with suppress(OSError):
            lines = _MOUNTINFO.read_text(errors="replace").splitlines()
            return [line for line in lines if any(is_under(_place(line), folder) for folder in self._folders)]
        return []


def file_system(path: Path) -> str | None:
    """The type of the file system that holds ``path``; ``None`` where the platform doesn't tell."""
    return type_at(path, mounts(sys.platform))


def is_remote(path: Path) -> bool:
    """True if it is known to be a network file system, where native events miss what other hosts do."""
    return is_network(file_system(path))


def is_network(kind: str | None) -> bool:
    """True for the type of a network file system."""
    return (kind or "").rpartition(".")[2] in NETWORK


def type_at(path: Path, mounted: Iterable[Mount]) -> str | None:
    """The type of the nearest mount above; of several at one place the last, which hides the others."""
    best, kind = -1, None
    for place, its_kind in mounted:
        if is_under(path, place) and len(place.parts) >= best:
            best, kind = len(place.parts), its_kind
    return kind


def mounts(platform: str) -> Sequence[Mount]:
    """Where what is mounted, as the platform tells; nothing where it doesn't."""
    try:
        if platform == "darwin":
            done = subprocess.run(["/sbin/mount"], capture_output=True, check=False, timeout=_MOUNT_SECONDS)
            return list(bsd_mounts(done.stdout.decode("utf-8", "replace")))
        return list(linux_mounts(_MOUNTINFO.read_text(errors="replace")))
    except (OSError, subprocess.SubprocessError):
        return []


def linux_mounts(mountinfo: str) -> Iterator[Mount]:
    """What ``/proc/self/mountinfo`` tells."""
    for line in mountinfo.splitlines():
        yield _place(line), line.partition(" - ")[2].split()[0]


def _place(line: str) -> Path:
    return Path(line.split()[4].replace("\\040", " "))


def bsd_mounts(told: str) -> Iterator[Mount]:
    """What ``mount`` prints on macOS."""
    for line in told.splitlines():
        match = _BSD_LINE.fullmatch(line)
        if match is not None:
            yield Path(match[1]), match[2]
