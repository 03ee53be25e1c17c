"""Judges the kernel's limits against what a daemon needs. Values in, findings out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from selfheald.diagnosis.findings import Finding, green, red, yellow

#: While a watch is made anew the old one still stands, so for a moment a daemon has two of each.
AT_ONCE = 2
#: Inotify instances of a daemon: the watch over what was there first, and that over later folders.
INSTANCES = 2
#: Folders that may come before one must look again.
SPARE_WATCHES = 1024
#: The kernel's own default, below which bursts are easily lost.
QUEUE = 16_384
#: Open files: what a daemon with a running dbt has at most, and what leaves room for others.
FEW_FILES, ENOUGH_FILES = 64, 256
#: Processes and threads that a daemon and a running dbt need, and what leaves room for others.
FEW_PROCESSES, ENOUGH_PROCESSES = 32, 128
#: What is proposed at least.
_PROPOSED_WATCHES, _PROPOSED_INSTANCES = 524_288, 512
FILE = "/etc/sysctl.d/60-selfheald.conf"


@dataclass(frozen=True, slots=True)
class Limit:
    """A setting of the kernel's: its ``value``, and what the user's other processes have of it already (``used``).

    ``sees_all`` is false where not all of the user's processes could be looked into.
    """

    name: str
    value: int
    used: int = 0
    sees_all: bool = True

    @property
    def left(self) -> int:
        return max(0, self.value - self.used)


@dataclass(frozen=True, slots=True)
class Folders:
    """How many folders are to be watched; ``complete`` is false if the count was broken off."""

    count: int
    complete: bool = True

    def __str__(self) -> str:
        return f"{'' if self.complete else 'more than '}{self.count:,} folder{'' if self.count == 1 else 's'}"


def judge_watches(limit: Limit | None, folders: Folders, mode: str) -> Finding:
    """A watch is needed for each folder, and for a moment two."""
    if limit is None or mode == "polling":
        return green("inotify_watches", _not_needed(limit))
    needed = AT_ONCE * folders.count + SPARE_WATCHES
    message = f"{folders} to watch, {limit.left:,} watches left of {limit.value:,}{_unseen(limit)}"
    cure = sysctl(limit.name, _at_least(_PROPOSED_WATCHES, limit.used + AT_ONCE * needed))
    if limit.left < folders.count:
        if mode == "native":
            return red("inotify_watches", f"{message}: not all can be watched", cure)
        return yellow("inotify_watches", f"{message}: changes are found by polling instead", cure)
    if limit.left < needed:
        return yellow("inotify_watches", f"{message}: too few to make the watch anew, or for many more folders", cure)
    return green("inotify_watches", message)


def judge_instances(limit: Limit | None, mode: str) -> Finding:
    """Each watch is an inotify instance of its own."""
    if limit is None or mode == "polling":
        return green("inotify_instances", _not_needed(limit))
    message = f"{limit.left:,} inotify instances left of {limit.value:,}{_unseen(limit)}"
    cure = sysctl(limit.name, _at_least(_PROPOSED_INSTANCES, 2 * limit.used))
    if limit.left < INSTANCES:
        told = red if mode == "native" else yellow
        return told("inotify_instances", f"{message}: the daemon needs {INSTANCES}", cure)
    if limit.left < AT_ONCE * INSTANCES:
        return yellow("inotify_instances", f"{message}: too few to make a watch anew", cure)
    return green("inotify_instances", message)


def judge_queue(limit: Limit | None, folders: Folders, mode: str, rescan: float) -> Finding:
    """A burst that the queue cannot hold is lost, and what it told is found by the next scan."""
    if limit is None or mode == "polling":
        return green("inotify_queue", _not_needed(limit))
    wanted = max(QUEUE, folders.count)
    message = f"{limit.value:,} events can wait"
    if limit.value < wanted:
        late = f"{message}: what a larger burst tells of is found up to {rescan:g} s later (watch.rescan)"
        return yellow("inotify_queue", late, sysctl(limit.name, _at_least(QUEUE, wanted)))
    return green("inotify_queue", message)


def judge_open_files(limit: int | None, whose: str) -> Finding:
    """``None``: as many as are wanted."""
    if limit is None or limit >= ENOUGH_FILES:
        return green("open_files", f"{whose} may open {'any number of' if limit is None else f'{limit:,}'} files")
    message = f"{whose} may open {limit:,} files at once"
    hint = f"Raise it to {ENOUGH_FILES:,} or more: `ulimit -n {ENOUGH_FILES}`, or LimitNOFILE= of the service."
    return (red if limit < FEW_FILES else yellow)("open_files", message, hint)


def judge_processes(limits: Sequence[Limit], whose: str) -> Finding:
    """Processes and threads together; of several limits the narrowest counts."""
    if not limits:
        return green("processes", f"{whose} may start any number of processes")
    limit = min(limits, key=lambda each: each.left)
    message = f"{whose} may start {limit.left:,} more processes and threads (of {limit.value:,}, {limit.name})"
    if limit.left >= ENOUGH_PROCESSES:
        return green("processes", message)
    hint = "Raise it (`ulimit -u`, TasksMax= of the service or slice), or end some processes."
    return (red if limit.left < FEW_PROCESSES else yellow)("processes", message, hint)


def sysctl(name: str, value: int) -> str:
    """The commands that raise a setting of the kernel's, now and for good."""
    return f"echo '{name} = {value}' | sudo tee -a {FILE} && sudo sysctl -p {FILE}"


def _at_least(least: int, value: int) -> int:
    """A power of two that is neither below ``least`` nor below ``value``."""
    return max(least, 1 << max(0, value - 1).bit_length())


def _unseen(limit: Limit) -> str:
    return "" if limit.sees_all else " (not all processes could be looked into)"


def _not_needed(limit: Limit | None) -> str:
    return "this system has no such limit" if limit is None else "not needed: watch.mode is polling"
