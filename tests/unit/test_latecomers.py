"""Whether others have a file open, asked of the kernel."""

from __future__ import annotations

import importlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fixtures.processes import ROOT, run_python, started

_OPEN = "import os, sys; os.open(sys.argv[1], int(sys.argv[2])); print('open', flush=True); sys.stdin.read()"


@pytest.fixture
def latecomers(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "selfheald" / "child"))
    return importlib.import_module("placing.latecomers")


@pytest.fixture
def descriptor(tmp_path: Path, latecomers: Any) -> Iterator[int]:
    number = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    if latecomers.is_open_elsewhere(number) is None:
        pytest.skip("needs a system and a file system with leases")
    yield number
    os.close(number)


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR])
def test_another_descriptor_is_seen_and_waited_for(
    latecomers: Any, descriptor: int, tmp_path: Path, flags: int
) -> None:
    assert latecomers.is_open_elsewhere(descriptor) is False
    with started(_OPEN, tmp_path / "file", flags) as other:
        assert latecomers.is_open_elsewhere(descriptor) is True
        waiting = threading.Thread(target=latecomers.keep_locked, args=(descriptor, 0.0, 60.0, 0.0))
        waiting.start()
        waiting.join(0.05)
        assert waiting.is_alive()
        other.kill()
        waiting.join(20)
        assert not waiting.is_alive()
    assert latecomers.is_open_elsewhere(descriptor) is False


def test_who_stays_is_not_waited_for_without_end(latecomers: Any, descriptor: int, tmp_path: Path) -> None:
    with (tmp_path / "file").open("rb"):
        began = time.monotonic()
        latecomers.keep_locked(descriptor, 0.0, 0.2, 60.0)
        assert 0.2 <= time.monotonic() - began < 20


def test_opening_goes_on_while_it_is_asked(latecomers: Any, descriptor: int, tmp_path: Path) -> None:
    """Whoever opens the file in that very moment waits at most for a moment, and nobody is killed by a signal."""
    for _ in range(300):
        opening = threading.Thread(target=lambda: (tmp_path / "file").open("rb").close())
        opening.start()
        while opening.is_alive():
            latecomers.is_open_elsewhere(descriptor)
        opening.join(20)
    assert latecomers.is_open_elsewhere(descriptor) is False


def test_another_users_file_is_not_known(open_path: Path, descriptor: int) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs to be root to have a file of another user's")
    file = open_path / "file"
    file.touch()
    file.chmod(0o666)
    script = """
sys.path.insert(0, sys.argv[2])
from placing import latecomers
become_nobody()
print(latecomers.is_open_elsewhere(os.open(sys.argv[1], os.O_RDWR)))
"""
    assert run_python(script, file, ROOT / "selfheald" / "child") == "None\n"
