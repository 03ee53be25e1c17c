"""Judges roots, folders and disks. Values in, findings out."""

from __future__ import annotations

import shlex
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from selfheald.diagnosis.findings import Finding, green, red, yellow
from selfheald.mounts import is_network
from selfheald.workspace import PRIVATE_FOLDER

#: So many files whose times are whole seconds are no chance.
COARSE_SAMPLES = 8
#: What is gone when the machine starts again.
_IN_MEMORY = frozenset({"tmpfs", "ramfs"})


@dataclass(frozen=True, slots=True)
class Root:
    """A configured root. ``real`` is where it is once links are followed; ``mode`` ``None``: nothing is there.

    ``access`` and ``private_access`` are what would let the user in question use it and its ``.selfheald``; ``None``:
    nothing is in the way. ``private_kind`` is ``folder``, ``absent``, or what stands there instead. ``stamps`` are
    modification times of files in it, in nanoseconds.
    """

    path: Path
    real: Path
    mode: int | None
    within: Path | None = None
    file_system: str | None = None
    read_only: bool = False
    access: str | None = None
    private_kind: str = "absent"
    private_access: str | None = None
    stamps: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Room:
    """What is free on one file system that holds ``places``: bytes, and files where it counts them (else ``None``)."""

    places: tuple[Path, ...]
    free: int
    files: int | None = None
    holds_roots: bool = True


@dataclass(frozen=True, slots=True)
class Place:
    """A folder of selfheald's own; ``mode`` and ``owner`` of it are ``None`` where it is still to be made."""

    path: Path
    mode: int | None = None
    owner: int | None = None
    access: str | None = None


def judge_roots(roots: Sequence[Root], mode: str) -> list[Finding]:
    """All that can be told of the roots; ``mode`` is ``watch.mode``."""
    if not roots:
        hint = "Set watch.roots in selfheald.toml, or name folders: `selfheald run ROOT`, `selfheald doctor ROOT`."
        return [red("roots", "there is no folder to watch", hint)]
    findings: list[Finding] = []
    for root in roots:
        if root.mode is None or not stat.S_ISDIR(root.mode):
            findings.append(_judge_what_is_no_folder(root))
            continue
        findings.append(_judge_path(root))
        if root.within is None:
            findings += _judge_rights(root)
            findings += [_judge_file_system(root, mode), _judge_stamps(root)]
    return findings


def _judge_what_is_no_folder(root: Root) -> Finding:
    if root.mode is None and root.access is not None:
        return red("roots", f"{root.path} cannot be reached: a folder above it may not be passed", root.access)
    what = "does not exist" if root.mode is None else "is not a folder"
    return red("roots", f"{root.path} {what}", f"mkdir -p {_quoted(root.path)}, or correct watch.roots.")


def _judge_path(root: Root) -> Finding:
    if root.within is not None:
        message = f"{root.path} lies in {root.within}: both are watched as one"
        return yellow("roots", message, f"Take {root.path} out of watch.roots.")
    if root.real != root.path:
        return yellow("roots", f"{root.path} leads to {root.real}, which is watched", f"Name {root.real} itself.")
    return green("roots", f"{root.path} is a folder")


def _judge_rights(root: Root) -> list[Finding]:
    assert root.mode is not None
    findings = []
    if root.access is None:
        findings.append(green("root_access", f"{root.path} can be read and written"))
    else:
        findings.append(red("root_access", f"{root.path} cannot be read and written", root.access))
    findings.append(_judge_group(root.path, root.mode))
    private = root.path / PRIVATE_FOLDER
    if root.private_kind not in ("folder", "absent"):
        findings.append(red("private_folder", f"{private} is {root.private_kind}", f"Move it away: {_quoted(private)}"))
    elif root.private_access is not None and root.access is None:
        findings.append(red("private_folder", f"{private} cannot be written", root.private_access))
    else:
        what = "can be used" if root.private_kind == "folder" else "is still to be made"
        findings.append(green("private_folder", f"{private} {what}"))
    return findings


