"""The example of a simulation as a unit: it starts once the database is ready, and not before."""

from __future__ import annotations

from pathlib import Path

from systemd.server import Server

EXAMPLE = Path(__file__).parents[2] / "examples" / "simulation.service"


def test_a_simulation_starts_once_its_database_is_ready(server: Server) -> None:
    machine = server.machine
    database = server.workspace("simulated", empty=True)
    text = EXAMPLE.read_text()
    for example, real in {
        "User=simulator": "User=ada",
        "/srv/simulations/alpha/simulation.duckdb": str(database),
        "/opt/simulator/bin/simulate": f"/bin/sh -c 'test -e {database}.ready && echo simulating with $DATABASE_PATH'",
    }.items():
        assert text.count(example) == 1
        text = text.replace(example, real)
    machine.path("/etc/systemd/system/simulation.service").write_text(text)
    machine.ok("systemctl", "daemon-reload")
    machine.ok("systemctl", "start", "simulation")
    told = [entry["MESSAGE"] for entry in machine.journal("--unit=simulation")]
    assert f"simulating with {database}" in told, told

    # What will not become ready ends the unit before the simulation, and the journal has the reason.
    broken = server.database("broken")
    machine.ok("mkdir", broken.parent, user="ada", umask=0o002)
    machine.path(broken).write_bytes(b"something else")
    machine.path("/etc/systemd/system/simulation.service").write_text(text.replace(str(database), str(broken)))
    machine.ok("systemctl", "daemon-reload")
    assert machine.run("systemctl", "start", "simulation").returncode != 0
    told = [entry["MESSAGE"] for entry in machine.journal("--unit=simulation")]
    assert f"simulating with {broken}" not in told
    assert any("not_a_database" in line for line in told), told
