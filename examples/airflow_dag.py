"""A simulation in Airflow (3), which starts once its database is ready.

python examples/airflow_dag.py  # nothing is run: it shows whether Airflow can load it
"""

import os

from airflow.sdk import dag, task

from selfheald.client import wait_until_ready

DATABASE = os.environ.get("DATABASE_PATH", "/srv/simulations/alpha/simulation.duckdb")


@task(retries=2)
def ready() -> str:
    """Fail with the error's code and hint, which Airflow shows, where it does not become ready."""
    return str(wait_until_ready(DATABASE, timeout=300)["origin"])


@task.bash
def simulate() -> str:
    return f"DATABASE_PATH='{DATABASE}' simulate"


@dag(schedule="0 6 * * 1-5", catchup=False)
def simulation() -> None:
    ready() >> simulate()


simulation()
