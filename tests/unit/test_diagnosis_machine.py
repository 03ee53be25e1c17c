"""What doctor makes of the kernel's limits, and how it asks for them."""

from __future__ import annotations

import fcntl
import os
import sys
import types
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfheald.config import Config
from selfheald.diagnosis import examination
from selfheald.diagnosis.judge_machine import (
    ENOUGH_FILES,
    ENOUGH_PROCESSES,
    FEW_FILES,
    FEW_PROCESSES,
    QUEUE,
    SPARE_WATCHES,
    Folders,
    Limit,
    judge_instances,
    judge_open_files,
    judge_processes,
    judge_queue,
    judge_watches,
)
from selfheald.diagnosis.probe_machine import flocks, inotify_limits, process_limits
from selfheald.errors import InitializationError

only_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
WATCHES, INSTANCES, EVENTS = "fs.inotify.max_user_watches", "user.max_inotify_instances", "fs.inotify.max_queued_events"


class TestWatches:
    @pytest.mark.parametrize(
        ("left", "mode", "status"),
        [
            (99, "auto", "yellow"),
            (99, "native", "red"),
            (99, "polling", "green"),
            (100, "native", "yellow"),
            (2 * 100 + SPARE_WATCHES - 1, "auto", "yellow"),
            (2 * 100 + SPARE_WATCHES, "auto", "green"),
        ],
    )
    def test_against_the_folders(self, left: int, mode: str, status: str) -> None:
        assert judge_watches(Limit(WATCHES, left + 50, used=50), Folders(100), mode).status == status

    def test_the_cure_is_exact(self) -> None:
        found = judge_watches(Limit(WATCHES, 8192), Folders(60_000), "auto")
        file = "/etc/sysctl.d/60-selfheald.conf"
        assert found.hint == f"echo '{WATCHES} = 524288' | sudo tee -a {file} && sudo sysctl -p {file}"

    @given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
    def test_the_cure_is_one(self, value: int, used: int, count: int) -> None:
        found = judge_watches(Limit(WATCHES, value, used), Folders(count), "auto")
        if found.hint is not None:
            proposed = int(found.hint.split("'")[1].rpartition("= ")[2])
            assert proposed > value
            assert judge_watches(Limit(WATCHES, proposed, used), Folders(count), "auto").status == "green"

    def test_a_count_that_was_broken_off(self) -> None:
        found = judge_watches(Limit(WATCHES, 10**6, sees_all=False), Folders(1234, complete=False), "auto")
        assert "more than 1,234 folders" in found.message
        assert "not all processes could be looked into" in found.message


@pytest.mark.parametrize(
    ("left", "mode", "status"),
    [(1, "auto", "yellow"), (1, "native", "red"), (2, "auto", "yellow"), (3, "native", "yellow"), (4, "auto", "green")],
)
def test_instances(left: int, mode: str, status: str) -> None:
    found = judge_instances(Limit(INSTANCES, left + 9, used=9), mode)
    assert found.status == status
    assert status == "green" or f"{INSTANCES} = 512" in (found.hint or "")


@pytest.mark.parametrize(
    ("value", "folders", "status"),
    [(QUEUE - 1, 1, "yellow"), (QUEUE, QUEUE, "green"), (QUEUE, QUEUE + 1, "yellow"), (QUEUE + 1, QUEUE + 1, "green")],
)
def test_the_queue(value: int, folders: int, status: str) -> None:
    assert judge_queue(Limit(EVENTS, value), Folders(folders), "auto", 60.0).status == status


def test_a_system_without_these_limits() -> None:
    found = [judge_watches(None, Folders(9), "auto"), judge_instances(None, "auto")]
    found.append(judge_queue(None, Folders(9), "auto", 60.0))
    assert {each.status for each in found} == {"green"}


@pytest.mark.parametrize(
    ("limit", "status"),
    [
        (FEW_FILES - 1, "red"),
        (FEW_FILES, "yellow"),
        (ENOUGH_FILES - 1, "yellow"),
        (ENOUGH_FILES, "green"),
        (None, "green"),
    ],
)
def test_open_files(limit: int | None, status: str) -> None:
    assert judge_open_files(limit, "it").status == status


