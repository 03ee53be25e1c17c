"""Where all databases of some folders stand, read from files alone: it needs no daemon, and opens no database."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from selfheald.client import daemon_root, lacks, read_record
from selfheald.config import Config
from selfheald.explanation import View, describe
from selfheald.locks import held, holder
from selfheald.marker import has_request, marker_state, read_status
from selfheald.presence import LOCK, RECORD, daemon_record
from selfheald.scan import scan
from selfheald.standing import Standing, standing_of
from selfheald.workspace import PRIVATE_FOLDER, Database, is_reachable, is_under, merge_roots, resolve_database

#: The order of the summary's words.
_WORDS = (Standing.READY, Standing.WAITING, Standing.BUILDING, Standing.BUSY, Standing.FAILED)


@dataclass(frozen=True, slots=True)
class Entry:
    """One database as its files tell: the marker's state, the status record, whether there is a file at all, and
    whether a simulation asks for it."""

    database: Database
    marker: str
    status: Mapping[str, Any] | None
    exists: bool = True
    requested: bool = False

    @property
    def is_ready(self) -> bool:
        return self.marker == "valid"

    @property
    def is_there(self) -> bool:
        """False where neither the database nor any word about it is there (any more)."""
        return self.exists or self.requested or self.status is not None or self.marker != "absent"

    @property
    def standing(self) -> Standing:
        return standing_of(self.is_ready, self.status)

    def as_dict(self) -> dict[str, Any]:
        """One of the ``databases`` of ``status --json``."""
        return {
            "database": str(self.database),
            "workspace": str(self.database.workspace),
            "ready": self.is_ready,
            "marker": self.marker,
            "status": self.status,
        }


@dataclass(frozen=True, slots=True)
class Places:
    """What is asked about: single databases, all below folders, and the roots whose daemons look after both."""

    files: tuple[Database, ...]
    folders: tuple[Path, ...]
    roots: tuple[Path, ...]
    name: str
    exclude: frozenset[str]

    def databases(self) -> list[Database]:
        """All databases that are there now, be it only by a request or a status; sorted."""
        found = scan(self.folders, self.name, self.exclude)
        return sorted({*self.files, *(Database(path) for path in found.databases | found.requested | found.tried)})

    def daemons(self) -> list[dict[str, Any]]:
        """The record of each root's daemon."""
        return [daemon_record(root) for root in self.roots]


@dataclass(frozen=True, slots=True)
class Overview:
    """Daemons as ``status --json`` shows them, and databases, sorted by their paths."""

    daemons: Sequence[Mapping[str, Any]] = ()
    entries: Sequence[Entry] = field(default_factory=tuple)

    def counts(self) -> Counter[Standing]:
        """How many databases stand where."""
        return Counter(entry.standing for entry in self.entries)

    def as_dict(self) -> dict[str, Any]:
        """The document of ``status --json``."""
        return {
            "format": 1,
            "daemons": list(self.daemons),
            "summary": summary(self.counts()),
            "databases": [entry.as_dict() for entry in self.entries],
        }

    def view(self, entry: Entry) -> View:
        """What is known of one of the databases, to be explained."""
        daemon = next((each for each in self.daemons if is_under(entry.database.path, Path(each["root"]))), None)
        is_watched = daemon is not None and daemon["state"] != "down"
        return View(
            database=str(entry.database),
            standing=entry.standing,
            marker=entry.marker,
            status=entry.status,
            exists=entry.exists,
            requested=entry.requested,
            daemon=daemon if is_watched else None,
            root=str(entry.database.workspace if daemon is None else daemon["root"]),
        )


def look_closer(overview: Overview, entry: Entry, start: str | None = None) -> View:
    """A view of one database with what takes asking: who has it open, what its disk lacks, who is before it in the
    queue. ``start`` is the command that starts an installed service.

    WARNING: not for a process that has the database open in DuckDB: see :func:`selfheald.locks.holder`.
    """
    view, database = overview.view(entry), entry.database
    if entry.standing is Standing.READY:
        return replace(view, holder=_holder(database))
    if entry.standing is Standing.BUILDING:
        return view  # who has it open for a moment is at work on it
    root = Path(view.root)
    attempts = (read_record(root / PRIVATE_FOLDER / RECORD) or {}).get("attempts")
    view = replace(
        view,
        start=start,
        holder=_holder(database),
        lacks=lacks(database.folder),
        attempts=attempts if isinstance(attempts, int) and view.daemon is not None else 0,
    )
    if view.daemon is None or (entry.status or {}).get("reason") != "queued":
        return view
    others = [read_entry(each) for each in Places((), (root,), (), database.path.name, _excluded(root)).databases()]
    queued = sum((each.status or {}).get("reason") == "queued" and not each.is_ready for each in others)
    return replace(view, others=tuple(at_work(others)), queued=queued)


def _holder(database: Database) -> Mapping[str, Any] | None:
    found = holder(database.path)
    return None if found is None else found.as_dict()


def _excluded(root: Path) -> frozenset[str]:
    """The names of folders that the daemon of this root passes over."""
    told = (read_record(root / PRIVATE_FOLDER / RECORD) or {}).get("exclude")
    return frozenset(map(str, told)) if isinstance(told, list) else frozenset()


def look(places: Places) -> Overview:
    """Where the databases stand now."""
    return Overview(places.daemons(), [read_entry(database) for database in places.databases()])


def find_places(paths: Sequence[str], config: Config) -> Places:
    """What these paths mean."""
    name = config.watch.database
    files = [resolve_database(path, name) for path in paths if not is_reachable(Path(path))]
    given = [Path(path) for path in paths if is_reachable(Path(path))]
    folders = merge_roots(given if paths else list(config.watch.roots) or [Path.cwd()])
    roots = {_root_of(folder / name, folder) for folder in folders} | {
        _root_of(file.path, file.folder) for file in files
    }
    outermost = tuple(
        root for root in sorted(roots) if not any(root != each and is_under(root, each) for each in roots)
    )
    return Places(tuple(files), tuple(folders), outermost, name, frozenset(config.watch.exclude))


def read_entry(database: Database) -> Entry:
    """One database as it is now."""
    status = read_status(database)
    if status is not None and status.get("state") == "in_progress" and not held(database.lock):
        # Whoever was at work has been killed: the next start begins anew.
        status = {**status, "state": "not_started", "reason": None}
    return Entry(
        database, marker_state(database), status, os.path.lexists(database.path), has_request(database, taken=False)
    )


def summary(counts: Mapping[Standing, int]) -> dict[str, int]:
    """Counts by the words of ``status --json``."""
    return {word.value: counts.get(word, 0) for word in _WORDS}


def at_work(entries: Iterable[Entry]) -> list[str]:
    """What of these is being built, each with how far it is."""
    building = [entry for entry in entries if entry.standing is Standing.BUILDING]
    return [f"{entry.database} ({describe(entry.status or {}) or 'Checking tables…'})" for entry in building]


def _root_of(file: Path, folder: Path) -> Path:
    """The root whose daemon looks after a file; else the last one that did, as its lock file tells; else the folder."""
    watched = daemon_root(file)
    if watched is not None:
        return watched
    above = (folder, *folder.parents)
    return next((each for each in above if os.path.lexists(each / PRIVATE_FOLDER / LOCK)), folder)
