"""``dbt.vars_command``: its answer, its failures, and that nothing of it outlives its time limit."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fixtures.processes import is_alive
from jinja2 import Template

from selfheald import variables
from selfheald.config import Config, load_config
from selfheald.errors import InitializationError, InitializationTimeoutError
from selfheald.planner import Planner
from selfheald.workspace import Database

_HANGING = """
import os, subprocess, sys
helper = subprocess.Popen(["sleep", "600"])
with open(sys.argv[1] + "~", "w") as file:
    file.write(f"{os.getpid()} {helper.pid}")
os.replace(sys.argv[1] + "~", sys.argv[1])
helper.wait()
"""


def planner_with(tmp_path: Path, *command: str) -> tuple[Planner, Database]:
    config = load_config(overrides={"state_dir": str(tmp_path / "state")}, environ={})
    dbt = config.dbt.model_copy(update={"vars_command": command, "vars": {"given": 1, "both": 1}})
    changed: Config = config.model_copy(update={"dbt": dbt})
    return Planner(changed), Database(tmp_path / "simulation.duckdb")


async def variables_of(tmp_path: Path, code: str, *arguments: str) -> dict[str, object]:
    made, database = planner_with(tmp_path, sys.executable, "-c", code, *arguments)
    return dict((await made.settings_for(database)).variables)


@pytest.mark.anyio
async def test_the_answer_goes_over_the_variables_of_the_configuration(tmp_path: Path) -> None:
    code = """import os, json; print(json.dumps({"both": 2, "folder": os.getcwd()}))"""
    assert await variables_of(tmp_path, code) == {"given": 1, "both": 2, "folder": str(tmp_path)}


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("raise SystemExit(3)", "ended with exit code 3$"),
        ("import sys; sys.exit('no such\\x1b[1m\\ndatabase')", "exit code 1; it says: no such\\?\\[1m database$"),
        ("import sys; sys.exit('x' * 9999 + ' the end')", "exit code 1; it says: …x{391} the end$"),
        ("print('[1]')", "did not print a JSON object, but a list$"),
        ("print('no JSON')", "dbt.vars_command: it printed no JSON: Expecting value"),
        ("import sys; print('warned', file=sys.stderr)", "printed no JSON: .*; it says: warned$"),
        ("print('[' * 100000)", "printed no JSON: "),
        ("import sys; sys.stdout.buffer.write(bytes([255]))", "printed no JSON: 'utf-8' codec"),
        ("while True: print('x' * 65536)", "printed more than 1048576 bytes"),
    ],
)
@pytest.mark.anyio
async def test_a_failure_is_told(tmp_path: Path, code: str, says: str) -> None:
    with pytest.raises(InitializationError, match=says) as caught:
        await variables_of(tmp_path, code)
    assert (caught.value.code, caught.value.path) == ("config_invalid", sys.executable)


@pytest.mark.anyio
async def test_a_command_that_cannot_be_started_is_told(tmp_path: Path) -> None:
    made, database = planner_with(tmp_path, str(tmp_path / "none"))
    with pytest.raises(InitializationError) as caught:
        await made.settings_for(database)
    assert caught.value.code == "config_invalid"


@pytest.mark.promise(6)
@pytest.mark.anyio
async def test_the_time_limit_kills_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, eventually: Callable[[Callable[[], object]], object]
) -> None:
    monkeypatch.setattr(variables, "VARS_SECONDS", 3.0)
    told = tmp_path / "pids"
    with pytest.raises(InitializationTimeoutError):
        await variables_of(tmp_path, _HANGING, str(told))
    pids = [int(word) for word in told.read_text().split()]
    assert len(pids) == 2
    eventually(lambda: not any(map(is_alive, pids)))


@pytest.mark.anyio
async def test_a_helper_that_keeps_stderr_open_delays_nobody(tmp_path: Path) -> None:
    code = "import subprocess; subprocess.Popen(['sleep', '600'], stdout=subprocess.DEVNULL); print('{}')"
    assert await variables_of(tmp_path, code) == {"given": 1, "both": 1}


@pytest.mark.parametrize("name", ["plain", "{{ x }}", "{% raw %}", "{#", "it's {{ '{{' }}", "a}}", "{"])
@pytest.mark.anyio
async def test_a_name_in_a_workspace_is_no_jinja(tmp_path: Path, name: str) -> None:
    """dbt renders variables that are text, and only those: a stranger's folder must not say what runs."""
    database = Database(tmp_path / name / "simulation.duckdb")
    database.folder.mkdir()
    code = "import json, os, sys; print(json.dumps({'asked': os.getcwd(), 'list': [sys.argv[1]]}))"
    made, _ = planner_with(tmp_path, sys.executable, "-c", code, "{database}")
    given_ = {"own": "{{ 40 + 2 }} {workspace}", "deep": {"file": "{database}"}}
    dbt = made.config.dbt.model_copy(update={"vars": given_})
    made = Planner(made.config.model_copy(update={"dbt": dbt}))
    found = (await made.settings_for(database)).variables
    rendered = {key: Template(value).render() for key, value in found.items() if isinstance(value, str)}
    place = str(database.folder)
    assert rendered == {"own": f"42 {place}", "asked": place}
    assert (found["deep"], found["list"]) == ({"file": str(database.path)}, [str(database.path)])
