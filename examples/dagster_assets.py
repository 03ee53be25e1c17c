"""A simulation in Dagster, which is materialized once its database is ready.

python examples/dagster_assets.py  # nothing is run: it shows whether Dagster can load it
"""

import os
import subprocess

import dagster

from selfheald.client import wait_until_ready

DATABASE = os.environ.get("DATABASE_PATH", "/srv/simulations/alpha/simulation.duckdb")


@dagster.asset
def ready_database() -> str:
    """Fail with the error's code and hint, which Dagster shows, where it does not become ready."""
    wait_until_ready(DATABASE, timeout=300)
    return DATABASE


@dagster.asset
def simulation(ready_database: str) -> None:
    subprocess.run(["simulate"], env=os.environ | {"DATABASE_PATH": ready_database}, check=True)


definitions = dagster.Definitions(assets=[ready_database, simulation])
