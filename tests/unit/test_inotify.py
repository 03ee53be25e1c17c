"""What the kernel tells of folders: real folders, real events."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from selfheald.inotify import Change, Event, EventsLostError, Inotify

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="this is about inotify")


@pytest.fixture
def inotify() -> Iterator[Inotify]:
    opened = Inotify()
    yield opened
    opened.close()


def told(inotify: Inotify) -> list[tuple[str, str, Change]]:
    """Folder, name and change of each event that waits."""
    return [(event.folder, event.name.decode(), event.change) for event in inotify.read()]


def test_what_happens_to_names_and_to_the_folder_itself(tmp_path: Path, inotify: Inotify) -> None:
    folder = tmp_path / "w"
    folder.mkdir()
    inotify.follow(str(folder))
    assert told(inotify) == []
    (folder / "file").write_bytes(b"x")
    (folder / "below").mkdir()
    (folder / "file").rename(folder / "other")
    (folder / "other").unlink()
    (folder / "below").rmdir()
    events = list(inotify.read())
    assert [(event.name, event.change, event.is_folder) for event in events] == [
        (b"file", Change.ADDED, False),
        (b"file", Change.MODIFIED, False),
        (b"below", Change.ADDED, True),
        (b"file", Change.DELETED, False),
        (b"other", Change.ADDED, False),
        (b"other", Change.DELETED, False),
        (b"below", Change.DELETED, True),
    ]
    folder.rmdir()
    assert Event(str(folder), b"", Change.DELETED, True) in list(inotify.read())
    assert inotify.followed() == set()


def test_a_folder_that_is_moved_is_told_of_by_its_new_name(tmp_path: Path, inotify: Inotify) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    inotify.follow(str(old))
    old.rename(new)
    inotify.follow(str(new))
    assert inotify.followed() == {str(new)}
    list(inotify.read())
    (new / "file").touch()
    assert (str(new), "file", Change.ADDED) in told(inotify)


def test_another_folder_at_the_same_path_takes_its_place(tmp_path: Path, inotify: Inotify) -> None:
    folder, aside = tmp_path / "w", tmp_path / "aside"
    folder.mkdir()
    inotify.follow(str(folder))
    folder.rename(aside)
    folder.mkdir()
    inotify.follow(str(folder))
    list(inotify.read())
    (aside / "file").touch()
    assert told(inotify) == []
    (folder / "file").touch()
    assert {name for _, name, _ in told(inotify)} == {"file"}
    assert len(inotify) == 1


def test_what_is_left_is_told_of_no_more(tmp_path: Path, inotify: Inotify) -> None:
    inotify.follow(str(tmp_path))
    inotify.leave([str(tmp_path), str(tmp_path / "never followed")])
    (tmp_path / "file").touch()
    assert told(inotify) == []
    assert len(inotify) == 0


def test_links_files_and_what_is_not_there_are_passed_over(tmp_path: Path, inotify: Inotify) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("file", "link", "nothing"):
        inotify.follow(str(tmp_path / name))
    assert len(inotify) == 0


def test_a_further_folder_costs_one_call_however_many_are_followed(
    tmp_path: Path, inotify: Inotify, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Counter[str]()

    def counted(name: str) -> None:
        real = getattr(inotify, name)

        def call(*given: object) -> int:
            calls[name] += 1
            return int(real(*given))

        monkeypatch.setattr(inotify, name, call)

    counted("_add_watch")
    counted("_remove_watch")
    for number in range(300):
        (tmp_path / str(number)).mkdir()
        inotify.follow(str(tmp_path / str(number)))
        assert calls == {"_add_watch": 1}
        calls.clear()
        if number % 2:
            (tmp_path / str(number - 1) / "file").touch()
            assert next(name for _, name, _ in told(inotify)) == "file"
            assert not calls


def test_to_follow_a_folder_again_keeps_what_is_known_of_it(tmp_path: Path, inotify: Inotify) -> None:
    """A scan names each folder anew: of the same name, one copy is kept."""
    first = str(tmp_path)
    inotify.follow(first)
    inotify.follow("".join(first))
    (tmp_path / "file").touch()
    assert all(event.folder is first for event in inotify.read())
    assert next(iter(inotify.followed())) is first


def test_a_queue_that_overflows_says_so(tmp_path: Path, inotify: Inotify) -> None:
    inotify.follow(str(tmp_path))
    for _ in range(int(Path("/proc/sys/fs/inotify/max_queued_events").read_text()) // 2 + 1):
        (tmp_path / "file").touch()
        (tmp_path / "file").unlink()
    with pytest.raises(EventsLostError):
        list(inotify.read())
