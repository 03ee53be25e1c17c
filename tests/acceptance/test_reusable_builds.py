"""What is proven to be the same in every run is so when dbt makes it by hand: elsewhere, later, under another clock's
zone, another locale and another order of Python's sets."""

from __future__ import annotations

from pathlib import Path

import pytest
from fixtures import reuse_cases as cases
from plain_dbt import by_hand, contents, relations


def test_two_builds_hold_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for name, zone, locale, seed in (("here", "UTC", "C", "1"), ("over there", "Asia/Tokyo", "tr_TR.UTF-8", "2")):
        for key, value in {"TZ": zone, "LC_ALL": locale, "PYTHONHASHSEED": seed, "USER": name}.items():
            monkeypatch.setenv(key, value)
        project = tmp_path / name / "project"
        for file, text in cases.models_project(proven_only=True).items():
            (project / file).parent.mkdir(parents=True, exist_ok=True)
            (project / file).write_text(text)
        made.append(by_hand(project, tmp_path / name / "simulation.duckdb", ["seed"], ["run"]))
    names = relations(made[0])
    assert len(names) > 15
    assert contents(made[0], names) == contents(made[1], names)
