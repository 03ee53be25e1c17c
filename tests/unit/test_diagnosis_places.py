"""What doctor makes of roots, folders, disks, and what earlier runs left."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from selfheald.diagnosis.findings import Finding
from selfheald.diagnosis.judge_places import (
    COARSE_SAMPLES,
    Place,
    Room,
    Root,
    format_size,
    judge_place,
    judge_roots,
    judge_space,
)
from selfheald.diagnosis.judge_traces import Traces, Watcher, judge_daemons, judge_suspects, judge_traces

R = Path("/srv/simulations")
FOLDER = stat.S_IFDIR | 0o755
RECORD = {
    "pid": 42,
    "state": "ready",
    "watcher": "native",
    "version": "1",
    "uid": 7,
    "database": "simulation.duckdb",
}


def root(**changes: Any) -> Root:
    return replace(Root(R, R, FOLDER, file_system="ext4"), **changes)


def judged(one: Root, check: str, mode: str = "auto") -> Finding:
    found = [each for each in judge_roots([one], mode) if each.check == check]
    assert len(found) == 1
    return found[0]


class TestRoots:
    def test_one_that_is_right(self) -> None:
        assert {each.status for each in judge_roots([root(stamps=(1, 2, 3))], "auto")} == {"green"}

    def test_none_at_all(self) -> None:
        found = judge_roots([], "auto")
        assert [(each.check, each.status) for each in found] == [("roots", "red")]

    @pytest.mark.parametrize("mode", [None, stat.S_IFREG | 0o644])
    def test_what_is_no_folder(self, mode: int | None) -> None:
        found = judge_roots([root(mode=mode)], "auto")
        assert [(each.check, each.status) for each in found] == [("roots", "red")]
        assert "mkdir -p" in (found[0].hint or "")

    def test_one_that_cannot_be_reached(self) -> None:
        found = judge_roots([root(mode=None, access="chmod g+x /srv")], "auto")
        assert [(each.check, each.status, each.hint) for each in found] == [("roots", "red", "chmod g+x /srv")]
        assert "cannot be reached" in found[0].message

    def test_a_link_and_one_within_another(self) -> None:
        assert judged(root(real=Path("/data/simulations")), "roots").status == "yellow"
        found = judge_roots([root(within=Path("/srv"))], "auto")
        assert [(each.check, each.status) for each in found] == [("roots", "yellow")]

    def test_rights(self) -> None:
        found = judged(root(access="chmod u+rwx /srv/simulations"), "root_access")
        assert (found.status, found.hint) == ("red", "chmod u+rwx /srv/simulations")

    @pytest.mark.parametrize(
        ("mode", "status", "hint"),
        [
            (0o755, "green", None),
            (0o775, "yellow", "chmod g+s /srv/simulations"),
            (0o2775, "green", None),
            (0o777, "yellow", "chmod o-w /srv/simulations, or chmod +t /srv/simulations"),
            (0o2777, "yellow", "chmod o-w /srv/simulations, or chmod +t /srv/simulations"),
            (0o3777, "green", None),
        ],
    )
    def test_groups(self, mode: int, status: str, hint: str | None) -> None:
        found = judged(root(mode=stat.S_IFDIR | mode), "root_group")
        assert (found.status, found.hint) == (status, hint)

    def test_the_private_folder(self) -> None:
        assert judged(root(private_kind="folder"), "private_folder").status == "green"
        assert judged(root(private_kind="a symbolic link"), "private_folder").status == "red"
        refused = judged(root(private_kind="folder", private_access="chmod u+w it"), "private_folder")
        assert (refused.status, refused.hint) == ("red", "chmod u+w it")

    @pytest.mark.parametrize(
        ("kind", "read_only", "mode", "status", "told"),
        [
            ("ext4", False, "native", "green", "ext4"),
            (None, False, "auto", "green", "does not tell"),
            ("nfs4", False, "auto", "yellow", "polling"),
            ("fuse.sshfs", False, "polling", "yellow", "polling"),
            ("cifs", False, "native", "yellow", "network"),
            ("tmpfs", False, "auto", "yellow", "in memory"),
            ("ext4", True, "auto", "red", "read-only"),
            ("nfs", True, "auto", "red", "read-only"),
        ],
    )
    def test_file_systems(self, kind: str | None, read_only: bool, mode: str, status: str, told: str) -> None:
        found = judged(root(file_system=kind, read_only=read_only), "file_system", mode)
        assert found.status == status
        assert told in found.message

    def test_time_stamps(self) -> None:
        whole = tuple(second * 1_000_000_000 for second in range(COARSE_SAMPLES))
        assert judged(root(stamps=whole), "time_stamps").status == "yellow"
        assert judged(root(stamps=whole[1:]), "time_stamps").status == "green"
        assert judged(root(stamps=(*whole, 1)), "time_stamps").status == "green"


class TestSpace:
    @pytest.mark.parametrize(
        ("free", "files", "status"),
        [(99, None, "red"), (100, None, "yellow"), (199, None, "yellow"), (200, None, "green"), (200, 0, "red")],
    )
    def test_against_what_must_be_free(self, free: int, files: int | None, status: str) -> None:
        found = judge_space([Room((R,), free, files)], 100)
        assert [each.status for each in found] == [status]
        assert (found[0].hint is None) == (status == "green")

    def test_where_nothing_is_built_it_is_only_told(self) -> None:
        rooms = [Room((R,), 5, holds_roots=False), Room((R,), 500, 0, holds_roots=False)]
        assert [each.status for each in judge_space(rooms, 100)] == ["yellow", "yellow"]

    @given(st.integers(0, 10**15))
    @example(99_950_000)
    @example(999_999)
    def test_a_size_is_told_with_three_digits_at_most(self, size: int) -> None:
        number, unit = format_size(size).split()
        assert len(number.replace(".", "")) <= (3 if unit != "TB" else 4)
        factor = {"bytes": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}[unit]
        assert abs(float(number) * factor - size) <= max(0.05 * size, 0)


class TestOwnFolders:
    def test_one_that_can_be_written(self) -> None:
        found = judge_place("state_folder", Place(R, FOLDER, owner=7))
        assert (found.status, found.message) == ("green", "/srv/simulations can be written (owner 7, mode 0755)")

    def test_one_that_is_still_to_be_made(self) -> None:
        assert judge_place("state_folder", Place(R)).status == "green"
        assert judge_place("state_folder", Place(R, access="chmod it")).status == "yellow"

    def test_one_that_cannot_be_written(self) -> None:
        assert judge_place("log_folder", Place(R, FOLDER, access="chmod it")).status == "yellow"
        assert judge_place("temporary_folder", Place(R, FOLDER, access="chmod it")).status == "red"

    def test_one_that_everybody_can_write(self) -> None:
        assert judge_place("state_folder", Place(R, stat.S_IFDIR | 0o777)).status == "yellow"
        assert judge_place("temporary_folder", Place(R, stat.S_IFDIR | 0o1777)).status == "green"

    def test_none(self) -> None:
        assert judge_place("log_folder", None).status == "green"


class TestTraces:
    def test_nothing_is_left(self) -> None:
        assert [each.status for each in judge_traces(Traces())] == ["green", "green"]

    def test_staging_folders_are_told_and_what_was_set_aside_is_counted(self) -> None:
        staging = tuple(R / f"w {number}" / ".selfheald" / "staging-1" for number in range(5))
        leftovers, aside = judge_traces(Traces(staging, (R / "simulation.duckdb.corrupt-1",), 1500, complete=False))
        assert leftovers.status == "yellow"
        assert leftovers.message.startswith("5 staging folders of killed attempts so far")
        assert leftovers.message.endswith("and 2 more")
        assert f"selfheald ensure '{R}/w 0'" in (leftovers.hint or "")
        assert (aside.status, aside.message.split(" set aside")[0]) == ("green", "1 file")
        assert "1.5 kB" in aside.message

    def test_suspects(self) -> None:
        assert judge_suspects([]).status == "green"
        assert judge_suspects(PermissionError(13, "Permission denied", "checks")).status == "yellow"
        assert judge_suspects([R / "simulation.duckdb"]).status == "yellow"


class TestDaemon:
    def judged(self, mode: str = "auto", place: Path = R, **changes: Any) -> Finding:
        watchers = [Watcher(R, place, RECORD | changes)]
        return judge_daemons(watchers, version="1", database="simulation.duckdb", mode=mode, uid=7)[0]

    def test_one_that_is_well(self) -> None:
        found = self.judged()
        assert (found.status, found.message) == ("green", f"PID 42 watches {R}: ready, native")
        assert self.judged(watcher="polling").status == "green"

    def test_one_above(self) -> None:
        assert "as part of /srv" in self.judged(place=Path("/srv")).message

    def test_none(self) -> None:
        found = judge_daemons([Watcher(R, R)], version="1", database="a", mode="auto", uid=7)
        assert [each.status for each in found] == ["yellow"]
        assert f"selfheald run {R}" in (found[0].hint or "")

    @pytest.mark.parametrize(
        ("changes", "status"),
        [
            ({"version": "0"}, "yellow"),
            ({"database": "other.duckdb"}, "red"),
            ({"watcher": "degraded"}, "yellow"),
            ({"watcher": "polling", "mode": "native"}, "yellow"),
            ({"uid": 8}, "yellow"),
            ({"uid": "$(reboot)"}, "green"),
        ],
    )
    def test_one_that_is_not(self, changes: dict[str, Any], status: str) -> None:
        assert self.judged(**changes).status == status
