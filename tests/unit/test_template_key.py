"""What a template is known by: each thing that the finished database depends on gives another key."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from selfheald import template_key as keys
from selfheald.config import Config, load_config
from selfheald.initialization_state import RequiredTable, TableTier
from selfheald.plan import Plan
from selfheald.planner import Settings
from selfheald.template_key import FileDigests, UnkeyedError, declared_files, template_key
from selfheald.variables import as_jinja_text
from selfheald.workspace import Database

TABLE = RequiredTable("regions", TableTier.SEED)


class Site:
    """A project with a census beside it, and what a template of it is known by."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.project = folder / "project"
        (self.project / "data").mkdir(parents=True)
        self.census = self.project / "data" / "census.csv"
        self.census.write_text("1")
        self.config: Config = load_config(overrides={"state_dir": str(folder / "state")}, environ={})
        self.database = Database(folder / "w" / "simulation.duckdb")
        self.database.folder.mkdir()
        self.plan = Plan("sha256:1", "p", str(self.project), (TABLE,), {}, {}, {"dbt": "1", "duckdb": "1"})
        self.settings = Settings(self.project, None, "python", {}, {})
        self.digests = FileDigests()

    def with_variables(self, **variables: Any) -> Site:
        self.settings = replace(self.settings, variables=variables)
        return self

    def with_config(self, section: str, **values: object) -> Site:
        changed = getattr(self.config, section).model_copy(update=values)
        self.config = self.config.model_copy(update={section: changed})
        return self

    def key(self) -> str:
        return template_key(self.config, self.database, self.plan, self.settings, self.digests).text

    def files(self) -> list[str]:
        found = declared_files(self.config, self.database, self.plan, self.settings)
        return [os.path.relpath(path, self.folder) for path in found]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return Site(tmp_path)


def test_the_same_has_the_same_key(site: Site) -> None:
    first = site.key()
    assert len(first) == 64
    site.digests = FileDigests()
    site.database = Database(site.folder / "another" / "simulation.duckdb")
    assert site.key() == first


