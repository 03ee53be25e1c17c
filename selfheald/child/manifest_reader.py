"""dbt's manifest, told in plain JSON: all that a plan needs to know of a project."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional

import agate
from dbt.adapters.factory import get_adapter_package_names

#: What makes relations in the database.
KINDS = ("seed", "model", "snapshot")


def describe(manifest: Any) -> Dict[str, Any]:
    """The enabled nodes that make relations, the sources, the macros that are not dbt's, the run hooks."""
    built_in = frozenset(get_adapter_package_names("duckdb"))
    own = {uid: macro for uid, macro in manifest.macros.items() if macro.package_name not in built_in}
    return {
        "nodes": {
            uid: _node(manifest, node, own) for uid, node in manifest.nodes.items() if node.resource_type in KINDS
        },
        "sources": {
            uid: {"schema": source.schema, "identifier": source.identifier} for uid, source in manifest.sources.items()
        },
        "macros": {
            uid: {
                "sql": macro.macro_sql,
                "macros": sorted(used for used in macro.depends_on.macros if used in own),
            }
            for uid, macro in own.items()
        },
        "run_hooks": [
            {
                "sql": node.raw_code,
                "depends_on": list(node.depends_on_nodes),
                "macros": sorted(uid for uid in node.depends_on.macros if uid in own),
            }
            for node in manifest.nodes.values()
            if node.resource_type == "operation"
        ],
    }


def source_file(manifest: Any, node: Any) -> Optional[str]:
    """The absolute path of the file that defines the node."""
    file = manifest.files.get(node.file_id)
    return None if file is None else str(file.path.absolute_path)


def _node(manifest: Any, node: Any, own: Mapping[str, Any]) -> Dict[str, Any]:
    is_seed = node.resource_type == "seed"
    config = node.config
    path = source_file(manifest, node)
    columns = [[column.name, column.data_type] for column in node.columns.values()]
    if is_seed and path is not None:
        columns = _seed_columns(path, config.delimiter, config.column_types)
    contract = getattr(node, "contract", None)
    return {
        "name": node.name,
        "alias": node.alias,
        "database": node.database,
        "schema": node.schema,
        "resource_type": str(node.resource_type),
        "materialized": config.materialized,
        "language": getattr(node, "language", "sql"),
        "fqn": list(node.fqn),
        "tags": list(node.tags),
        "package": node.package_name,
        "depends_on": list(node.depends_on_nodes),
        "macros": sorted(uid for uid in node.depends_on.macros if uid in own),
        "columns": columns,
        "contract": bool(contract is not None and contract.enforced),
        "path": path,
        "raw_code": "" if is_seed else node.raw_code,
        "hooks": [hook.sql for hook in [*config.pre_hook, *config.post_hook]],
        "delimiter": config.delimiter if is_seed else None,
        "column_types": dict(config.column_types),
    }


def _seed_columns(path: str, delimiter: str, types: Mapping[str, str]) -> List[List[Optional[str]]]:
    """The columns that the seed's table gets: those of the file, named as dbt names them.

    A ``data_type`` in a properties file is documentation to dbt; only ``column_types`` count.
    """
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            header = next(csv.reader(file, delimiter=delimiter), None)
    except (OSError, ValueError, csv.Error):
        header = None  # building it will tell why
    names = agate.Table([], header).column_names if header else ()
    return [[name, types.get(name)] for name in names]