def _judge_group(path: Path, mode: int) -> Finding:
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        message = f"everybody may write to {path}, and so rename and delete what others made"
        return yellow("root_group", message, f"chmod o-w {_quoted(path)}, or chmod +t {_quoted(path)}")
    if mode & stat.S_IWGRP and not mode & stat.S_ISGID:
        message = f"{path} is shared by a group, but what is made in it belongs to its maker's own"
        return yellow("root_group", message, f"chmod g+s {_quoted(path)}")
    shared = "shared by its group, which what is made in it keeps" if mode & stat.S_IWGRP else "written by its owner"
    return green("root_group", f"{path} is {shared}")


def _judge_file_system(root: Root, mode: str) -> Finding:
    kind = root.file_system or "a file system that does not tell its type"
    if root.read_only:
        hint = f"Mount it writable: mount -o remount,rw (the file system of {_quoted(root.path)})"
        return red("file_system", f"{root.path} is on a read-only file system ({kind})", hint)
    if is_network(root.file_system):
        message = f"{root.path} is on a network file system ({kind})"
        if mode == "native":
            hint = 'Set watch.mode = "auto": events do not tell what other machines do.'
            return yellow("file_system", message, hint)
        return yellow("file_system", f"{message}: other machines' changes are found by polling")
    if root.file_system in _IN_MEMORY:
        message = f"{root.path} is in memory ({kind}): it is empty after the next start of the machine"
        return yellow("file_system", message, "Keep databases that must stay on a disk.")
    return green("file_system", f"{root.path} is on {kind}")


def _judge_stamps(root: Root) -> Finding:
    if len(root.stamps) >= COARSE_SAMPLES and all(stamp % 1_000_000_000 == 0 for stamp in root.stamps):
        message = f"times in {root.path} are whole seconds: a marker is written up to 2 s later, so that it can be told"
        return yellow("time_stamps", message, "Nothing needs to be done; a file system with finer times is faster.")
    what = "are finer than a second" if any(stamp % 1_000_000_000 for stamp in root.stamps) else "are not known yet"
    return green("time_stamps", f"times in {root.path} {what}")


def judge_space(rooms: Sequence[Room], minimum: int) -> list[Finding]:
    """Free disk against ``limits.min_free_bytes``; below twice of it is worth a look."""
    findings = []
    for room in rooms:
        where = ", ".join(map(str, room.places))
        message = f"{format_size(room.free)} are free for {where}"
        if room.files == 0:
            told = red if room.holds_roots else yellow
            findings.append(told("disk_space", f"no more files can be made (inodes) in {where}", "Delete some files."))
        elif room.free < minimum:
            told = red if room.holds_roots else yellow
            hint = f"Free some: {format_size(minimum)} must be free (limits.min_free_bytes)."
            findings.append(told("disk_space", message, hint))
        elif room.free < 2 * minimum:
            hint = f"Free some soon: below {format_size(minimum)} (limits.min_free_bytes) nothing starts."
            findings.append(yellow("disk_space", message, hint))
        else:
            findings.append(green("disk_space", message))
    return findings


def judge_place(check: str, place: Place | None) -> Finding:
    """A folder of selfheald's own: the state's, the log's, the temporary one. ``None``: none is used."""
    if place is None:
        return green(check, "none: the log goes to stderr alone")
    if place.access is not None:
        # Where state or log cannot be written the daemon works on, with less memory of what was.
        told = red if check == "temporary_folder" else yellow
        return told(check, f"{place.path} cannot be {'written' if place.mode is not None else 'made'}", place.access)
    if place.mode is None:
        return green(check, f"{place.path} is still to be made, and can be")
    if place.mode & stat.S_IWOTH and not place.mode & stat.S_ISVTX:
        return yellow(check, f"everybody may write to {place.path}", f"chmod o-w {_quoted(place.path)}")
    return green(check, f"{place.path} can be written (owner {place.owner}, mode {stat.S_IMODE(place.mode):04o})")


def format_size(size: int) -> str:
    """``12.3 GB``, in powers of a thousand."""
    amount, unit = float(size), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if round(amount) < 1000:
            break
        amount, unit = amount / 1000, larger
    return f"{amount:.0f} {unit}" if unit == "bytes" or amount >= 99.95 else f"{amount:.1f} {unit}"


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
