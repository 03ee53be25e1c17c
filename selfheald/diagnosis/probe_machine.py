"""Asks the kernel for its limits, and for what this user has of them already. Without ``/proc`` little is known."""

from __future__ import annotations

import os
import resource
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from selfheald.diagnosis.judge_machine import Limit

_PROC = Path("/proc")
#: A limit of inotify's has two settings: the machine's, and that of the user namespace; the narrower one counts.
_SETTINGS = {
    "watches": ("fs.inotify.max_user_watches", "user.max_inotify_watches"),
    "instances": ("fs.inotify.max_user_instances", "user.max_inotify_instances"),
    "queue": ("fs.inotify.max_queued_events",),
}


@dataclass(frozen=True, slots=True)
class Inotify:
    """The limits of inotify; ``None`` on a system that has it not."""

    watches: Limit | None = None
    instances: Limit | None = None
    queue: Limit | None = None


@dataclass(frozen=True, slots=True)
class ProcessLimits:
    """What a process may have: open files (``None``: any number), and processes of its user."""

    open_files: int | None
    processes: tuple[Limit, ...]


def inotify_limits(uid: int, own: Collection[int]) -> Inotify:
    """The limits, and what that user's processes have of them but for ``own``: daemons that watch our roots."""
    watches, instances, sees_all = _in_use(uid, own)
    return Inotify(
        _limit("watches", watches, sees_all), _limit("instances", instances, sees_all), _limit("queue", 0, True)
    )


def process_limits(pid: int | None, uid: int) -> ProcessLimits:
    """The limits of a running daemon, where they can be read; else this process's own, which a daemon would inherit."""
    soft: dict[str, int | None] = {}
    if pid is not None:
        soft = _limits_of(pid)
    if not soft:
        soft = {
            "Max open files": _finite(resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
            "Max processes": _finite(resource.getrlimit(resource.RLIMIT_NPROC)[0]),
        }
    limits = []
    most = soft.get("Max processes")
    if most is not None and uid != 0:  # nothing of this kind limits root
        limits.append(Limit("ulimit -u", most, _tasks_of(uid)))
    limits += _cgroup_limits(pid or os.getpid())
    return ProcessLimits(soft.get("Max open files"), tuple(limits))


def flocks(table: Path = _PROC / "locks") -> set[tuple[int, int]] | None:
    """Device and inode of every file and folder that somebody holds a ``flock`` on. None is taken by asking.

    ``None`` where the kernel does not tell.
    """
    try:
        lines = table.read_text().splitlines()
    except OSError:
        return None
    found = set()
    for line in lines:
        fields = line.split()
        if len(fields) > 5 and fields[1] == "FLOCK":  # one that is waited for has an arrow there
            with suppress(ValueError):
                major, minor, inode = fields[5].split(":")
                found.add((os.makedev(int(major, 16), int(minor, 16)), int(inode)))
    return found


def _limit(what: str, used: int, sees_all: bool) -> Limit | None:
    values = {}
    for name in _SETTINGS[what]:
        with suppress(OSError, ValueError):
            values[name] = int((_PROC / "sys" / name.replace(".", "/")).read_text())
    if not values:
        return None
    name = min(values, key=lambda each: values[each])
    return Limit(name, values[name], used, sees_all)


def _in_use(uid: int, own: Collection[int]) -> tuple[int, int, bool]:
    """Inotify watches and instances of a user's processes, and whether all of these could be looked into."""
    watches, instances, sees_all = 0, 0, True
    for process in _processes_of(uid):
        if int(process.name) in own:
            continue
        try:
            descriptors = list((process / "fd").iterdir())
        except PermissionError:
            sees_all = False
            continue
        except OSError:
            continue  # it has ended
        for descriptor in descriptors:
            with suppress(OSError):
                if str(descriptor.readlink()) == "anon_inode:inotify":
                    instances += 1
                    watches += (process / "fdinfo" / descriptor.name).read_text().count("inotify wd:")
    return watches, instances, sees_all


def _tasks_of(uid: int) -> int:
    """Threads of all processes of a user."""
    count = 0
    for process in _processes_of(uid):
        with suppress(OSError):
            count += len(list((process / "task").iterdir()))
    return count


def _processes_of(uid: int) -> Iterator[Path]:
    with suppress(OSError):
        for process in _PROC.iterdir():
            with suppress(OSError):
                if process.name.isdigit() and process.stat().st_uid == uid:
                    yield process


def _limits_of(pid: int) -> dict[str, int | None]:
    """The soft limits of another process: name and value, ``None`` for unlimited."""
    found: dict[str, int | None] = {}
    with suppress(OSError, ValueError, IndexError):
        for line in (_PROC / str(pid) / "limits").read_text().splitlines()[1:]:
            value = line[26:].split()[0]
            found[line[:26].strip()] = None if value == "unlimited" else int(value)
    return found


def _cgroup_limits(pid: int) -> list[Limit]:
    """What the control groups of a process allow of processes (``TasksMax=``), each that is not unlimited."""
    found = []
    with suppress(OSError, ValueError, IndexError):
        for line in (_PROC / str(pid) / "cgroup").read_text().splitlines():
            _, kinds, path = line.split(":", 2)
            if kinds in ("", "pids"):
                top = Path("/sys/fs/cgroup", kinds)
                folder = top / path.lstrip("/")
                found += [limit for each in (folder, *folder.parents) if (limit := _pids(each)) and each != top.parent]
    return found


def _pids(folder: Path) -> Limit | None:
    try:
        most = (folder / "pids.max").read_text().strip()
        return None if most == "max" else Limit(f"pids.max of {folder}", int(most), _number(folder / "pids.current"))
    except (OSError, ValueError):
        return None


def _number(file: Path) -> int:
    return int(file.read_text())


def _finite(limit: int) -> int | None:
    return None if limit == resource.RLIM_INFINITY else limit
