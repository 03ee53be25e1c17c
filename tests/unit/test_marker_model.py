"""The marker's life: whoever writes, replaces or deletes the database, and whenever a daemon dies, it never lies."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from fixtures.figures import scaled
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from selfheald.client import file_identity, valid_marker
from selfheald.initialization_state import RequiredTable, TableTier
from selfheald.marker import outlived_a_tick, remove_marker, write_marker
from selfheald.staging import clean_leftovers
from selfheald.workspace import Database

REQUIRED = [RequiredTable("comp_levers", TableTier.SEED, "comp_levers")]


class MarkerLife(RuleBasedStateMachine):
    """A database on a real file system. Each write makes it a byte longer, so that no two states look alike."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.database = Database.at(Path(self.folder.name) / "simulation.duckdb")
        self.database.private.mkdir()
        self.size = 0
        #: Whether all tables are there, for each size that the file has had.
        self.complete: dict[int, bool] = {}
        self.certified: list[Mapping[str, Any]] = []
        self.old_markers: list[bytes] = []
        self.a_simulator_writes(complete=True)

    def teardown(self) -> None:
        self.folder.cleanup()

    def _content(self, complete: bool) -> bytes:
        self.size += 1
        self.complete[self.size] = complete
        return b"x" * self.size

    @rule(complete=st.booleans())
    def a_simulator_writes(self, complete: bool) -> None:
        self.database.path.write_bytes(self._content(complete))

    @rule(complete=st.booleans(), keep_stamp=st.booleans())
    def somebody_replaces_it(self, complete: bool, keep_stamp: bool) -> None:
        new = self.database.folder / "new"
        new.write_bytes(self._content(complete))
        if keep_stamp and self.database.path.exists():
            found = self.database.path.stat()
            os.utime(new, ns=(found.st_atime_ns, found.st_mtime_ns))
        new.rename(self.database.path)

    @rule()
    def somebody_deletes_it(self) -> None:
        self.database.path.unlink(missing_ok=True)

    @rule(grow=st.booleans())
    def a_wal_comes_or_grows(self, grow: bool) -> None:
        """What is in a WAL may have dropped a table."""
        wal = Path(f"{self.database}.wal")
        if self.database.path.exists():
            wal.write_bytes(wal.read_bytes() + b"w" if grow and wal.exists() else b"w")

    @rule()
    def a_daemon_certifies(self) -> None:
        """It reads the file as it is, and finds it complete; the marker may come much later, or never."""
        identity = file_identity(self.database.path)
        if identity is not None and identity["wal"] is None and self.complete[identity["size"]]:
            self.certified.append(identity)

    @rule()
    def a_daemon_certifies_and_writes(self) -> None:
        self.a_daemon_certifies()
        if self.certified:
            self.a_daemon_writes_the_marker(-1)

    @precondition(lambda self: self.certified)
    @rule(number=st.integers(min_value=0, max_value=20))
    def a_daemon_writes_the_marker(self, number: int) -> None:
        """Of one of several daemons, about what it certified at some time."""
        identity = self.certified[number % len(self.certified)]
        written = write_marker(
            self.database, identity, REQUIRED, fingerprint="f", origin="adopted", answers=None, checked_at=time.time()
        )
        if written:
            self.old_markers.append(self.database.marker.read_bytes())

    @rule()
    def a_daemon_removes_the_marker(self) -> None:
        remove_marker(self.database)
        assert not self.database.marker.exists()

    @precondition(lambda self: self.old_markers)
    @rule(number=st.integers(min_value=0, max_value=20))
    def a_back_up_brings_an_old_marker_back(self, number: int) -> None:
        self.database.marker.write_bytes(self.old_markers[number % len(self.old_markers)])

    @rule()
    def a_daemon_dies_while_it_writes(self) -> None:
        (self.database.folder / f".{self.database.path.name}.ready.0123456789ab.tmp").write_bytes(b'{"state": "re')

    @rule()
    def the_next_one_cleans_up(self) -> None:
        clean_leftovers(self.database)
        assert not list(self.database.folder.glob(".*.tmp"))

    @invariant()
    def the_marker_tells_the_truth(self) -> None:
        marker = valid_marker(self.database.path)
        if marker is not None:
            found = self.database.path.stat()
            assert self.complete[found.st_size]
            assert marker["database"]["inode"] == found.st_ino
            assert not Path(f"{self.database}.wal").exists()


MarkerLife.TestCase.settings = settings(max_examples=scaled(200, 3000), stateful_step_count=40, deadline=None)
TestMarkerLife = pytest.mark.promise(1)(pytest.mark.soak(pytest.mark.timeout(scaled(120, 600))(MarkerLife.TestCase)))


@pytest.mark.promise(1)
def test_a_marker_about_a_moment_that_a_later_write_could_hide_in_is_not_written() -> None:
    """A write within the tick of the one before may leave all stamps as they are."""
    moment = 1_800_000_000
    fine = {"mtime_ns": moment * 10**9 + 1, "ctime_ns": moment * 10**9 + 1, "wal": None}
    whole = {"mtime_ns": moment * 10**9, "ctime_ns": moment * 10**9, "wal": None}
    assert not outlived_a_tick(fine, moment + 0.015)
    assert outlived_a_tick(fine, moment + 0.025)
    assert not outlived_a_tick(whole, moment + 2.0)
    assert outlived_a_tick(whole, moment + 2.1)
