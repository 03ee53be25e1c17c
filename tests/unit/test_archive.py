"""The file of a support archive: whole, or not there."""

from __future__ import annotations

import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from selfheald.diagnosis import archive
from selfheald.errors import InitializationError


def test_it_is_written_whole(tmp_path: Path) -> None:
    target = tmp_path / "out.tar.gz"
    size = archive.write(target, {"a.txt": "one\n", "long.txt": "x" * (archive.MAX_MEMBER + 5)}, 1_700_000_000)
    assert size == target.stat().st_size
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    with tarfile.open(target) as found:
        assert found.getnames() == ["selfheald-support/a.txt", "selfheald-support/long.txt"]
        file = found.extractfile("selfheald-support/long.txt")
        assert file is not None
        assert file.read().decode().endswith("x\n… cut here\n")


class Interrupted(dict[str, str]):
    """Members whose reader is interrupted after the first."""

    def items(self) -> Iterator[tuple[str, str]]:  # type: ignore[override]
        yield "a.txt", "one"
        raise KeyboardInterrupt


def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        archive.write(tmp_path / "out", Interrupted(), 0)
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_taken_meanwhile_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InitializationError, match="exists already"):
        archive.write(tmp_path / "out", {"a.txt": "one"}, 0)
    assert not (tmp_path / "elsewhere").exists()
