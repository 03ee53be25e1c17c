"""The job ``interpreter``: what this interpreter is, and which of dbt's and DuckDB's versions it has.

It finds out what is missing, so nothing that may be missing is imported at the top.
"""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Dict, Optional

from protocol import Emit

#: What is told of, and the distribution it comes with.
DISTRIBUTIONS = {"dbt": "dbt-core", "adapter": "dbt-duckdb", "duckdb": "duckdb"}
#: Characters of a library's complaint that are handed on.
_LONGEST = 400


def interpreter(job: Dict[str, Any], emit: Emit) -> Dict[str, Any]:
    """Versions (``None``: not installed), and why DuckDB cannot be imported, if it cannot."""
    found: Dict[str, Optional[str]] = {"python": platform.python_version()}
    for name, distribution in DISTRIBUTIONS.items():
        try:
            found[name] = version(distribution)
        except PackageNotFoundError:
            found[name] = None
    return {"prefix": sys.prefix, "versions": found, "problem": _problem()}


def _problem() -> Optional[str]:
    try:
        import duckdb
    except Exception as error:  # noqa: BLE001  (a library that is broken may raise anything)
        return " ".join(str(error).split())[:_LONGEST] or type(error).__name__
    return None if hasattr(duckdb, "connect") else "the module duckdb is not DuckDB"
