"""``selfheald repair``: a person's word is heard at once, refused with a reason, and never costs a byte."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from conftest import Copied
from fixtures.figures import Figures
from fixtures.waiting import wait_for
from processes import ENDLESS, NAME, Daemon, Selfheald, change, holding, marker, snapshot, status

#: The command, killed before a certain one of its renames.
KILLED = """
import os, signal, sys
rename, left = os.rename, int(sys.argv[1])
def counted(*arguments, **options):
    global left
    if str(arguments[1]).startswith("simulation.duckdb.") and ".corrupt-" in str(arguments[1]):
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
    rename(*arguments, **options)
os.rename = counted
from selfheald.cli import main
sys.argv[1:] = ["repair", sys.argv[2], "--quarantine"]
main()
"""


def expect_refusal(selfheald: Selfheald, database: Path, option: str, code: str, reason: str) -> None:
    """Exit code 1, what and why, what to do; nothing is asked for, nothing is moved."""
    before = sorted(database.parent.iterdir())
    done = selfheald.run("repair", database, option)
    assert (done.returncode, done.stdout) == (1, ""), (done.stdout, done.stderr)
    first, second = done.stderr.splitlines()
    assert first.startswith(f"error[{code}]: "), first
    assert reason in first
    assert second.startswith("  ")
    assert [path for path in sorted(database.parent.iterdir()) if path.name != ".selfheald"] == [
        path for path in before if path.name != ".selfheald"
    ]


def has_failed(database: Path) -> bool:
    return bool(status(database).get("state") == "failed")


@pytest.mark.promise(3)
def test_refusals(selfheald: Selfheald, root: Path, complete: Copied, figures: Figures) -> None:
    good, held, absent = complete(root / "good"), complete(root / "held"), root / "absent" / NAME
    building = complete(root / "building")
    change(building, "drop table int_employee_benefits")
    absent.parent.mkdir()
    refusals = 0
    for option in ("--retry", "--quarantine"):
        for database, code, reason in [
            (good, "config_invalid", "no initialization of it has failed" if option == "--retry" else "not corrupt"),
            (absent, "config_invalid", "no such database" if option == "--retry" else "there is no database"),
        ]:
            expect_refusal(selfheald, database, option, code, reason)
            refusals += 1
    assert list(absent.parent.iterdir()) == []
    with holding(held) as holder:
        expect_refusal(selfheald, held, "--quarantine", "locked", f"PID {holder.pid} ")
        refusals += 1
    with selfheald.daemon(root, DBT__PRE_SQL=ENDLESS) as daemon:
        wait_for(lambda: status(building).get("state") == "in_progress", what=daemon.told)
        for option in ("--retry", "--quarantine"):
            expect_refusal(selfheald, building, option, "concurrent_initialization", "initializ")
            refusals += 1
        daemon.kill()
    wrong = selfheald.run("repair", root / "nowhere" / NAME, "--retry")
    assert wrong.returncode == 2
    figures.tell(3, "repair with nothing to repair, or somebody at work", tried=refusals, survived=refusals)
    assert refusals == 7


@pytest.mark.promise(6)
def test_retry_in_backoff_begins_at_once_and_counts_anew(
    selfheald: Selfheald, root: Path, complete: Copied, tmp_path: Path, figures: Figures
) -> None:
    """The next attempt would have been a minute away."""
    needed = tmp_path / "needed.csv"
    os.mkfifo(needed)  # whoever reads it waits for ever
    database = complete(root / "w")
    change(database, "drop table int_employee_benefits")
    sql = f"create temp table needed as from read_csv('{needed}', header = true, columns = {{'a': 'INTEGER'}})"
    with selfheald.daemon(root, DBT__PRE_SQL=sql, DBT__TIMEOUT=8, RETRY__BASE=240) as daemon:
        wait_for(lambda: status(database).get("reason") == "backoff", what=daemon.told)
        failed = status(database)
        assert (failed["error"]["code"], failed["attempt"]) == ("timeout", 1)
        assert failed["next_attempt_at"]
        with holding(database) as holder:
            expect_refusal(selfheald, database, "--retry", "locked", f"PID {holder.pid} ")
        needed.unlink()
        needed.write_text("a\n1\n")
        asked = selfheald.ok("repair", database, "--retry")
        assert "selfheald wait" in asked.stdout
        wait_for(lambda: len(daemon.log_lines("initialization_start")) == 2, 10, daemon.told)
        document = selfheald.document("wait", database, "--timeout", "60")
        assert document["outcome"] == "ready"
    figures.tell(6, "repair --retry in backoff begins at once", tried=1, survived=int(status(database)["attempt"] == 1))
    assert status(database)["attempt"] == 1
    assert marker(database)["origin"] == "dbt"


@pytest.mark.promise(3)
def test_quarantine_killed_between_its_renames(
    selfheald: Selfheald, daemon: Daemon, workspace: Path, complete: Copied, figures: Figures
) -> None:
    """Said again it comes to its end beside a daemon, no byte is lost, and a new database becomes ready."""
    survived, lost = 0, 0
    for number in range(2):
        database = complete(workspace / str(number))
        os.truncate(database, database.stat().st_size // 2)
        wal = database.with_name(f"{NAME}.wal")
        wal.write_bytes(b"what was not yet in it")
        kept = sorted([database.read_bytes(), wal.read_bytes()])
        wait_for(partial(has_failed, database), what=daemon.told)
        killed = subprocess.run(
            [sys.executable, "-c", KILLED, str(number), str(database)],
            env=selfheald.environment,
            cwd=selfheald.folder,
            capture_output=True,
            check=False,
        )
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert database.exists() == (number == 0)
        assert wal.exists()

        done = selfheald.ok("repair", database, "--quarantine")
        aside = sorted(database.parent.glob("*.corrupt-*"))
        lost += sorted(file.read_bytes() for file in aside) != kept
        assert done.stdout.count("kept as ") == 2 - number
        assert selfheald.document("wait", database)["outcome"] == "ready"
        assert sorted(database.parent.glob("*.corrupt-*")) == aside
        survived += marker(database)["origin"] == "dbt"
    figures.tell(3, "repair --quarantine killed between its renames", tried=2, survived=survived, lost=lost)
    assert (survived, lost) == (2, 0)


def test_without_a_daemon(selfheald: Selfheald, root: Path, complete: Copied) -> None:
    """The request waits for the next one; what was set aside stays what it was."""
    database = complete(root / "w")
    os.truncate(database, database.stat().st_size // 2)
    old = database.read_bytes()
    done = selfheald.ok("repair", root / "w", "--quarantine")
    kept, *told = done.stdout.splitlines()
    aside = Path(kept.removeprefix("kept as "))
    assert aside.read_bytes() == old
    assert "selfheald ensure" in told[0]
    assert not database.exists()
    before = snapshot(root)
    expect_refusal(selfheald, database, "--quarantine", "config_invalid", "there is no database")
    assert snapshot(root)[f"w/{aside.name}"] == before[f"w/{aside.name}"]
    shutil.copyfile(aside, root / "w" / "copy")
    with selfheald.daemon(root):
        wait_for(lambda: database.with_name(f"{NAME}.ready").exists(), what=lambda: status(database))
    assert marker(database)["origin"] == "dbt"
    assert aside.read_bytes() == old
