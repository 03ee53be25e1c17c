"""Two ways to make sure that a database is ready before a simulation opens it.

    python examples/pre_simulation_hook.py workspace/simulation.duckdb

Where a daemon watches the workspace, the hook waits for it; where none does, it makes the missing tables itself. Call
it before the simulation's own `duckdb.connect`: a connection that is open keeps an existing database from getting its
tables.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selfheald import AutoInitializer, InitializationError
from selfheald.client import wait_until_ready


def make_ready(database: Path, timeout: float = 300.0) -> str:
    """Return, within `timeout` seconds, how the database became ready; raise `InitializationError` if it did not."""
    try:
        marker = wait_until_ready(database, timeout, on_progress=_print_progress)
    except InitializationError as error:
        if error.code != "no_daemon":
            raise
    else:
        return str(marker["origin"])
    result = AutoInitializer(database, timeout=timeout).ensure_initialized()
    if result.error is not None:
        raise result.error
    return result.outcome


def _print_progress(status: Mapping[str, Any]) -> None:
    print(f"waiting: {status['state']}", file=sys.stderr)


def main(arguments: list[str]) -> int:
    database = Path(arguments[0] if arguments else "dbt/simulation.duckdb")
    try:
        how = make_ready(database)
    except InitializationError as error:
        print(f"{error.code}: {error}", error.hint, sep="\n", file=sys.stderr)
        return 1
    print(f"{database} is ready ({how}); the simulation may start")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
