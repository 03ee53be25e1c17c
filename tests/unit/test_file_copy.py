"""A file's content is the same whichever way it was copied."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest

from selfheald.file_copy import StoppedError, copy_content, digest_of

CONTENT = os.urandom(100_000) * 100


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[int, int]]:
    """A file with content, whose descriptor stands at its end, and an empty one."""
    source = os.open(tmp_path / "source", os.O_RDWR | os.O_CREAT)
    target = os.open(tmp_path / "target", os.O_RDWR | os.O_CREAT)
    os.write(source, CONTENT)
    yield source, target
    os.close(source)
    os.close(target)


def refused(number: int) -> object:
    def refuse(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.mark.parametrize("way", ["as it comes", "within the file system", "read and written", "half and half"])
def test_the_copy_is_the_same(way: str, pair: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if way != "as it comes":
        monkeypatch.setattr(fcntl, "ioctl", refused(errno.ENOTTY))
    if way == "read and written":
        monkeypatch.setattr(os, "copy_file_range", refused(errno.EXDEV), raising=False)
    if way == "half and half":
        real, calls = os.copy_file_range, []

        def once(*arguments: int) -> int:
            calls.append(arguments)
            if len(calls) > 1:
                raise OSError(errno.EXDEV, "another file system")
            return real(arguments[0], arguments[1], 12_345, *arguments[3:])

        monkeypatch.setattr(os, "copy_file_range", once)
    copy_content(*pair)
    assert (tmp_path / "target").read_bytes() == CONTENT
    assert digest_of(pair[1]) == f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_what_no_other_way_can_mend_is_told(
    number: int, pair: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "ioctl", refused(errno.EOPNOTSUPP))
    monkeypatch.setattr(os, "copy_file_range", refused(number), raising=False)
    with pytest.raises(OSError, match=os.strerror(number)):
        copy_content(*pair)


def test_it_ends_when_it_is_not_wanted_any_more(pair: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "ioctl", refused(errno.EOPNOTSUPP))
    stop = Event()
    stop.set()
    with pytest.raises(StoppedError):
        copy_content(*pair, stop)
    with pytest.raises(StoppedError):
        digest_of(pair[0], stop)
    assert os.fstat(pair[1]).st_size == 0
