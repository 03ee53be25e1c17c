"""Where things are, and writing them safely."""

from __future__ import annotations

import errno
import importlib
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from fixtures.files import names_in
from fixtures.processes import NOBODY, ROOT, run_python
from hypothesis import given
from hypothesis import strategies as st

from selfheald import workspace
from selfheald.errors import InitializationError
from selfheald.workspace import (
    Database,
    ensure_private_folder,
    get_database_path,
    is_under,
    merge_roots,
    open_folder,
    remove_file,
    resolve_database,
    write_atomically,
)

NAME = "simulation.duckdb"


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


class TestDatabase:
    def test_all_its_places(self, tmp_path: Path) -> None:
        database = Database.at(tmp_path / "dbt" / NAME)
        private = tmp_path / "dbt" / ".selfheald"
        assert database.path == tmp_path / "dbt" / NAME
        assert database.workspace == tmp_path
        assert database.marker == tmp_path / "dbt" / f"{NAME}.ready"
        assert database.private == private
        assert database.status == private / f"{NAME}.status"
        assert database.request == private / f"{NAME}.request"
        assert database.lock == private / f"{NAME}.lock"
        assert database.history == private / f"{NAME}.history"
        assert database.logs == private / "logs"
        assert str(database) == str(database.path)

    def test_the_workspace_of_another_folder_is_that_folder(self, tmp_path: Path) -> None:
        assert Database.at(tmp_path / "data" / NAME).workspace == tmp_path / "data"

    def test_links_on_the_way_are_resolved_but_not_the_database_itself(self, tmp_path: Path) -> None:
        real = tmp_path / "real"
        real.mkdir()
        (tmp_path / "way").symlink_to(real)
        (real / NAME).symlink_to("elsewhere")
        assert Database.at(tmp_path / "way" / NAME).path == real / NAME

    def test_a_relative_path_becomes_absolute(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        assert Database.at(NAME).path == tmp_path / NAME


class TestResolveDatabase:
    def test_a_file_is_meant_as_it_is(self, tmp_path: Path) -> None:
        assert resolve_database(tmp_path / "other.duckdb").path == tmp_path / "other.duckdb"

    def test_in_a_bare_folder(self, tmp_path: Path) -> None:
        assert resolve_database(tmp_path).path == tmp_path / NAME

    def test_in_a_folder_with_a_dbt_folder(self, tmp_path: Path) -> None:
        (tmp_path / "dbt").mkdir()
        assert resolve_database(tmp_path).path == tmp_path / "dbt" / NAME

    @pytest.mark.parametrize("place", ["", "dbt"])
    def test_the_one_that_exists(self, tmp_path: Path, place: str) -> None:
        (tmp_path / "dbt").mkdir()
        (tmp_path / place / NAME).touch()
        assert resolve_database(tmp_path).path == tmp_path / place / NAME

    def test_a_link_that_leads_nowhere_exists_too(self, tmp_path: Path) -> None:
        (tmp_path / "dbt").mkdir()
        (tmp_path / NAME).symlink_to("nowhere")
        assert resolve_database(tmp_path).path == tmp_path / NAME

    def test_both_is_a_question_back(self, tmp_path: Path) -> None:
        (tmp_path / "dbt").mkdir()
        (tmp_path / NAME).touch()
        (tmp_path / "dbt" / NAME).touch()
        with pytest.raises(InitializationError) as caught:
            resolve_database(tmp_path)
        assert caught.value.code == "config_invalid"
        assert str(tmp_path / NAME) in caught.value.message
        assert str(tmp_path / "dbt" / NAME) in caught.value.message

    def test_a_folder_that_does_not_exist(self, tmp_path: Path) -> None:
        with pytest.raises(InitializationError) as caught:
            resolve_database(tmp_path / "no" / NAME)
        assert caught.value.code == "config_invalid"
        assert caught.value.path == str(tmp_path / "no")

    def test_a_folder_in_the_database_s_place_is_meant_as_it_is(self, tmp_path: Path) -> None:
        (tmp_path / NAME).mkdir()
        assert resolve_database(tmp_path / NAME).path == tmp_path / NAME
        assert resolve_database(tmp_path).path == tmp_path / NAME

    @pytest.mark.parametrize("name", ["notes.txt", "workspace", "no.such.folder"])
    def test_a_name_that_is_no_database_s_is_not_taken_for_one(self, tmp_path: Path, name: str) -> None:
        for _ in range(2):
            with pytest.raises(InitializationError) as caught:
                resolve_database(tmp_path / name)
            assert caught.value.code == "config_invalid"
            assert caught.value.path == str(tmp_path / name)
            (tmp_path / name).touch()

    @pytest.mark.parametrize("name", ["a.duckdb", "a.DUCKDB", "a.ddb", "a.db"])
    def test_names_of_databases_that_are_still_to_be_made(self, tmp_path: Path, name: str) -> None:
        assert resolve_database(tmp_path / name).path == tmp_path / name

    def test_a_file_with_content_may_have_any_name(self, tmp_path: Path) -> None:
        (tmp_path / "odd").write_bytes(b"content")
        assert resolve_database(tmp_path / "odd").path == tmp_path / "odd"
        assert resolve_database(tmp_path / "other", "other").path == tmp_path / "other"

    def test_another_name(self, tmp_path: Path) -> None:
        assert resolve_database(tmp_path, "pay.duckdb").path == tmp_path / "pay.duckdb"

    def test_nothing_given(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("DATABASE_PATH", "given.duckdb")
        assert resolve_database(None).path == tmp_path / "given.duckdb"
        monkeypatch.delenv("DATABASE_PATH")
        (tmp_path / "dbt").mkdir()
        assert resolve_database(None).path == tmp_path / "dbt" / NAME

    def test_the_environment_may_name_a_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DATABASE_PATH", str(tmp_path))
        assert resolve_database(None).path == tmp_path / NAME


def test_get_database_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert get_database_path({}) == tmp_path / "dbt" / NAME
    assert get_database_path({"DATABASE_PATH": ""}) == tmp_path / "dbt" / NAME
    assert get_database_path({"DATABASE_PATH": "a/../b.duckdb"}) == tmp_path / "b.duckdb"
    monkeypatch.setenv("DATABASE_PATH", "/data/x.duckdb")
    assert get_database_path() == Path("/data/x.duckdb")


PATHS = st.lists(st.sampled_from(["a", "b", "ab"]), max_size=4).map(lambda parts: Path("/", "selfheald-test", *parts))


@given(PATHS, PATHS)
def test_is_under_is_about_whole_names(path: Path, root: Path) -> None:
    assert is_under(path, root) is (path.parts[: len(root.parts)] == root.parts)


@given(st.lists(PATHS, max_size=6))
def test_merged_roots_cover_the_same_and_never_each_other(roots: list[Path]) -> None:
    merged = merge_roots(roots)
    assert [root for root in roots if root in merged][:1] == merged[:1]
    for root in roots:
        assert sum(is_under(root, kept) for kept in merged) == 1
    assert set(merged) <= set(roots)


def test_merged_roots_are_real(tmp_path: Path) -> None:
    (tmp_path / "real" / "below").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    roots = [tmp_path / "link" / "below", tmp_path / "real", tmp_path / "link"]
    assert merge_roots(roots) == [tmp_path / "real"]


@pytest.fixture(params=["parent", "child"])
def sync(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The function of that name, which the child has for itself."""
    if request.param == "parent":
        return workspace.sync
    monkeypatch.syspath_prepend(str(ROOT / "selfheald" / "child"))
    return importlib.import_module("placing.file_dance").sync


class TestSync:
    """Of macOS: its own call where the file system knows it, else ``fsync``. 51 is no call of Linux'."""

    def test_what_the_disk_holds_back_is_asked_for(self, tmp_path: Path, sync: Any) -> None:
        asked: list[tuple[int, int]] = []
        with (tmp_path / "x").open("wb") as file:
            sync(file.fileno(), 51, lambda handle, what: asked.append((handle, what)))
            assert asked == [(file.fileno(), 51)]

    def test_a_file_system_that_cannot_be_told(self, tmp_path: Path, sync: Any) -> None:
        with (tmp_path / "x").open("wb") as file:
            sync(file.fileno(), 51)
        ends = os.pipe()
        try:
            with pytest.raises(OSError, match="Invalid argument"):  # of fsync, which was asked in its stead
                sync(ends[0], 51)
        finally:
            for end in ends:
                os.close(end)


class TestWriteAtomically:
    @pytest.mark.parametrize("durable", [True, False])
    def test_it_replaces_the_whole_file(self, tmp_path: Path, durable: bool) -> None:
        path = tmp_path / "x"
        path.write_text("old and longer")
        before = path.stat().st_ino
        write_atomically(path, "new ü", durable=durable)
        assert path.read_text(encoding="utf-8") == "new ü"
        assert path.stat().st_ino != before
        assert names_in(tmp_path) == ["x"]

    def test_a_reader_that_has_the_old_file_open_sees_nothing_half_written(self, tmp_path: Path) -> None:
        path = tmp_path / "x"
        path.write_text("old")
        with path.open(encoding="utf-8") as reader:
            write_atomically(path, "new")
            assert reader.read() == "old"

    def test_a_link_is_replaced_and_not_followed(self, tmp_path: Path) -> None:
        victim = tmp_path / "victim"
        victim.write_text("precious")
        (tmp_path / "x").symlink_to(victim)
        write_atomically(tmp_path / "x", "text")
        assert victim.read_text() == "precious"
        assert not (tmp_path / "x").is_symlink()
        assert (tmp_path / "x").read_text() == "text"

    def test_a_folder_that_is_a_link_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to("real")
        with pytest.raises(InitializationError) as caught:
            write_atomically(tmp_path / "link" / "x", "text")
        assert caught.value.code == "unsafe_path"
        assert names_in(tmp_path / "real") == []

    @pytest.mark.parametrize("mode", [0o600, 0o640, 0o644, 0o664, 0o777, 0o400])
    def test_who_may_read_the_database_may_read_the_file(self, tmp_path: Path, mode: int) -> None:
        like = tmp_path / NAME
        like.touch()
        like.chmod(mode)
        write_atomically(tmp_path / "x", "text", readable_like=like)
        assert mode_of(tmp_path / "x") == 0o600 | (mode & 0o044)

    @pytest.mark.parametrize("folder_mode", [0o700, 0o750, 0o755, 0o770])
    def test_without_a_database_the_folder_tells_who_may_read(self, tmp_path: Path, folder_mode: int) -> None:
        folder = tmp_path / "w"
        folder.mkdir()
        folder.chmod(folder_mode)
        write_atomically(folder / "x", "text", readable_like=folder / NAME)
        assert mode_of(folder / "x") == 0o600 | (folder_mode & 0o044)

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to any group")
    def test_the_group_is_the_database_s(self, tmp_path: Path) -> None:
        like = tmp_path / NAME
        like.touch()
        os.chown(like, -1, NOBODY)
        write_atomically(tmp_path / "x", "text", readable_like=like)
        assert (tmp_path / "x").stat().st_gid == NOBODY
        os.chown(tmp_path, -1, NOBODY)
        write_atomically(tmp_path / "y", "text")
        assert (tmp_path / "y").stat().st_gid == NOBODY

    def test_a_database_that_is_a_link_tells_nothing(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o700)
        (tmp_path / "open").touch()
        (tmp_path / "open").chmod(0o666)
        (tmp_path / NAME).symlink_to("open")
        write_atomically(tmp_path / "x", "text", readable_like=tmp_path / NAME)
        assert mode_of(tmp_path / "x") == 0o600

    def test_the_umask_does_not_matter(self, tmp_path: Path) -> None:
        like = tmp_path / NAME
        like.touch()
        like.chmod(0o644)
        before = os.umask(0o077)
        try:
            write_atomically(tmp_path / "x", "text", readable_like=like)
        finally:
            os.umask(before)
        assert mode_of(tmp_path / "x") == 0o644

    def test_nothing_is_left_when_the_text_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "x").write_text("old")
        with pytest.raises(UnicodeEncodeError):
            write_atomically(tmp_path / "x", "half of it \ud800")
        assert names_in(tmp_path) == ["x"]
        assert (tmp_path / "x").read_text() == "old"

    def test_nothing_is_left_when_a_folder_is_in_the_way(self, tmp_path: Path) -> None:
        (tmp_path / "x").mkdir()
        with pytest.raises(InitializationError) as caught:
            write_atomically(tmp_path / "x", "text")
        assert caught.value.code == "unsafe_path"
        assert names_in(tmp_path) == ["x"]

    def test_nothing_is_left_when_the_disk_is_full(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(handle: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(InitializationError) as caught:
            write_atomically(tmp_path / "x", "text")
        assert caught.value.code == "disk_full"
        assert names_in(tmp_path) == []

    def test_a_folder_that_is_gone(self, tmp_path: Path) -> None:
        with pytest.raises(InitializationError) as caught:
            write_atomically(tmp_path / "no" / "x", "text")
        assert caught.value.code == "interrupted"

    def test_a_read_only_folder_as_another_user(self, open_path: Path) -> None:
        (open_path / "x").write_text("old")
        open_path.chmod(0o555)
        code = (
            "import sys, pathlib\n"
            "from selfheald.workspace import write_atomically\n"
            "from selfheald.errors import InitializationError\n"
            "become_nobody()\n"
            "try: write_atomically(pathlib.Path(sys.argv[1]), 'text')\n"
            "except InitializationError as error: print(error.code, error.path)\n"
        )
        assert run_python(code, open_path / "x").split() == ["permission_denied", str(open_path / "x")]
        assert (open_path / "x").read_text() == "old"


class TestEnsurePrivateFolder:
    @pytest.mark.parametrize("mode", [0o700, 0o775, 0o2775, 0o1777])
    def test_it_takes_its_folder_s_mode(self, tmp_path: Path, mode: int) -> None:
        folder = tmp_path / "w"
        folder.mkdir()
        folder.chmod(mode)
        private = ensure_private_folder(Database.at(folder / NAME))
        assert private == folder / ".selfheald"
        assert mode_of(private) == mode & ~stat.S_ISVTX
        assert private.stat().st_gid == folder.stat().st_gid

    def test_one_that_is_there_stays_as_it_is(self, tmp_path: Path) -> None:
        (tmp_path / ".selfheald").mkdir()
        (tmp_path / ".selfheald").chmod(0o711)
        ensure_private_folder(Database.at(tmp_path / NAME))
        assert mode_of(tmp_path / ".selfheald") == 0o711

    @pytest.mark.parametrize("kind", ["file", "link", "dangling"])
    def test_anything_else_in_its_place_is_refused(self, tmp_path: Path, kind: str) -> None:
        private = tmp_path / ".selfheald"
        if kind == "file":
            private.touch()
        else:
            (tmp_path / "elsewhere").mkdir()
            private.symlink_to("elsewhere" if kind == "link" else "nowhere")
        with pytest.raises(InitializationError) as caught:
            ensure_private_folder(Database.at(tmp_path / NAME))
        assert caught.value.code == "unsafe_path"

    def test_a_folder_that_is_gone(self, tmp_path: Path) -> None:
        with pytest.raises(InitializationError) as caught:
            ensure_private_folder(Database.at(tmp_path / "gone" / NAME))
        assert caught.value.code == "interrupted"

    def test_a_read_only_folder_as_another_user(self, open_path: Path) -> None:
        code = (
            "import sys\n"
            "from selfheald.workspace import Database, ensure_private_folder\n"
            "from selfheald.errors import InitializationError\n"
            "become_nobody()\n"
            "try: ensure_private_folder(Database.at(sys.argv[1]))\n"
            "except InitializationError as error: print(error.code, error.path, error.hint)\n"
        )
        code, path, hint = run_python(code, open_path / NAME).split(maxsplit=2)
        assert (code, path) == ("permission_denied", str(open_path / ".selfheald"))
        assert f"chmod g+rwxs {open_path}" in hint


def test_open_folder_refuses_links_and_files(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with open_folder(tmp_path / "real") as handle:
        assert os.path.samestat(os.fstat(handle), (tmp_path / "real").stat())
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(handle)
    for name in ("file", "link"):
        with pytest.raises(InitializationError) as caught, open_folder(tmp_path / name):
            pass
        assert caught.value.code == "unsafe_path"


def test_remove_file(tmp_path: Path) -> None:
    (tmp_path / "target").touch()
    (tmp_path / "link").symlink_to("target")
    assert remove_file(tmp_path / "link")
    assert (tmp_path / "target").exists()
    assert not remove_file(tmp_path / "link")
    assert not remove_file(tmp_path / "target" / "below")
