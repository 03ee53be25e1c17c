"""One service for a whole machine: in its sandbox, hung, killed, reloaded, stopped, taken away."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

import pytest
from fixtures.waiting import wait_for

from systemd.server import GROUP, ROOT, Server
from systemd.service import PYTHON, UNIT, Service

#: A build that does not come to its end.
ENDLESS = {"dbt": {"pre_sql": "select sum(a.range * b.range % 7) from range(10000000) as a, range(10000000) as b"}}
#: What the unit allows a stop: `shutdown.grace` as the tests set it, and ten seconds.
STOP_SECONDS = 12.0
FILE = f"/etc/systemd/system/{UNIT}"


@pytest.fixture
def service(server: Server) -> Iterator[Service]:
    """The service, at work. Afterwards it is as before, and of its restarts nothing is remembered."""
    yield server.service
    server.configure()
    server.service.ctl("reset-failed", UNIT)
    server.service.do("reload-or-restart", UNIT)


def test_started_means_watched_and_scanned(service: Service) -> None:
    """`systemctl` returns with READY: by then the databases that were there are known, and people have been told."""
    mark = service.mark()
    service.do("restart", UNIT)
    status, record = service.status, service.record(ROOT)
    assert re.fullmatch(r"\d+ (ready|building|waiting).*", status)
    assert record["state"] == "ready"
    told = service.told(mark)
    (ready,) = (number for number, line in enumerate(told) if line.startswith(f"ready: watching {ROOT}"))
    (started,) = (number for number, line in enumerate(told) if line.startswith("Started "))
    assert ready < started
    assert re.search(r"[1-9]\d* databases found", told[ready]), told


def test_a_database_becomes_ready_inside_the_sandbox(server: Server) -> None:
    """Real dbt; and who is in no group of ours can use the marker."""
    databases = [server.database("first"), server.workspace("new", empty=True)]
    for database in databases:
        server.heals(database)
        assert server.wait(database, "carl").returncode == 0
    wait_for(lambda: re.fullmatch(r"\d+ ready", server.service.status), what=lambda: server.service.status)


@pytest.mark.parametrize("folder", ["/srv/elsewhere", "/opt/elsewhere", "/var/lib/elsewhere"])
def test_the_sandbox_lets_it_write_nowhere_else(server: Server, folder: str) -> None:
    """Not where everybody may."""
    machine = server.machine
    machine.ok("install", "-d", "-m", "1777", folder)
    done = machine.run(*server.inside(), "touch", f"{folder}/file")
    assert "Read-only file system" in done.stderr
    machine.ok(*server.inside(), "touch", f"{ROOT}/file")


def test_the_sandbox_shows_no_homes_and_no_processes_of_others(server: Server) -> None:
    machine = server.machine
    assert machine.run(*server.inside(), "ls", "/home").stdout.split() == []
    assert machine.run(*server.inside(), "cat", "/proc/1/status").returncode != 0


def test_a_hung_event_loop_is_killed_and_comes_back(service: Service) -> None:
    mark, before = service.mark(), service.show("NRestarts")
    pid = service.kill("USR1")
    service.wait_for_restart(pid)
    told = "\n".join(service.told(mark))
    assert f"Watchdog timeout (limit 5s)!\n{UNIT}: Killing process {pid}" in told
    assert "result 'watchdog'" in told
    assert int(service.show("NRestarts")) == int(before) + 1
    assert "ready: watching" in told


def test_one_that_was_killed_comes_back(service: Service, server: Server) -> None:
    pid = service.kill("KILL")
    now = service.wait_for_restart(pid)
    wait_for(lambda: service.record(ROOT)["pid"] == now, what=service.told)
    wait_for(lambda: re.fullmatch(r"\d+ ready", service.status), what=lambda: service.status)


def test_a_reload_is_followed_or_refused_as_a_whole(service: Service, server: Server) -> None:
    pid, mark = service.pid, service.mark()
    server.configure(retry={"attempts": 3})
    service.do("reload", UNIT)
    assert service.line("reloaded (retry.attempts changed)", mark)["PRIORITY"] == "6"
    mark = service.mark()
    server.configure(watch={"settle": "soon"})
    service.do("reload", UNIT)
    assert service.line("the configuration stays as it was", mark)["PRIORITY"] == "4"
    assert service.line("watch.settle", mark)["PRIORITY"] == "3"
    wait_for(lambda: "the last reload was refused" in service.status, what=lambda: service.status)
    server.configure()
    service.do("reload", UNIT)
    wait_for(lambda: re.fullmatch(r"\d+ ready", service.status), what=lambda: service.status)
    assert (service.pid, service.show("ActiveState")) == (pid, "active")


def test_a_further_root_takes_an_install(service: Service, server: Server) -> None:
    """What the sandbox does not show cannot be watched; also a folder in a home, which stays closed to the service."""
    run = server.machine.ok
    home, further = "/home/ada", "/home/ada/shared"
    run("install", "-d", "-m", "2775", "-o", "ada", "-g", GROUP, further)
    run("touch", f"{home}/secret", user="ada")
    mark = service.mark()
    server.configure(watch={"roots": [ROOT, further]})
    service.do("reload", UNIT)
    service.line("the configuration stays as it was", mark)
    assert any(further in line for line in service.told(mark))
    assert server.install().startswith(f"Renewed: {FILE}\n")
    assert service.record(further)["pid"] == service.pid
    database = PurePosixPath(further, "simulation.duckdb")
    run("touch", database, user="ada", umask=0o002)
    server.heals(database)
    assert run(*server.inside(), "ls", home).split() == ["shared"]
    server.configure()
    assert server.install().startswith(f"Renewed: {FILE}\n")
    assert server.install().startswith(f"Unchanged: {FILE}\n")


def test_a_port_takes_an_install_and_is_for_this_machine_alone(service: Service, server: Server) -> None:
    run, ask = (
        server.machine.ok,
        "import urllib.request as u; print(u.urlopen('http://{}:9187/metrics').read().decode())",
    )
    run("ip", "address", "replace", "198.51.100.1/32", "dev", "lo")
    try:
        for listen, asked, passes in (
            ("127.0.0.1:9187", "localhost", True),
            ("127.0.0.1:9187", "198.51.100.1", False),
            ("0.0.0.0:9187", "198.51.100.1", True),
        ):
            server.configure(metrics={"listen": listen})
            server.install()
            exposure = 20 if listen.startswith("0") else 15
            done = server.machine.run(PYTHON, "-c", ask.format(asked))
            assert ('selfheald_daemon_state{state="ready"} 1.0' in done.stdout) is passes, (listen, done.stderr)
            run("systemd-analyze", "verify", "--recursive-errors=yes", FILE)
            run("systemd-analyze", "security", "--offline=true", f"--threshold={exposure}", FILE)
    finally:
        run("ip", "address", "delete", "198.51.100.1/32", "dev", "lo")
    server.configure()
    assert server.install().startswith(f"Renewed: {FILE}\n")


def test_lines_in_the_journal_bear_their_level_and_no_time(service: Service) -> None:
    lines = [entry for entry in service.entries() if entry.get("_COMM") == "python"]
    assert {entry["PRIORITY"] for entry in lines} >= {"6"}
    assert [entry["MESSAGE"] for entry in lines if re.match(r"<\d>|\d{4}-", entry["MESSAGE"])] == []


def test_a_stop_while_it_builds_loses_nothing(service: Service, server: Server) -> None:
    server.configure(**ENDLESS)
    mark = service.mark()
    service.do("reload", UNIT)
    service.line("reloaded (dbt.pre_sql changed)", mark)
    database = server.workspace("interrupted")
    content = server.machine.path(database).read_bytes()
    wait_for(lambda: "1 building 0/4" in service.status, what=lambda: service.status)
    workspace = server.machine.path(database.parent)
    wait_for(lambda: list(workspace.glob(".selfheald/staging-*/*.duckdb")), what=service.told)
    assert len(server.processes()) > 1
    mark = service.mark()
    assert server.stops() < STOP_SECONDS
    assert server.processes() == []
    told = "\n".join(service.told(mark))
    assert "SIGTERM: stopping; a running initialization has 2 s to end" in told
    assert f"{UNIT}: Deactivated successfully." in told
    assert "Killing process" not in told
    assert "timed out" not in told
    assert server.machine.path(database).read_bytes() == content
    assert not server.machine.path(f"{database}.ready").exists()
    assert not list(workspace.glob(".selfheald/staging-*"))
    server.configure()
    service.do("start", UNIT)
    server.heals(database)
    assert server.answer(database) == 42


def test_a_crash_loop_ends(service: Service, server: Server) -> None:
    service.do("restart", UNIT)
    mark = service.mark()
    for _ in range(5):
        pid = service.kill("KILL")
        wait_for(lambda: service.pid not in (0, pid) or service.show("ActiveState") == "failed")  # noqa: B023
    server.wait_for_state("failed")
    assert any("Start request repeated too quickly" in line for line in service.told(mark))
    service.do("reset-failed", UNIT)
    service.do("start", UNIT)


def test_a_wrong_configuration_is_no_reason_to_try_again(service: Service, server: Server) -> None:
    server.configure(watch={"settle": "soon"})
    service.ctl("restart", UNIT)
    server.wait_for_state("failed")
    assert (service.show("ExecMainStatus"), service.show("NRestarts")) == ("2", "0")
    assert "watch.settle" in service.status


def test_the_unit_is_sound_and_closed(server: Server) -> None:
    run = server.machine.ok
    run("systemd-analyze", "verify", "--recursive-errors=yes", FILE)
    run("systemd-analyze", "security", "--offline=true", "--threshold=5", FILE)


def test_uninstalled_it_leaves_workspaces_and_logs(service: Service, server: Server) -> None:
    """Installed again, it takes up where it was."""
    database = server.database("first")
    server.heals(database)
    wait_for(lambda: re.fullmatch(r"\d+ ready", service.status), what=lambda: service.status)
    before = server.files()
    done = service.selfheald("service", "uninstall", "--system")
    assert done.returncode == 0, done.stderr
    assert server.files() == before
    assert not server.machine.path(FILE).exists()
    assert service.show("LoadState") == "not-found"
    assert server.processes() == []
    server.install()
    assert service.show("UnitFileState") == "enabled"
    assert server.wait(database, timeout=20).returncode == 0
