"""The command that reproduces a failure: what a shell makes of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from selfheald.reproduction import PRIVATE_FILE, reproduction

ODD = """it's "quoted" größe -- %s {x} $HOME `date` \\ * & ;"""
_SHOW = """
import json, os, sys
names = ("DATABASE_PATH", "TOKEN", "DBT_FULL_REFRESH", "SELFHEALD_VARS")
print(json.dumps([sys.argv[1:], {name: os.environ.get(name) for name in names}]))
"""


def told(*arguments: str, unset: list[str] | None = None) -> dict[str, Any]:
    return {"event": "command", "arguments": ["build", *arguments], "unset": unset or []}


def run(line: str, folder: Path) -> list[Any]:
    """What the command sees, with a program of ours in the place of dbt."""
    assert " -m dbt.cli.main " in line
    show = folder / "show.py"
    show.write_text(_SHOW)
    done = subprocess.run(
        ["sh", "-c", line.replace("-m dbt.cli.main", str(show))],
        env={"DBT_FULL_REFRESH": "true", "HOME": "/h"},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    seen: list[Any] = json.loads(done.stdout)
    return seen


def test_a_shell_hands_over_each_word_as_it_is(tmp_path: Path) -> None:
    arguments = ["--vars", f'{{note: "{ODD}"}}', "--select", "fqn:a.b,file:b?c.sql"]
    database = tmp_path / ODD.replace("\\", "") / "simulation.duckdb"
    found = reproduction(told(*arguments), python=sys.executable, database=database, extra={}, variables={"note": ODD})
    assert found.private is None
    words, environment = run(found.line, tmp_path)
    assert words == ["build", *arguments]
    assert environment == {
        "DATABASE_PATH": str(database),
        "TOKEN": None,
        "DBT_FULL_REFRESH": "true",
        "SELFHEALD_VARS": None,
    }


def test_what_changes_the_result_is_taken_out_of_the_environment(tmp_path: Path) -> None:
    found = reproduction(
        told(unset=["DBT_FULL_REFRESH"]), python=sys.executable, database=tmp_path / "d", extra={}, variables={}
    )
    assert run(found.line, tmp_path)[1]["DBT_FULL_REFRESH"] is None


@pytest.mark.parametrize(
    ("extra", "variables", "hidden"),
    [
        ({"TOKEN": "s3cret 'x'"}, {"year": 2030}, False),
        ({}, {"nested": [{"api_key": "s3cret 'x'"}]}, True),
        ({"TOKEN": "s3cret 'x'"}, {"password": "s3cret"}, True),
        ({}, {"source": "https://me:s3cret@host/x"}, True),
    ],
)
def test_secrets_come_from_a_private_file(
    extra: dict[str, str], variables: dict[str, Any], hidden: bool, tmp_path: Path
) -> None:
    text = json.dumps(variables)
    found = reproduction(
        told("--vars", text), python=sys.executable, database=tmp_path / "d", extra=extra, variables=variables
    )
    assert "s3cret" not in found.line
    assert found.private is not None
    (tmp_path / PRIVATE_FILE).write_text(found.private)
    words, environment = run(found.line, tmp_path)
    assert words == ["build", "--vars", text]
    assert ("$SELFHEALD_VARS" in found.line) == hidden
    assert environment["TOKEN"] == extra.get("TOKEN")
