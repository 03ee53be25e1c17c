"""Databases that are not to be touched, and what users get wrong: a code, two lines, and nothing is changed."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pytest
from conftest import Copied
from fixtures.waiting import DEADLINE, wait_for
from processes import NAME, Daemon, Record, Running, Selfheald, change, snapshot, status
from projects import Fixed, copy_project, fixed, told, two_lines

Spoil = Callable[[Path, Copied], object]


class Untouchable(NamedTuple):
    """How a database is spoilt, the code that this has, and words of the message or the hint."""

    code: str
    spoil: Spoil
    words: tuple[str, ...]


def _truncated(database: Path, complete: Copied) -> None:
    complete(database.parent)
    os.truncate(database, database.stat().st_size // 2)


def _damaged_catalog(database: Path, complete: Copied) -> None:
    complete(database.parent)
    content = bytearray(database.read_bytes())
    place = _catalog_block(content)
    for offset in range(place + 8, place + 4096):
        content[offset] ^= 0xFF
    database.write_bytes(content)


def _within_headers(database: Path, complete: Copied) -> None:
    complete(database.parent)
    os.truncate(database, 5000)


def _newer(database: Path, complete: Copied) -> None:
    complete(database.parent)
    content = bytearray(database.read_bytes())
    struct.pack_into("<Q", content, 12, 9999)
    content[:8] = _checksum(bytes(content[8:4096])).to_bytes(8, "little")
    database.write_bytes(content)


def _encrypted(database: Path, complete: Copied) -> None:
    with duckdb.connect() as connection:
        connection.execute("set force_mbedtls_unsafe = 'true'")  # no other cryptography without an extension
        connection.execute(f"attach '{database}' as secret (ENCRYPTION_KEY 'of a test')")
        connection.execute("create table secret.notes as select 42 as answer")


def _empty_with_wal(database: Path, complete: Copied) -> None:
    database.touch()
    database.with_name(f"{NAME}.wal").write_bytes(b"rows of a database that is gone")


def _link(database: Path, complete: Copied) -> None:
    database.symlink_to(complete(database.parent).rename(database.with_name("other.duckdb")))


def _view(database: Path, complete: Copied) -> None:
    change(complete(database.parent), "drop table comp_levers", "create view comp_levers as select 1 as level_id")


def _lacks_column(database: Path, complete: Copied) -> None:
    change(complete(database.parent), "alter table config_age_bands drop column age_band")


UNTOUCHABLE = {
    "truncated": Untouchable("database_corrupt", _truncated, ("cut off", "selfheald repair --quarantine")),
    "damaged catalog": Untouchable("database_corrupt", _damaged_catalog, ("damaged", "selfheald repair --quarantine")),
    "cut within its headers": Untouchable("database_corrupt", _within_headers, ("5000 bytes", "back-up")),
    "newer": Untouchable("database_newer", _newer, ("9999", "Upgrade the DuckDB")),
    "encrypted": Untouchable("database_encrypted", _encrypted, ("is encrypted", "decrypt it")),
    "text": Untouchable(
        "not_a_database",
        lambda database, complete: database.write_text("level,pay\n1,100\n"),
        ("is not a DuckDB database", "Move the file away"),
    ),
    "empty with a WAL": Untouchable("database_corrupt", _empty_with_wal, (f"{NAME}.wal", "move the WAL away")),
    "folder": Untouchable("not_a_database", lambda database, complete: database.mkdir(), ("is a folder",)),
    "pipe": Untouchable("not_a_database", lambda database, complete: os.mkfifo(database), ("is a pipe",)),
    "link": Untouchable("unsafe_path", _link, ("symbolic link", "plain file")),
    "view": Untouchable("schema_mismatch", _view, ("comp_levers is a view", "Rename or drop the table")),
    "lacks a column": Untouchable("schema_mismatch", _lacks_column, ("config_age_bands has no column age_band",)),
}


@pytest.mark.parametrize("untouchable", UNTOUCHABLE.values(), ids=list(UNTOUCHABLE))
def test_a_database_that_is_not_ours_to_mend(
    untouchable: Untouchable, daemon: Daemon, workspace: Path, shared_selfheald: Selfheald, complete: Copied
) -> None:
    """``check``, ``ensure``, and a daemon with its waiter: the same code, two lines each, and nothing is changed."""
    folder = workspace / "workspace"
    (workspace / ".selfheald-ignore").touch()  # until it is spoilt
    folder.mkdir()
    database = folder / NAME
    untouchable.spoil(database, complete)
    shutil.rmtree(folder / ".selfheald", ignore_errors=True)
    before = _all_fixed(folder)
    (workspace / ".selfheald-ignore").unlink()

    with ExitStack() as stack:
        commands = {
            name: stack.enter_context(shared_selfheald.started(name, database, "--json"))
            for name in ("check", "ensure", "wait")
        }
        documents = {}
        for name, running in commands.items():
            assert running.wait() == 1, (name, running.stderr)
            documents[name] = _document(running)
            first, second = told(running)
            assert first.startswith(f"error[{untouchable.code}]: "), first
            assert str(database) in first
            for word in untouchable.words:
                assert word in f"{first} {second}", name

    assert {document["error"]["code"] for document in documents.values()} == {untouchable.code}
    assert {document["error"]["path"] for document in documents.values()} == {str(database)}
    assert documents["check"]["complete"] is False
    assert documents["ensure"]["tables_created"] == []
    assert (status(database)["state"], status(database)["reason"]) == ("failed", "needs_person")
    assert status(database)["error"] == documents["wait"]["error"]
    assert _all_fixed(folder) == before
    assert not database.with_name(f"{NAME}.ready").exists()


#: What is written into selfheald.toml, or set in the environment, and what must be told of it.
MISTAKES: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "unknown key": ("[watch]\nsettle = 0.3\n\n[dbt]\ntimeuot = 5\n", {}, ":5: dbt.timeuot", "dbt.timeout?"),
    "unknown section": ("[dtb]\ntimeout = 5\n", {}, ":1: dtb", "did you mean dbt?"),
    "wrong value": ('[dbt]\ntimeout = "soon"\n', {}, ":2: dbt.timeout", '"soon"'),
    "not TOML": ("[dbt\n", {}, ":1: not TOML", ""),
    "unknown variable": ("", {"WATCH__SETLE": "1"}, "SELFHEALD_WATCH__SETLE", "SELFHEALD_WATCH__SETTLE?"),
    "wrong variable": ("", {"RETRY__ATTEMPTS": "0"}, "SELFHEALD_RETRY__ATTEMPTS: retry.attempts", "1"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_configuration(mistake: str, selfheald: Selfheald, root: Path) -> None:
    """The key, the line, and the nearest right one; nothing is begun."""
    text, settings, place, advice = MISTAKES[mistake]
    file = selfheald.folder / "settings.toml"
    file.write_text(text)
    for command in (["run", root], ["ensure", root], ["config", "validate"]):
        done = selfheald.run(*command, "--config", file, **settings)
        assert done.returncode == 2, command
        first, second = two_lines(done.stderr)
        assert first.startswith("error[config_invalid]: ")
        assert place in first
        assert advice in first
        assert "selfheald config validate" in second
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("options", [["--timeout", "1"], ["--timeout", "1", "--or-ensure"]])
def test_a_waiter_is_told_of_a_wrong_file_at_once(options: list[str], selfheald: Selfheald, root: Path) -> None:
    """Also though it would not need it."""
    file = selfheald.folder / "nowhere.toml"
    done = selfheald.run("wait", root, *options, "--config", file)
    assert done.returncode == 2, done.stderr
    assert two_lines(done.stderr)[0] == f"error[config_invalid]: {file}: cannot be read: No such file or directory"


@pytest.mark.parametrize("name", ["nothing", "file"])
def test_a_root_that_is_no_folder(name: str, selfheald: Selfheald, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    before = snapshot(tmp_path)
    done = selfheald.run("run", tmp_path / name)
    assert done.returncode == 2
    first, second = two_lines(done.stderr)
    what = {"nothing": "does not exist", "file": "is not a folder"}[name]
    assert first == f"error[config_invalid]: the root {tmp_path / name} {what}"
    assert "watch.roots" in second
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("command", ["check", "ensure", "wait"])
@pytest.mark.parametrize("place", ["nowhere/simulation.duckdb", "both", "notes.txt"])
def test_a_path_that_means_no_database(command: str, place: str, selfheald: Selfheald, tmp_path: Path) -> None:
    """A folder that is not there, one that has two databases, and a name that no database has."""
    both = tmp_path / "both"
    (both / "dbt").mkdir(parents=True)
    (both / NAME).touch()
    (both / "dbt" / NAME).touch()
    before = snapshot(tmp_path)
    done = selfheald.run(command, tmp_path / place)
    assert done.returncode == 2
    first, _ = two_lines(done.stderr)
    told_of = {"both": [both / NAME, both / "dbt" / NAME], "notes.txt": [tmp_path / place]}
    assert all(str(path) in first for path in told_of.get(place, [tmp_path / "nowhere"]))
    assert snapshot(tmp_path) == before


def test_nobody_at_work(selfheald: Selfheald, root: Path) -> None:
    """A wait that is over before it is clear that nobody watches: timed out, and nothing is left on disk."""
    done = selfheald.run("wait", root, "--timeout", "0.5", "--json")
    assert done.returncode == 3
    document = json.loads(done.stdout)
    assert (document["outcome"], document["error"]["code"]) == ("timeout", "timeout")
    assert 0.5 <= document["waited_seconds"] < 5
    first, second = two_lines(done.stderr)
    assert first == f"error[timeout]: not ready after 0.5 s: {root / NAME}"
    assert "selfheald status" in second
    assert list(root.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [["frobnicate"], ["wait", "--quickly"], ["ensure", "--timeout", "soon"], ["check", "one", "two"], ["exec", "--"]],
    ids=" ".join,
)
def test_a_command_line_that_is_wrong(arguments: list[str], selfheald: Selfheald) -> None:
    """What is wrong and where to read how it is right, exit code 2, and nothing is begun."""
    done = selfheald.run(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "-h' for help" in done.stderr
    assert arguments[-1] in done.stderr or "soon" in arguments
    assert len(done.stderr.splitlines()) < 10
    assert list(selfheald.folder.iterdir()) == []


def test_a_private_folder_that_is_a_link(
    daemon: Daemon, workspace: Path, shared_selfheald: Selfheald, tmp_path: Path
) -> None:
    """What is written beside a database is never written through a link."""
    (workspace / ".selfheald").symlink_to(tmp_path)
    before = _all_fixed(workspace)
    for command in ("ensure", "wait"):
        done = shared_selfheald.run(command, workspace)
        assert done.returncode == 1, (command, done.stderr)
        first, _ = two_lines(done.stderr)
        assert first == f"error[unsafe_path]: {workspace / '.selfheald'} is not a folder"
    assert _all_fixed(workspace) == before
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def open_selfheald(open_path: Path, environment: dict[str, str]) -> Selfheald:
    """In a folder where others may keep their state."""
    home = open_path / "home"
    home.mkdir()
    home.chmod(0o777)
    own = {"HOME": str(home), "SELFHEALD_STATE_DIR": str(home / "state"), "SELFHEALD_LOG__FILE": ""}
    return Selfheald(home, environment | own)


@pytest.mark.parametrize("private", [False, True], ids=["new", "used before"])
def test_a_folder_that_one_may_not_write(
    private: bool, nobody: tuple[list[str], dict[str, str]], open_path: Path, open_selfheald: Selfheald
) -> None:
    """``ensure``, and a waiter beside a daemon that may: told at once, and nothing is changed."""
    prefix, environment = nobody
    root = open_path / "root"
    workspace = root / "workspace"
    workspace.mkdir(parents=True)
    if private:
        (workspace / ".selfheald").mkdir()
    project = copy_project(open_path / "project")
    settings = open_selfheald.settings(DBT__PROJECT_DIR=str(project)) | environment
    with open_selfheald.daemon(root):
        before = snapshot(workspace)
        for command in ("ensure", "wait"):
            done = subprocess.run(
                [*prefix, command, str(workspace), "--json"],
                env=settings, cwd=root, capture_output=True, text=True, timeout=DEADLINE, check=False,
            )  # fmt: skip
            assert done.returncode == 1, done.stderr
            error = json.loads(done.stdout)["error"]
            assert error["code"] == "permission_denied"
            assert Path(error["path"]).is_relative_to(workspace)
            first, _ = two_lines(done.stderr)
            assert first.startswith("error[permission_denied]: ")
            assert str(workspace) in first
        assert snapshot(workspace) == before


@pytest.mark.parametrize("place", ["workspace", f"workspace/{NAME}"])
@pytest.mark.parametrize("command", ["check", "ensure", "wait", "status", "repair --retry"])
def test_a_folder_above_that_is_closed(
    command: str, place: str, nobody: tuple[list[str], dict[str, str]], open_path: Path, open_selfheald: Selfheald
) -> None:
    """Whether anything is there cannot be seen: that is told, and no traceback."""
    prefix, environment = nobody
    closed = open_path / "closed"
    (closed / "workspace").mkdir(parents=True)
    closed.chmod(0)
    name, *options = command.split()
    done = subprocess.run(
        [*prefix, name, str(closed / place), *options],
        env=open_selfheald.settings() | environment, cwd=open_path, capture_output=True, text=True, timeout=DEADLINE,
        check=False,
    )  # fmt: skip
    closed.chmod(0o755)
    assert done.returncode in (1, 2), done.stderr
    first, _ = two_lines(done.stderr)
    assert first.startswith("error[permission_denied]: ")
    assert str(closed) in first


def test_a_daemon_that_may_not_write(
    nobody: tuple[list[str], dict[str, str]], open_path: Path, open_selfheald: Selfheald
) -> None:
    """It goes on, its log tells of the folder, and who waits in vain reads what may be the reason."""
    prefix, environment = nobody
    root = open_path / "root"
    workspace = root / "workspace"
    workspace.mkdir(parents=True)
    os.chown(root, 65534, 65534)
    settings = open_selfheald.settings(LOG__JSON="true") | environment
    with _daemon_of(prefix, root, settings, open_selfheald.folder) as log:
        done = open_selfheald.run("wait", workspace, "--timeout", "2")
        assert done.returncode == 3
        assert "may it write to" in two_lines(done.stderr)[1]
        wait_for(lambda: "permission_denied" in log.read_text(), what=log.read_text)
        assert "Traceback" not in log.read_text()
        assert str(workspace) in log.read_text()


@contextmanager
def _daemon_of(prefix: list[str], root: Path, environment: dict[str, str], folder: Path) -> Iterator[Path]:
    """A daemon that somebody else runs; its log, when it is ready."""
    log = folder / "stderr"
    with log.open("wb") as stderr:
        process = subprocess.Popen([*prefix, "run", str(root)], env=environment, cwd=root, stderr=stderr)
    try:
        wait_for(lambda: "daemon_ready" in log.read_text(), what=log.read_text)
        yield log
    finally:
        process.terminate()
        process.wait(DEADLINE)


def _document(running: Running) -> Record:
    document: Record = json.loads(running.stdout)
    return document


def _all_fixed(folder: Path) -> dict[str, Fixed]:
    """All below a folder but what selfheald itself keeps there."""
    return {
        str(path.relative_to(folder)): fixed(path)
        for path in sorted(folder.rglob("*"))
        if not path.is_relative_to(folder / ".selfheald") or (folder / ".selfheald").is_symlink()
    }


def _live_header(content: bytes | bytearray) -> tuple[int, ...]:
    return max(struct.unpack_from("<QQQQQ", content, start + 8) for start in (4096, 8192))


def _catalog_block(content: bytes | bytearray) -> int:
    """Where the block begins that the live header names as the catalog's first one (its number is in 56 bits)."""
    _, meta_block, _, _, block_size = _live_header(content)
    return 12288 + (meta_block & ((1 << 56) - 1)) * block_size


def _checksum(block: bytes) -> int:
    """DuckDB's checksum of a header."""
    result = 5381
    for (word,) in struct.iter_unpack("<Q", block):
        result ^= (word * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    return result


@pytest.mark.parametrize("name", ["plan #2", "what?", "back\\slash"])
def test_a_path_that_dbt_would_take_for_something_else(name: str, shared_selfheald: Selfheald, tmp_path: Path) -> None:
    """It is refused before anything is made; a database that is complete needs no dbt, and so is fine there."""
    folder = tmp_path / name
    folder.mkdir()
    refused = shared_selfheald.run("ensure", folder)
    assert refused.returncode == 1
    assert "error[unsafe_path]" in refused.stderr
    assert "Rename the folder" in refused.stderr
    assert not (folder / NAME).exists()
