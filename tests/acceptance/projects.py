"""Copies of the small dbt project that tests may break, and what must stay as it is while they are broken."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import NamedTuple

import duckdb
from processes import OWN_PROJECT, Running

#: What the small project makes.
OWN_TABLES = {"regions", "fct_headcount", "dim_regions"}
#: A simulator's own table, which was there before.
NOTES = {"notes"}


def copy_project(folder: Path) -> Path:
    """A copy of the small project, its seed tagged too, in place of whatever is at that path."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(OWN_PROJECT, folder)
    file = folder / "dbt_project.yml"
    seeds = "seeds:\n  own_project:\n"
    text = file.read_text()
    assert seeds in text
    file.write_text(text.replace(seeds, f'{seeds}    +tags: ["given"]\n'))
    return folder


def own_database(folder: Path) -> Path:
    """A database that holds a table of a simulator's own, and nothing that is required."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "simulation.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute("create table notes as select 42 as answer")
    return path


def tables(database: Path) -> set[str]:
    """The names of all tables and views in it."""
    with duckdb.connect(str(database), read_only=True) as connection:
        return {name for (name,) in connection.execute("select table_name from information_schema.tables").fetchall()}


class Fixed(NamedTuple):
    """What a file is while nobody changes it."""

    inode: int
    mode: int
    mtime_ns: int
    digest: str


def fixed(path: Path) -> Fixed:
    """The file at this path as it is now; a link's own text, a folder's names."""
    found = path.lstat()
    if path.is_symlink():
        content = str(path.readlink()).encode()
    elif path.is_dir():
        content = "\n".join(sorted(entry.name for entry in path.iterdir())).encode()
    elif path.is_file():
        content = path.read_bytes()
    else:
        content = b""
    return Fixed(found.st_ino, found.st_mode, found.st_mtime_ns, hashlib.sha256(content).hexdigest())


def told(running: Running) -> tuple[str, str]:
    """The two lines in which a command that failed tells of its error: what and where, and what to do."""
    return two_lines(running.stderr)


def error_block(stderr: str) -> tuple[list[str], str]:
    """An error as it ends what a command wrote: the lines of what and where, as dbt lays them out, and what to do."""
    lines = stderr.splitlines()
    begins = [number for number, line in enumerate(lines) if line.startswith("error")]
    assert len(begins) == 1, stderr
    first, *more, hint = lines[begins[0] :]
    assert all(line.startswith("  ") and line.strip() for line in [*more, hint]), stderr
    assert "Traceback" not in stderr
    return [first, *(line[2:] for line in more)], hint.strip()


def two_lines(stderr: str) -> tuple[str, str]:
    """The two lines of an error, which are the last ones, and the only ones of that kind."""
    lines = stderr.splitlines()
    assert len(lines) >= 2, stderr
    error, hint = lines[-2:]
    assert error.startswith("error"), stderr
    assert hint.startswith("  "), stderr
    assert hint.strip(), stderr
    assert sum(line.startswith("error") for line in lines) == 1, stderr
    assert "Traceback" not in stderr
    return error, hint.strip()


def staging_left(database: Path) -> list[Path]:
    """The staging folders beside a database."""
    return list((database.parent / ".selfheald").glob("staging-*"))
