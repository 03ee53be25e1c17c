"""What a host does once for all its forks, and what each fork has to undo or make its own."""

from __future__ import annotations

import gc
import importlib
import inspect
import os
import sys
import traceback
from contextlib import suppress
from typing import Any, Tuple

import duckdb

import dbt_job  # noqa: F401  (imported for the forks)
import publish_job  # noqa: F401
import saved_parse
from shortcuts import ancestors

#: Bytes of a kept parse above which it takes more memory than it spares time: that of some 1,000 models.
LARGE = 4 << 20
#: Modules that dbt imports only when it first needs them.
_LATE = """
    _strptime dbt.adapters.duckdb.__version__ dbt.adapters.duckdb.environments.local dbt.task.build dbt.task.list
    dbt.task.seed google.protobuf.descriptor_pb2 multiprocessing.dummy multiprocessing.pool resource sqlparse
"""
#: Records of every job, whose code is written when one is first read or written.
_READ_OR_WRITTEN = {
    "dbt.adapters.duckdb.credentials": "DuckDBCredentials",
    "dbt.adapters.duckdb.relation": "DuckDBRelation",
    "dbt.adapters.contracts.relation": "Path Policy",
    "dbt.adapters.contracts.connection": "AdapterResponse QueryComment",
    "dbt.contracts.project": "PackageConfig Project ProjectFlags",
    "dbt.contracts.selection": "SelectorFile",
    "dbt.contracts.graph.nodes": "Macro",
    "dbt.artifacts.resources": "InjectedCTE MacroConfig",
    "dbt.artifacts.schemas.results": "TimingInfo",
    "dbt.parser.manifest": "ManifestLoaderInfo ProjectLoaderInfo",
    "dbt_common.helper_types": "WarnErrorOptions WarnErrorOptionsV2",
}
#: Records that are checked against a description of them, made when it is first needed.
_DESCRIBED = """
    dbt.adapters.duckdb.credentials.DuckDBCredentials dbt.config.profile.ProfileConfig
    dbt.contracts.project.Configuration dbt.contracts.project.PackageConfig dbt.contracts.project.Project
    dbt.contracts.project.ProjectFlags dbt.contracts.selection.SelectorFile
"""
#: What the macros are called by, or begin with, that dbt itself calls to make a relation.
_CALLED_FIRST = (
    "materialization_seed_",
    "materialization_table_",
    "materialization_view_",
    "materialization_incremental_",
    "list_schemas",
    "create_schema",
    "list_relations_without_caching",
    "rename_relation",
    "drop_relation",
    "get_columns_in_query",
    "get_columns_in_relation",
)
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


class Rehearsal:
    """What the forks' jobs begin with, made ready between them."""

    def __init__(self) -> None:
        self._rehearsed = False
        self._held: Tuple[Any, ...] = ()
        self._asked = ""

    def prepare(self, kept: str) -> None:
        """Make ready for a further job that begins with this kept parse, if there is one that this dbt can read.

        One that is large is left to the forks, since the host would not get rid of the memory; and another than the
        one that is held is read only if it is asked for twice in a row.
        """
        again, self._asked = self._asked == kept, kept
        try:
            there = os.stat(kept)
            now = (kept, there.st_ino, there.st_size, there.st_mtime_ns)
            wanted = not self._held or again or self._held[0] == kept
            if now == self._held or there.st_size > LARGE or not wanted:
                return
            if not self._rehearsed:
                rehearse(kept)
                self._rehearsed = True
            saved_parse.remember(kept)
            self._held = now
        except Exception:  # noqa: BLE001  (a fork will find out by itself)
            return
        _keep()


def rehearse(kept: str) -> None:
    """Read a parse that is kept: dbt has then written the code that reads and writes its nodes.

    Of its macros those remain compiled that are dbt's and the adapter's own, known by their text.
    """
    manifest = saved_parse.read(kept)
    manifest.build_flat_graph()
    _compile_macros(manifest)


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
    for name in _LATE.split():
        importlib.import_module(name)
    for place, names in _READ_OR_WRITTEN.items():
        for name in names.split():
            _make_code(getattr(importlib.import_module(place), name, None))
    for described in _DESCRIBED.split():
        place, _, name = described.rpartition(".")
        getattr(importlib.import_module(place), name).json_schema()
    inspect.stack()  # the names of all modules' files, and the lines of those on the stack


def _make_code(record: Any) -> None:
    """Let a class of records have its code written that reads and writes one; an empty one is nothing to read."""
    for first in ("from_dict", "to_dict"):
        with suppress(Exception):
            given = {} if first == "from_dict" else record.__new__(record)
            getattr(record, first)(given)


def _compile_macros(manifest: Any) -> None:
    """Compile those macros of dbt's own that making a relation can need."""
    from dbt_common.clients.jinja import template_cache

    own = {uid: macro for uid, macro in manifest.macros.items() if macro.package_name in ("dbt", "dbt_duckdb")}
    roots = (uid for uid, macro in own.items() if macro.name.startswith(_CALLED_FIRST))
    for uid in ancestors(roots, lambda uid: own[uid].depends_on.macros if uid in own else ()):
        if uid in own:
            template_cache.get_node_template(own[uid])
