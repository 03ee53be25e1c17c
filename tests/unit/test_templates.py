"""The store of templates: what is kept, what makes way, and what is not believed."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fixtures.processes import NOBODY, ROOT

from selfheald import file_copy, templates
from selfheald.figures import TemplateEvent
from selfheald.templates import Entry, StoreError, TemplateStore

CONTENT = b"a finished database" * 1000
SIZE = len(CONTENT)


def key(letter: str) -> str:
    return letter * 64


COUNTED: list[TemplateEvent] = []


@pytest.fixture
def store(tmp_path: Path) -> TemplateStore:
    return TemplateStore(tmp_path / "cache" / "templates", 3 * SIZE, count=COUNTED.append)


@pytest.fixture
def source(tmp_path: Path) -> Iterator[int]:
    path = tmp_path / "source"
    path.write_bytes(CONTENT)
    descriptor = os.open(path, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def keep(store: TemplateStore, source: int, letter: str, used_at: int = 0) -> Entry:
    assert store.keep(key(letter), source, tables=["regions"], proved=True, versions={"dbt": "1.8.8"})
    if used_at:
        os.utime(store.folder / key(letter) / "template.json", (used_at, used_at))
    entry = store.find(key(letter))
    assert entry is not None
    return entry


def copied(store: TemplateStore, entry: Entry, folder: Path) -> bytes:
    folder.mkdir(exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        store.copy(entry, "copy", handle)
    finally:
        os.close(handle)
    return (folder / "copy").read_bytes()


def names(store: TemplateStore) -> set[str]:
    return {path.name[0] if len(path.name) == 64 else path.name for path in store.folder.iterdir()}


def test_what_is_kept_is_found_and_copied(store: TemplateStore, source: int, tmp_path: Path) -> None:
    assert store.find(key("a")) is None
    assert not store.folder.exists()  # looking makes nothing
    entry = keep(store, source, "a")
    assert (entry.tables, entry.proved, entry.refused, entry.size) == (("regions",), True, None, SIZE)
    assert copied(store, entry, tmp_path / "staging") == CONTENT
    assert store.find(key("b")) is None
    folder = store.folder / key("a")
    modes = {path.stat().st_mode & 0o777 for path in (store.folder, folder)}
    assert modes == {0o700}
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == {
        "database.duckdb": 0o600,
        "template.json": 0o600,
    }
    record = json.loads((folder / "template.json").read_text())
    assert record["versions"] == {"dbt": "1.8.8"}


def test_a_refusal_is_found_too_and_gives_way_to_a_template(store: TemplateStore, source: int) -> None:
    store.refuse(key("a"), "a model asks for the time")
    refused = store.find(key("a"))
    assert refused is not None
    assert refused.refused == "a model asks for the time"
    assert keep(store, source, "a").refused is None
    assert names(store) == {"a"}


def test_the_least_recently_used_make_way(store: TemplateStore, source: int, tmp_path: Path) -> None:
    entries = {letter: keep(store, source, letter, used_at=1000 + n) for n, letter in enumerate("abc")}
    copied(store, entries["a"], tmp_path / "staging")
    COUNTED.clear()
    keep(store, source, "d")
    assert names(store) == {"a", "c", "d"}
    assert COUNTED == ["evicted"]
    assert copied(store, entries["a"], tmp_path / "again") == CONTENT


def test_one_that_is_in_use_stays(
    store: TemplateStore, source: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = [keep(store, source, letter, used_at=1000 + number) for number, letter in enumerate("abc")]
    real = file_copy.copy_content

    def with_another_kept_meanwhile(*arguments: Any) -> None:
        monkeypatch.setattr(templates, "copy_content", real)
        keep(store, source, "d")
        real(*arguments)

    monkeypatch.setattr(templates, "copy_content", with_another_kept_meanwhile)
    assert copied(store, entries[0], tmp_path / "staging") == CONTENT
    assert names(store) == {"a", "c", "d"}


def test_there_are_not_more_than_so_many(store: TemplateStore, source: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "MOST_ENTRIES", 2)
    store.refuse(key("a"), "a clock")
    os.utime(store.folder / key("a") / "template.json", (1, 1))
    store.refuse(key("b"), "a clock")
    keep(store, source, "c")
    assert names(store) == {"b", "c"}


def test_what_is_too_large_is_not_kept(store: TemplateStore, source: int) -> None:
    small = TemplateStore(store.folder, SIZE - 1)
    assert not small.keep(key("a"), source, tables=[], proved=True, versions={})
    crowded = TemplateStore(store.folder, 3 * SIZE, min_free_bytes=1 << 60)
    assert not crowded.keep(key("a"), source, tables=[], proved=True, versions={})
    assert store.find(key("a")) is None


def _flip(folder: Path) -> None:
    with (folder / "database.duckdb").open("r+b") as file:
        file.seek(SIZE // 2)
        file.write(b"?")


def _cut(folder: Path) -> None:
    os.truncate(folder / "database.duckdb", SIZE // 2)


def _link(folder: Path) -> None:
    (folder / "database.duckdb").rename(folder.parents[1] / "elsewhere")
    (folder / "database.duckdb").symlink_to(folder.parents[1] / "elsewhere")


def _second_name(folder: Path) -> None:
    (folder.parents[1] / "elsewhere").hardlink_to(folder / "database.duckdb")


def _linked_folder(folder: Path) -> None:
    folder.rename(folder.parents[1] / "elsewhere")
    folder.symlink_to(folder.parents[1] / "elsewhere")


def _no_database(folder: Path) -> None:
    (folder / "database.duckdb").unlink()


def _pipe(folder: Path) -> None:
    (folder / "database.duckdb").unlink()
    os.mkfifo(folder / "database.duckdb", 0o600)


def _no_record(folder: Path) -> None:
    (folder / "template.json").write_text("{")


def _of_another(folder: Path) -> None:
    record = json.loads((folder / "template.json").read_text())
    (folder / "template.json").write_text(json.dumps(record | {"key": key("b")}))


def _of_the_future(folder: Path) -> None:
    record = json.loads((folder / "template.json").read_text())
    (folder / "template.json").write_text(json.dumps(record | {"format": 99}))


def _open_to_others(folder: Path) -> None:
    (folder / "database.duckdb").chmod(0o666)


def _somebody_elses(folder: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs to be root")
    (folder / "database.duckdb").chmod(0o644)
    os.chown(folder / "database.duckdb", NOBODY, NOBODY)


def _a_file(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    folder.write_text("no folder")


@pytest.mark.parametrize(
    "damage",
    [
        _flip, _cut, _link, _second_name, _linked_folder, _no_database, _pipe, _no_record, _of_another,
        _of_the_future, _open_to_others, _somebody_elses, _a_file,
    ],
)  # fmt: skip
def test_what_is_not_as_it_was_is_not_used_but_removed(
    damage: Callable[[Path], None], store: TemplateStore, source: int, tmp_path: Path
) -> None:
    keep(store, source, "a")
    damage(store.folder / key("a"))
    COUNTED.clear()
    entry = store.find(key("a"))
    if entry is not None:  # what only its content tells
        with pytest.raises(StoreError, match="damaged"):
            copied(store, entry, tmp_path / "staging")
        assert list((tmp_path / "staging").iterdir()) == []
    assert names(store) <= {"locks"}
    assert COUNTED == ["damaged"]
    elsewhere = store.folder.parent / "elsewhere"
    assert not elsewhere.exists() or elsewhere.is_dir() or elsewhere.read_bytes() == CONTENT
    again = keep(store, source, "a")
    assert copied(store, again, tmp_path / "again") == CONTENT


@pytest.mark.parametrize("how", ["open to others", "a link", "a file"])
def test_a_folder_that_cannot_be_trusted_is_not_used(how: str, store: TemplateStore, source: int) -> None:
    keep(store, source, "a")
    if how == "open to others":
        store.folder.chmod(0o777)
    else:
        store.folder.rename(store.folder.with_name("elsewhere"))
    if how == "a link":
        store.folder.symlink_to(store.folder.with_name("elsewhere"))
    elif how == "a file":
        store.folder.write_text("")
    with pytest.raises(StoreError):
        store.find(key("a"))
    with pytest.raises(StoreError):
        store.keep(key("b"), source, tables=[], proved=True, versions={})
    with pytest.raises(StoreError):
        store.lock(key("b"))


def test_one_that_goes_while_it_is_wanted(store: TemplateStore, source: int, tmp_path: Path) -> None:
    entry = keep(store, source, "a")
    store.discard(entry, "for the test")
    with pytest.raises(StoreError, match="given up"):
        copied(store, entry, tmp_path / "staging")
    assert list((tmp_path / "staging").iterdir()) == []


def test_where_there_is_no_room_nothing_is_left(
    store: TemplateStore, source: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(store, source, "a")

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(templates, "copy_content", full)
    with pytest.raises(OSError, match="No space"):
        store.keep(key("b"), source, tables=[], proved=True, versions={})
    assert names(store) == {"a"}


def test_the_locks_do_not_become_more_and_more(store: TemplateStore) -> None:
    one, same, other = (store.lock(f"{start}{'f' * 61}") for start in ("abc", "abc", "abd"))
    assert one.acquire()
    assert not same.acquire()
    assert other.acquire()
    one.release()
    other.release()
    assert len(list((store.folder / "locks").iterdir())) == 2


_KEEPER = """
import os, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from selfheald import file_copy, templates
store = templates.TemplateStore(Path(sys.argv[2]), 1 << 30)
source = os.open(sys.argv[3], os.O_RDONLY)
if sys.argv[4] == "at the name":
    templates.os.rename = lambda *arguments, **names: (print("here", flush=True), sys.stdin.readline())
else:
    templates.copy_content = lambda *arguments: (print("here", flush=True), sys.stdin.readline())
store.keep(sys.argv[5], source, tables=[], proved=True, versions={})
"""


@pytest.mark.parametrize("moment", ["at the copy", "at the name"])
def test_what_a_killed_process_leaves_is_removed(
    moment: str, store: TemplateStore, source: int, tmp_path: Path
) -> None:
    arguments = [ROOT, store.folder, tmp_path / "source", moment, key("b")]
    with subprocess.Popen(
        [sys.executable, "-c", _KEEPER, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        keep(store, source, "a")  # what is being written is left alone
        assert len(names(store)) == 2
        process.send_signal(signal.SIGKILL)
    keep(store, source, "c")
    assert names(store) == {"a", "c"}