CHANGES: dict[str, Callable[[Site], object]] = {
    "project, variables, environment": lambda site: setattr(site, "plan", replace(site.plan, fingerprint="sha256:2")),
    "versions": lambda site: setattr(site, "plan", replace(site.plan, versions={"dbt": "1", "duckdb": "2"})),
    "tables": lambda site: setattr(site, "plan", replace(site.plan, required=(TABLE, replace(TABLE, name="b")))),
    "catalog": lambda site: setattr(site, "database", Database(site.database.folder / "other.duckdb")),
    "project's place": lambda site: setattr(site, "settings", replace(site.settings, project_dir=site.folder)),
    "profile": lambda site: setattr(site, "settings", replace(site.settings, profiles_dir=site.folder)),
    "target": lambda site: site.with_config("dbt", target="prod"),
    "threads": lambda site: site.with_config("dbt", threads=4),
    "storage_version": lambda site: site.with_config("dbt", storage_version="latest"),
    "pre_sql": lambda site: site.with_config("dbt", pre_sql="select 1"),
    "a file's content": lambda site: site.census.write_text("2"),
    "a file more": lambda site: (site.project / "data" / "more.csv").write_text("1"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_each_thing_counts(what: str, site: Site) -> None:
    site.with_variables(census="data/*.csv")
    before = site.key()
    CHANGES[what](site)
    assert site.key() != before


def test_a_file_of_the_same_size_and_mtime_is_read_again(site: Site) -> None:
    site.with_variables(census="data/census.csv")
    old = site.census.stat().st_mtime_ns - 10_000_000_000
    os.utime(site.census, ns=(old, old))
    before = site.key()
    site.census.write_text("2")
    os.utime(site.census, ns=(old, old))
    assert site.key() != before


def test_an_old_file_is_read_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "_SETTLED_NS", -1)
    site.with_variables(census="data/census.csv")
    before = site.key()

    def unreadable(path: str) -> tuple[str, keys._Stamp]:
        raise AssertionError(path)

    monkeypatch.setattr(keys, "_read", unreadable)
    assert site.key() == before
    site.census.write_text("22")
    with pytest.raises(AssertionError):
        site.key()


@pytest.mark.parametrize(
    "value",
    [
        "data/census.csv",
        "data/cen*.csv",
        "**/census.csv",
        ["text", {"path": "data/census.csv"}],
        {"inner": [["data/census.csv"]]},
        "./data/../data/census.csv",
    ],
    ids=str,
)
def test_files_that_values_name(value: object, site: Site) -> None:
    assert site.with_variables(some=value).files() == ["project/data/census.csv"]
    (site.folder / "elsewhere.csv").write_text("")
    assert site.with_variables(some=str(site.folder / "elsewhere.csv")).files() == ["elsewhere.csv"]


@pytest.mark.parametrize(
    "value",
    [
        "",
        ".",
        "data",
        "no/such/file",
        "s3://bucket/census.csv",
        "a\nb",
        "a\0b",
        7,
        None,
        True,
        "x" * 5000,
        "select * from a",
    ],
    ids=repr,
)
def test_what_names_none(value: object, site: Site) -> None:
    assert site.with_variables(some=value).files() == []


def test_a_file_beside_which_it_runs(site: Site, tmp_path: Path) -> None:
    """DuckDB takes a relative path so."""
    (tmp_path / "here" / "data").mkdir()
    (tmp_path / "here" / "data" / "census.csv").write_text("another")
    assert site.with_variables(some="data/census.csv").files() == ["here/data/census.csv", "project/data/census.csv"]
    (tmp_path / "here" / "data" / "census.csv").unlink()
    (tmp_path / "here" / "data").rmdir()
    (tmp_path / "here").rmdir()
    with pytest.raises(UnkeyedError, match="is gone"):
        site.key()


def test_names_that_look_like_globs_or_jinja(site: Site) -> None:
    for name in ("[1].csv", "{a}.csv"):
        (site.project / name).write_text("")
        assert site.with_variables(some=as_jinja_text(name)).files() == [f"project/{name}"]


def test_the_projects_own_defaults_count_unless_another_value_replaces_them(site: Site) -> None:
    site.plan = replace(site.plan, variables="{'census': 'data/census.csv', 'p': {'other': 'data/other.csv'}}")
    (site.project / "data" / "other.csv").write_text("")
    assert site.files() == ["project/data/census.csv", "project/data/other.csv"]
    assert site.with_variables(census="none").files() == ["project/data/other.csv"]


def test_inputs(site: Site) -> None:
    (site.database.folder / "data").mkdir()
    (site.database.folder / "data" / "own.csv").write_text("")
    site.with_config("templates", inputs=("{workspace}/data/*.csv", str(site.census)))
    assert site.files() == ["project/data/census.csv", "w/data/own.csv"]


def test_too_many_files_have_no_key(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "MOST_FILES", 2)
    for number in range(3):
        (site.project / f"{number}.csv").write_text("")
    with pytest.raises(UnkeyedError, match="more than 2 files"):
        site.with_variables(some="*.csv").key()


def test_a_file_that_changes_while_it_is_read_has_no_key(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    real = keys._read

    def changing(path: str) -> tuple[str, keys._Stamp]:
        found = real(path)
        with site.census.open("a") as file:
            file.write("more")
        return found[0], keys._stamp(Path(path).stat())

    monkeypatch.setattr(keys, "_read", changing)
    with pytest.raises(UnkeyedError, match="changes while it is read"):
        site.with_variables(some="data/census.csv").key()


def test_a_file_that_cannot_be_read_has_no_key(site: Site) -> None:
    site.with_config("templates", inputs=(str(site.census),))
    key_of = FileDigests().of
    with pytest.raises(UnkeyedError, match="cannot be read"):
        key_of(str(site.folder / "gone"))
    with pytest.raises(UnkeyedError, match="no regular file"):
        key_of(str(site.folder))
