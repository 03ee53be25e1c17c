"""What a host does once for all its forks, and what each fork has to undo or make its own."""

from __future__ import annotations

import gc
import importlib
import inspect
import sys
import traceback
from pathlib import Path

import duckdb

import dbt_job  # noqa: F401  (imported for the forks)
import publish_job  # noqa: F401
import saved_parse

#: Bytes of a kept parse above which it takes more memory than it spares time: that of some 1,000 models.
LARGE = 4 << 20
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
    _keep()


def rehearse(kept: str) -> bool:
    """Read a parse that is kept, and forget it: dbt has then written the code that reads and writes its nodes.

    One that is large is left to the forks, since the host would not get rid of the memory. False if there is none yet,
    or none that this dbt can read.
    """
    try:
        if Path(kept).stat().st_size > LARGE:
            return True
        saved_parse.read(kept).build_flat_graph()
    except Exception:  # noqa: BLE001  (a fork will find out by itself)
        return False
    _keep()
    return True


def begin() -> None:
    """In a fork: have what a fresh interpreter has."""
    if _OPENED_AT_IMPORT:
        duckdb.execute("RESET threads")
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()  # Python's own is seeded anew by Python


def _keep() -> None:
    """Let the forks share what there is: what no collector looks at is not written to, and so not copied."""
    gc.collect()
    gc.freeze()


def _fill_caches() -> None:
    """What dbt loads and works out from its own code when it is first needed; no project has a say in that."""
    for name in ("build", "list", "seed"):
        importlib.import_module(f"dbt.task.{name}")
    importlib.import_module("dbt.adapters.duckdb.environments.local")
    importlib.import_module("sqlparse")
    from dbt.adapters.duckdb.credentials import DuckDBCredentials
    from dbt.config.profile import ProfileConfig
    from dbt.contracts.project import Configuration, PackageConfig, Project, ProjectFlags
    from dbt.contracts.selection import SelectorFile

    described = (Configuration, DuckDBCredentials, PackageConfig, ProfileConfig, Project, ProjectFlags, SelectorFile)
    for each in described:
        each.json_schema()
    inspect.stack()  # the names of all modules' files, and the lines of those on the stack