@pytest.mark.parametrize(
    ("left", "status"),
    [
        (FEW_PROCESSES - 1, "red"),
        (FEW_PROCESSES, "yellow"),
        (ENOUGH_PROCESSES - 1, "yellow"),
        (ENOUGH_PROCESSES, "green"),
    ],
)
def test_the_narrowest_limit_of_processes_counts(left: int, status: str) -> None:
    limits = [Limit("wide", 10**6), Limit("narrow", left + 1000, used=1000)]
    found = judge_processes(limits, "it")
    assert (found.status, "narrow" in found.message) == (status, True)
    assert judge_processes([], "it").status == "green"


@only_linux
class TestAskingTheKernel:
    def test_locks_are_seen_and_none_is_taken(self, tmp_path: Path) -> None:
        free, taken = tmp_path / "free", tmp_path / "taken"
        free.mkdir()
        taken.mkdir()
        handle = os.open(taken, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            seen = flocks() or set()
        finally:
            os.close(handle)
        assert (taken.stat().st_dev, taken.stat().st_ino) in seen
        assert (free.stat().st_dev, free.stat().st_ino) not in seen
        assert (taken.stat().st_dev, taken.stat().st_ino) not in (flocks() or set())

    def test_a_kernel_that_does_not_tell_of_locks(self, tmp_path: Path) -> None:
        assert flocks(tmp_path / "locks") is None

    def test_watches_of_this_user_are_counted_but_for_the_daemons_own(self, tmp_path: Path) -> None:
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        handle = libc.inotify_init1(os.O_CLOEXEC)
        assert handle >= 0
        try:
            for name in ("a", "b", "c"):
                (tmp_path / name).mkdir()
                assert libc.inotify_add_watch(handle, os.fsencode(tmp_path / name), 0x100) > 0
            process = Path("/proc/self")
            assert (process / "fdinfo" / str(handle)).read_text().count("inotify wd:") == 3
            others = [int(each.name) for each in Path("/proc").iterdir() if each.name.isdigit()]
            everybody_else = [pid for pid in others if pid != os.getpid()]
            mine = inotify_limits(os.geteuid(), everybody_else)
        finally:
            os.close(handle)
        assert mine.watches is not None
        assert mine.instances is not None
        assert mine.watches.used >= 3
        assert mine.instances.used >= 1
        none = inotify_limits(os.geteuid(), [*others, os.getpid()])
        assert none.watches is not None
        assert none.watches.used <= mine.watches.used - 3

    def test_limits_of_another_process_are_read_where_they_can_be(self) -> None:
        own, child = process_limits(None, 65534), process_limits(os.getpid(), 65534)
        assert own.open_files == child.open_files
        assert process_limits(2**22 + 1, 65534).open_files == own.open_files


def test_what_the_service_module_tells_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("selfheald.service")
    module.diagnose = lambda config: [("red", "its unit is of another version", "Install it anew.")]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "selfheald.service", module)
    monkeypatch.setattr(examination, "find_spec", lambda name: name)
    found = examination.service_findings(Config())
    assert [each.as_dict() for each in found] == [
        {"id": "service", "status": "red", "message": "its unit is of another version", "hint": "Install it anew."}
    ]


def test_without_a_service_module_nothing_is_told_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "find_spec", lambda name: None)
    assert examination.service_findings(Config()) == []


def test_a_wrong_configuration_leaves_what_can_be_told() -> None:
    found = examination.examine_machine_alone(InitializationError("f:1: no", code="config_invalid"))
    told = {each.check: each.status for each in found}
    assert told["configuration"] == "red"
    assert told["daemon_python"] == told["daemon_duckdb"] == "green"
    assert "not checked" not in next(each.message for each in found if each.check == "open_files")
    assert next(each.message for each in found if each.check == "roots").startswith("not checked: the configuration")
