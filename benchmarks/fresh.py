"""Fresh workspaces as a simulator brings them about: it asks for a database where none is, and waits for its marker."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.bench import Bench, BenchError, until
from benchmarks.databases import NAME
from selfheald.client import drop_request, is_ready, marker_path, read_record, read_status
from selfheald.initialization_state import seconds_of


def make_ready(folder: Path) -> float:
    """Ask the daemon that watches a folder for a database in it; the seconds from the request to the marker."""
    database = folder / NAME
    began = time.perf_counter()
    drop_request(database)
    until(lambda: _is_done(database), f"a marker of {database}")
    return time.perf_counter() - began


def make_all_ready(folders: Sequence[Path]) -> float:
    """Ask for all of them at once; the seconds until the last marker is there."""
    began = time.perf_counter()
    for folder in folders:
        drop_request(folder / NAME)
    for folder in folders:
        until(lambda folder=folder: _is_done(folder / NAME), f"a marker in {folder}")  # type: ignore[misc]
    return time.perf_counter() - began


def new_workspace(root: Path, name: str) -> Path:
    """An empty workspace in a folder that a daemon watches."""
    folder = root / name
    folder.mkdir()
    return folder


def origin(folder: Path) -> str:
    """How the database in a folder became ready: ``dbt``, ``template`` or ``adopted``."""
    return str((read_record(marker_path(folder / NAME)) or {}).get("origin"))


def in_daemon(folder: Path) -> float:
    """The seconds of the initialization alone, as the status file tells; without request, event and settling."""
    status = read_status(folder / NAME) or {}
    began, ended = (seconds_of(str(status.get(name))) for name in ("started_at", "completed_at"))
    if began is None or ended is None:
        raise BenchError(f"the status of {folder} tells no times: {status}")
    return ended - began


def ensure(bench: Bench, folder: Path, **settings: object) -> float:
    """``selfheald ensure`` as a command, where no daemon watches; the seconds that it took."""
    return bench.selfheald("ensure", folder / NAME, **settings)


def _is_done(database: Path) -> bool:
    if is_ready(database):
        return True
    status = read_status(database)
    if status is not None and status.get("state") == "failed":
        raise BenchError(f"{database} failed: {(status.get('error') or {}).get('message')}")
    return False
