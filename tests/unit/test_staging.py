"""Staging folders, and what killed processes left of them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fixtures.files import names_in
from fixtures.processes import run_python, started

from selfheald.errors import InitializationError
from selfheald.staging import KEPT_SECONDS, clean_leftovers, has_leftovers, open_staging, require_space
from selfheald.workspace import Database

HOLD = """
import sys
from selfheald.staging import open_staging
from selfheald.workspace import Database
with open_staging(Database.at(sys.argv[1])) as staging:
    staging.database.write_bytes(b"half")
    print(staging.folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database.at(tmp_path / "simulation.duckdb")


def staging_folders(database: Database) -> list[str]:
    return [name for name in names_in(database.private) if name.startswith("staging-")]


def test_it_lies_beside_the_database_and_goes_in_the_end(database: Database) -> None:
    with open_staging(database) as staging:
        assert staging.folder.parent == database.private
        assert staging.database == staging.folder / "simulation.duckdb"
        assert staging.work.is_dir()
        assert staging.folder.stat().st_mode & 0o777 == 0o700
        assert has_leftovers(database)
        staging.database.write_bytes(b"content")
    assert staging_folders(database) == []
    assert not has_leftovers(database)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(staging.lock)


@pytest.mark.parametrize("error", [InitializationError("no"), ZeroDivisionError(), KeyboardInterrupt()])
def test_a_failure_leaves_nothing(database: Database, error: BaseException) -> None:
    with pytest.raises(type(error)), open_staging(database):
        raise error
    assert staging_folders(database) == []


def keep_one(database: Database) -> Path:
    with pytest.raises(InitializationError), open_staging(database, keep_on_error=True) as staging:
        raise InitializationError("no")
    assert staging.kept.name == staging.folder.name.replace("staging-", "kept-")
    return staging.kept


def test_a_failure_keeps_it_on_request_under_a_name_that_clean_up_passes_over(database: Database) -> None:
    kept = keep_one(database)
    assert names_in(kept) == ["work"]
    assert staging_folders(database) == []
    assert not has_leftovers(database)
    assert clean_leftovers(database) == []
    with pytest.raises(InitializationError), open_staging(database):
        raise InitializationError("no")
    assert names_in(database.private) == [kept.name]


def test_one_kept_folder_replaces_another_and_a_success_removes_it(database: Database) -> None:
    first, second = keep_one(database), keep_one(database)
    assert not first.exists()
    with open_staging(database):
        assert second.exists()
    assert names_in(database.private) == []


@pytest.mark.parametrize("error", [ZeroDivisionError(), KeyboardInterrupt()])
def test_only_a_failure_keeps_it(database: Database, error: BaseException) -> None:
    with pytest.raises(type(error)), open_staging(database, keep_on_error=True):
        raise error
    assert names_in(database.private) == []


def test_a_kept_folder_goes_when_nobody_used_it_for_long(database: Database) -> None:
    kept = keep_one(database)
    now = time.time()
    os.utime(kept, times=(now, now - KEPT_SECONDS + 60))
    assert not has_leftovers(database)
    assert clean_leftovers(database) == []
    os.utime(kept, times=(now, now - KEPT_SECONDS - 1))
    assert has_leftovers(database)
    assert clean_leftovers(database) == [kept]
    assert names_in(database.private) == []


def test_what_is_in_use_here_is_kept(database: Database) -> None:
    with open_staging(database) as staging:
        assert clean_leftovers(database) == []
        assert staging.work.is_dir()


def test_what_another_process_uses_is_kept_and_removed_once_that_is_dead(database: Database) -> None:
    with started(HOLD, database) as other:
        assert clean_leftovers(database) == []
        (folder,) = staging_folders(database)
        other.kill()
        other.wait()
        assert has_leftovers(database)
        assert clean_leftovers(database) == [database.private / folder]
    assert not has_leftovers(database)


def test_a_child_that_inherited_the_lock_keeps_it(database: Database) -> None:
    with open_staging(database) as staging:
        child = subprocess.Popen(
            [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE, pass_fds=[staging.lock]
        )
        kept = staging.folder.with_name("staging-kept")
        staging.folder.rename(kept)
    with child:
        assert clean_leftovers(database) == []
        assert kept.exists()
    assert clean_leftovers(database) == [kept]


def test_temporary_files_of_killed_writers_are_removed(database: Database) -> None:
    database.private.mkdir()
    name = database.path.name
    ours = [
        database.folder / f".{name}.ready.0123456789ab.tmp",
        database.private / f".{name}.status.0123456789ab.tmp",
        database.private / f".{name}.history.0123456789ab.tmp",
    ]
    others = [
        database.folder / f".{name}.ready.txt",
        database.folder / "notes.tmp",
        database.folder / name,
        database.private / f"{name}.lock",
        database.private / f".{name}.request.taken",
        database.private / ".other.duckdb.status.0123456789ab.tmp",
    ]
    for path in ours + others:
        path.touch()
    assert sorted(clean_leftovers(database)) == sorted(ours)
    assert not any(path.exists() for path in ours)
    assert all(path.exists() for path in others)


def test_links_are_not_followed(database: Database, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    database.private.mkdir()
    (database.private / "staging-link").symlink_to(precious)
    (database.private / "staging-file").touch()
    assert clean_leftovers(database) == []
    assert (precious / "file").exists()


def test_a_private_folder_that_is_a_link_is_left_alone(database: Database, tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "staging-x").mkdir(parents=True)
    database.private.symlink_to("elsewhere")
    assert clean_leftovers(database) == []
    assert (tmp_path / "elsewhere" / "staging-x").exists()


def test_without_a_private_folder_there_is_nothing(database: Database) -> None:
    assert clean_leftovers(database) == []
    assert not has_leftovers(database)


def test_a_folder_that_may_not_be_written(open_path: Path) -> None:
    (open_path / ".selfheald").mkdir()
    code = (
        "import sys\n"
        "from selfheald.errors import InitializationError\n"
        "from selfheald.staging import open_staging\n"
        "from selfheald.workspace import Database\n"
        "become_nobody()\n"
        "try:\n"
        "    with open_staging(Database.at(sys.argv[1])): pass\n"
        "except InitializationError as error: print(error.code)\n"
    )
    assert run_python(code, open_path / "simulation.duckdb") == "permission_denied\n"


def test_space(tmp_path: Path) -> None:
    found = os.statvfs(tmp_path)
    free = found.f_bavail * found.f_frsize
    require_space(tmp_path, minimum=0, staging_bytes=0)
    require_space(tmp_path, minimum=free // 4, staging_bytes=free // 8)
    for minimum, staging_bytes in ((2 * free, 0), (0, free), (free // 2, free // 2)):
        with pytest.raises(InitializationError) as caught:
            require_space(tmp_path, minimum=minimum, staging_bytes=staging_bytes)
        assert caught.value.code == "disk_full"
        assert caught.value.path == str(tmp_path)
        assert caught.value.retryable
