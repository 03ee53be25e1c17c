"""``selfheald demo``: the whole story in a temporary folder, with a real daemon, real dbt and a waiting simulator."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import typer

from selfheald.client import read_status, wait_until_ready
from selfheald.errors import InitializationError
from selfheald.timeline import bars
from selfheald.workspace import Database

#: Seconds that the daemon may take to watch its root.
START_SECONDS = 60.0


def command(
    employees: Annotated[int, typer.Option(min=1, help="Size of the census.")] = 100_000,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the temporary folder.")] = False,
) -> None:
    """Play the whole story in a temporary folder; nothing outside it is touched.

    Exit codes: 0 it went as it should, 1 it did not, 2 wrong usage.

    Example: selfheald demo --employees 10000
    """
    folder = Path(tempfile.mkdtemp(prefix="selfheald-demo-"))
    began = time.monotonic()
    try:
        with ExitStack() as running:
            _play(folder, employees, running)
        typer.echo(f"\nThe whole story took {time.monotonic() - began:.1f} s.")
    finally:
        if keep:
            typer.echo(f"Everything is left in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _play(folder: Path, employees: int, running: ExitStack) -> None:
    root = folder / "workspaces"
    root.mkdir()
    census = folder / "census.parquet"
    _title(f"A census of {employees:,} employees")
    _run([sys.executable, str(_examples() / "make_census.py"), str(census), "--employees", str(employees)])

    _title("A daemon starts")
    running.enter_context(_daemon(folder, root, census))

    _title("A workspace appears, and a simulator that waits for its tables")
    database = Database.at(root / "first" / "simulation.duckdb")
    database.folder.mkdir()
    _say(f"{database} does not exist; the simulator asks for it")
    simulator = [sys.executable, str(_examples() / "simulator.py"), str(database)]
    _run(simulator)
    _show_timeline(database)

    _title("A second workspace: a database with all tables is put there")
    second = Database.at(root / "second" / "simulation.duckdb")
    second.folder.mkdir()
    shutil.copyfile(database.path, second.path)
    began = time.monotonic()
    marker = wait_until_ready(second.path, timeout=START_SECONDS)
    _say(f"ready after {time.monotonic() - began:.2f} s, origin: {marker['origin']} (no dbt run)")
    if marker["origin"] != "adopted":
        raise InitializationError("the second workspace was not adopted", code="verification_failed", path=second)


@contextmanager
def _daemon(folder: Path, root: Path, census: Path) -> Iterator[None]:
    """A daemon on ``root`` with everything of its own; stopped by SIGTERM in the end."""
    from selfheald.config import child_environment
    from selfheald.presence import daemon_record

    file = folder / "selfheald.toml"
    file.touch(mode=0o600)
    environment = child_environment(
        {
            "SELFHEALD_CONFIG": str(file),  # the user's own is for the daemon that stays
            "SELFHEALD_STATE_DIR": str(folder / "state"),
            "SELFHEALD_TEMPLATES__DIR": str(folder / "templates"),
            "SELFHEALD_LOG__FILE": str(folder / "selfheald.log"),
            "SELFHEALD_DBT__VARS": json.dumps({"census_parquet_path": str(census)}),
        }
    )
    daemon = subprocess.Popen(
        [sys.executable, "-m", "selfheald", "run", str(root)],
        env=environment,
        cwd=folder,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + START_SECONDS
        while daemon_record(root)["state"] != "ready":
            if daemon.poll() is not None or time.monotonic() > deadline:
                raise InitializationError("the daemon did not start", code="no_daemon", path=root)
            time.sleep(0.05)
        yield
        _title("The daemon is stopped")
    finally:
        if daemon.poll() is None:
            daemon.send_signal(signal.SIGTERM)
        try:
            code = daemon.wait(60)
        except subprocess.TimeoutExpired:
            daemon.kill()
            code = daemon.wait()
        _say(f"it ended with exit code {code}")


def _show_timeline(database: Database) -> None:
    typer.echo("How it became ready")
    for bar in bars(read_status(database.path) or {}):
        typer.echo(f"  {bar.name:<27}{bar.seconds or 0:7.2f} s  {' ' * bar.blanks}{'█' * bar.blocks}")


def _run(command: list[str]) -> None:
    """Run a program, its output shown; a failure ends the demo."""
    from selfheald.config import child_environment

    done = subprocess.run(command, env=child_environment({}), stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise InitializationError(
            f"{Path(command[1]).name} ended with exit code {done.returncode}",
            code="verification_failed",
            path=command[1],
            hint="Its output above says why.",
        )


def _examples() -> Path:
    """The examples: inside an installed package, else beside a source checkout's."""
    package = Path(__file__).absolute().parent.parent
    inside = package / "_examples"
    return inside if inside.is_dir() else package.parent / "examples"


def _title(text: str) -> None:
    typer.secho(f"\n== {text}", bold=True)
    sys.stdout.flush()


def _say(text: str) -> None:
    typer.echo(f"   {text}")
    sys.stdout.flush()
