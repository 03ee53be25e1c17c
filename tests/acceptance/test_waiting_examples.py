"""The examples of waiting, run as they stand: shell, Make, cron, systemd, a hook, and schedulers.

Airflow and Dagster are not installed here; tiny stand-ins take the places of the names that the examples import.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from conftest import Copied
from fixtures.waiting import DEADLINE
from processes import EXAMPLES, NAME, Daemon, Selfheald, running
from program import with_program

from selfheald.errors import InitializationError

FOREIGN = b"something else"


@pytest.fixture
def environment_of_scripts(selfheald: Selfheald, tmp_path: Path) -> dict[str, str]:
    return with_program(tmp_path / "bin", selfheald.environment)


def _run(words: list[str], environment: Mapping[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, cwd=folder, env=dict(environment), capture_output=True, text=True, timeout=DEADLINE, check=False
    )


def _foreign(folder: Path) -> Path:
    folder.mkdir()
    (folder / NAME).write_bytes(FOREIGN)
    return folder / NAME


class TestBash:
    def test_ready_and_failed(
        self, environment_of_scripts: dict[str, str], daemon: Daemon, workspace: Path, complete: Copied, tmp_path: Path
    ) -> None:
        script = ["bash", str(EXAMPLES / "run_when_ready.sh")]
        ready = complete(workspace / "it's ready").parent
        done = _run([*script, str(ready), "sh", "-c", "echo simulating; exit 7"], environment_of_scripts, tmp_path)
        assert (done.returncode, done.stdout) == (7, "simulating\n"), done.stderr
        failed = _foreign(workspace / "failed").parent
        done = _run([*script, str(failed), "echo", "simulating"], environment_of_scripts, tmp_path)
        assert (done.returncode, done.stdout) == (1, "")
        assert f"it will not become ready by itself: selfheald history {failed}\n" in done.stderr


class TestMake:
    def test_results_are_made_once_it_is_ready(
        self, environment_of_scripts: dict[str, str], daemon: Daemon, workspace: Path, complete: Copied, tmp_path: Path
    ) -> None:
        ready = complete(workspace / "ready")
        (tmp_path / "simulate.py").write_text("import os; print(os.environ['DATABASE_PATH'])")
        make = ["make", "-f", str(EXAMPLES / "simulation.mk")]
        for _ in range(2):
            done = _run([*make, f"WORKSPACE={ready.parent}"], environment_of_scripts, tmp_path)
            assert done.returncode == 0, done.stderr
            assert (tmp_path / "results.txt").read_text() == f"{ready}\n"
        # Made once: a marker that is newer makes nothing old.
        assert "selfheald exec" not in done.stdout
        (tmp_path / "results.txt").unlink()
        failed = _foreign(workspace / "failed")
        done = _run([*make, f"WORKSPACE={failed.parent}"], environment_of_scripts, tmp_path)
        assert done.returncode == 2
        assert not (tmp_path / "results.txt").exists()


class TestCron:
    def test_its_line_is_one_that_cron_runs(
        self, environment_of_scripts: dict[str, str], daemon: Daemon, workspace: Path, complete: Copied, tmp_path: Path
    ) -> None:
        """As cron does: by /bin/sh, with the variables of the file and hardly any others."""
        ready = complete(workspace / "ready")
        text = (EXAMPLES / "simulation.crontab").read_text()
        [line] = [line for line in text.splitlines() if re.match(r"[\d*]", line)]
        *fields, job = line.split(maxsplit=5)
        for field, last in zip(fields, (59, 23, 31, 12, 7), strict=True):
            assert field == "*" or all(int(number) <= last for number in field.split("-"))
        assert "%" not in job
        settings = dict(re.findall(r"^([A-Z]+)=(.*)$", text, re.M))
        assert settings.keys() == {"PATH", "MAILTO"}
        simulate = tmp_path / "bin" / "simulate"
        simulate.write_text('#!/bin/sh\necho "simulating with $DATABASE_PATH"\n')
        simulate.chmod(0o755)
        job = job.replace("/srv/simulations/alpha", shlex.quote(str(ready.parent)))
        bare = {"HOME": str(tmp_path), "LOGNAME": "planning", "SHELL": "/bin/sh", **settings}
        bare["PATH"] = bare["PATH"].replace("/opt/selfheald/bin", str(tmp_path / "bin"))
        # These stand for an installation; cron itself gives none of them.
        bare |= {name: value for name, value in environment_of_scripts.items() if name.startswith(("PYTHON", "SELFH"))}
        done = _run(["/bin/sh", "-c", job], bare, tmp_path)
        assert (done.returncode, done.stdout) == (0, f"simulating with {ready}\n"), done.stderr


class TestSystemd:
    def test_the_unit_is_verified(self, tmp_path: Path) -> None:
        if shutil.which("systemd-analyze") is None:
            pytest.skip("there is no systemd here")
        text = (EXAMPLES / "simulation.service").read_text()
        # What it looks for is not installed here.
        text = re.sub(r"/opt/\S+", shutil.which("true") or "/bin/true", text).replace("User=simulator\n", "")
        unit = tmp_path / "simulation.service"
        for wrong, complaint in ((text, ""), (text.replace("Type=oneshot", "Typ=oneshot"), "Unknown key")):
            unit.write_text(wrong)
            done = _run(["systemd-analyze", "verify", "--man=no", str(unit)], {"PATH": "/usr/bin:/bin"}, tmp_path)
            ours = [line for line in done.stderr.splitlines() if "simulation.service" in line]
            assert bool(ours) == bool(complaint), ours
            assert complaint in "".join(ours)


def test_without_a_daemon(selfheald: Selfheald, complete: Copied, tmp_path: Path) -> None:
    """The script in bash says what to do; the hook does it itself. Both take their five seconds at the same time."""
    environment = with_program(tmp_path / "bin", selfheald.environment)
    database = complete(tmp_path / "alone")
    (tmp_path / "unwatched").mkdir()
    script = ["bash", str(EXAMPLES / "run_when_ready.sh"), str(tmp_path / "unwatched"), "echo", "simulating"]
    hook = ["python", str(EXAMPLES / "pre_simulation_hook.py"), str(database)]
    with running(script, tmp_path, environment) as waiting, running(hook, tmp_path, environment) as hooked:
        assert (waiting.wait(), waiting.stdout) == (75, "")
        assert f"selfheald ensure {tmp_path}/unwatched\n" in waiting.stderr
        assert hooked.wait() == 0, hooked.stderr
        assert hooked.stdout == f"{database} is ready (adopted); the simulation may start\n"


def _load(name: str, database: Path, monkeypatch: pytest.MonkeyPatch, stand_ins: Mapping[str, object]) -> ModuleType:
    for each, module in stand_ins.items():
        monkeypatch.setitem(sys.modules, each, module)
    monkeypatch.setenv("DATABASE_PATH", str(database))
    specification = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


class Task:
    """A task of Airflow as far as the example knows it: called, it becomes a node that others are put behind."""

    def __init__(self, function: Callable[[], Any], order: list[Task]) -> None:
        self.function = function
        self._order = order

    def __call__(self) -> Task:
        return self

    def __rshift__(self, other: Task) -> Task:
        self._order += [self, other]
        return other


class TestSchedulers:
    def test_airflow(self, daemon: Daemon, workspace: Path, complete: Copied, monkeypatch: pytest.MonkeyPatch) -> None:
        order: list[Task] = []

        class Decorator:
            def __call__(self, **options: object) -> Callable[[Callable[[], Any]], Task]:
                assert options == {"retries": 2}
                return self.bash

            @staticmethod
            def bash(function: Callable[[], Any]) -> Task:
                return Task(function, order)

        def dag(**options: object) -> Callable[[Callable[[], None]], Callable[[], None]]:
            assert options == {"schedule": "0 6 * * 1-5", "catchup": False}
            return lambda function: function

        stand_ins = {"airflow": ModuleType("airflow"), "airflow.sdk": SimpleNamespace(dag=dag, task=Decorator())}
        database = complete(workspace / "here")
        _load("airflow_dag", database, monkeypatch, stand_ins)
        ready, simulate = (task.function for task in order)
        assert ready() == "adopted"
        assert simulate() == f"DATABASE_PATH='{database}' simulate"
        database.write_bytes(FOREIGN)
        with pytest.raises(InitializationError, match="is not a DuckDB database"):
            ready()

    def test_dagster(
        self,
        daemon: Daemon,
        workspace: Path,
        complete: Copied,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        stand_in = SimpleNamespace(asset=lambda function: function, Definitions=lambda assets: assets)
        database = complete(workspace / "here")
        module = _load("dagster_assets", database, monkeypatch, {"dagster": stand_in})
        assert module.definitions == [module.ready_database, module.simulation]
        program = tmp_path / "simulate"
        program.write_text('#!/bin/sh\necho "simulating with $DATABASE_PATH"\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        module.simulation(module.ready_database())
        assert capfd.readouterr().out == f"simulating with {database}\n"
