"""What a host does once for all its forks, and what each fork has to undo or make its own."""

from __future__ import annotations

import gc
import inspect
import sys
import traceback

import duckdb

import dbt_job  # noqa: F401  (imported for the forks)
import publish_job  # noqa: F401

#: DuckDB 1.0 opens a database in memory when it is imported, and starts threads for it.
_OPENED_AT_IMPORT = hasattr(duckdb.default_connection, "execute")


def prepare() -> None:
    """Make what is the same for every job of this interpreter, and leave no second thread."""
    if _OPENED_AT_IMPORT:
        duckdb.execute("SET threads TO 1")
    try:
        _fill_caches()
    except Exception:  # noqa: BLE001  (it would only have spared time)
        traceback.print_exc()
    gc.collect()
    gc.freeze()


def begin() -> None:
    """In a fork: have what a fresh interpreter has."""
    if _OPENED_AT_IMPORT:
        duckdb.execute("RESET threads")
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()  # Python's own is seeded anew by Python


def _fill_caches() -> None:
    """What dbt works out from its own code when it is first needed, and nothing that a project has a say in."""
    from dbt.adapters.duckdb.credentials import DuckDBCredentials
    from dbt.config.profile import ProfileConfig
    from dbt.contracts.project import Configuration, PackageConfig, Project, ProjectFlags
    from dbt.contracts.selection import SelectorFile

    described = (Configuration, DuckDBCredentials, PackageConfig, ProfileConfig, Project, ProjectFlags, SelectorFile)
    for each in described:
        each.json_schema()
    inspect.stack()  # the names of all modules' files, and the lines of those on the stack
