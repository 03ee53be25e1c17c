"""What another configuration means for a daemon that runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from selfheald.config import Config
from selfheald.config_model import Sources
from selfheald.reloading import change

OLD: dict[str, Any] = {"watch": {"roots": ["/srv/a"]}, "state_dir": "/var/lib/selfheald"}


def config(**sections: Any) -> Config:
    return Config.model_validate(OLD | sections)


@pytest.mark.parametrize(
    ("sections", "keys", "watch_anew", "look_again"),
    [
        ({}, [], False, False),
        ({"watch": {"roots": ["/srv/a", "/srv/b"]}}, ["watch.roots"], True, False),
        ({"watch": {"roots": ["/srv/a"], "rescan": 5}}, ["watch.rescan"], True, False),
        ({"watch": {"roots": ["/srv/a"], "exclude": ["x"]}}, ["watch.exclude"], True, False),
        ({"watch": {"roots": ["/srv/a"], "settle": 1}}, ["watch.settle"], False, False),
        ({"watch": {"roots": ["/srv/a"], "heal": "never"}}, ["watch.heal"], False, True),
        ({"dbt": {"timeout": 5, "target": "x"}}, ["dbt.target", "dbt.timeout"], False, True),
        ({"required": {"select": ["a"]}}, ["required.select"], False, True),
        ({"limits": {"min_free_bytes": 1}}, ["limits.min_free_bytes"], False, True),
        ({"retry": {"attempts": 1}}, ["retry.attempts"], False, True),
        ({"log": {"level": "DEBUG"}}, ["log.level"], False, False),
        ({"shutdown": {"grace": 1}, "history": {"keep": 1}}, ["history.keep", "shutdown.grace"], False, False),
    ],
)
def test_what_it_asks_for(sections: dict[str, Any], keys: list[str], watch_anew: bool, look_again: bool) -> None:
    new = config(**sections)
    found = change(config(), new)
    assert sorted(found.keys) == keys
    assert (found.watch_anew, found.look_again) == (watch_anew, look_again)
    assert found.config == new
    assert found.kept == ()


def test_what_only_a_restart_can_change_is_kept() -> None:
    new = config(state_dir="/elsewhere", log={"level": "DEBUG"}).with_sources(Sources(file=Path("/etc/x.toml")))
    found = change(config(), new)
    assert found.kept == ("state_dir",)
    assert (found.config.state_dir, found.config.log.level) == (Path("/var/lib/selfheald"), "DEBUG")
    assert found.config.sources.file == Path("/etc/x.toml")
    assert (found.watch_anew, found.look_again) == (False, False)


def test_roots_within_each_other_are_one(tmp_path: Path) -> None:
    found = change(config(), config(watch={"roots": [str(tmp_path / "a"), str(tmp_path)]}))
    assert found.roots == [tmp_path]
