"""selfheald: makes DuckDB workforce-simulation databases ready by themselves.

The names below are the public interface; they load what they need when they are first used, so that importing the
package costs little: neither duckdb nor dbt is loaded by it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from selfheald.errors import (
    ConcurrentInitializationError,
    DatabaseCorruptionError,
    InitializationError,
    InitializationTimeoutError,
)
from selfheald.initialization_state import (
    InitializationResult,
    InitializationState,
    InitializationStep,
    RequiredTable,
    TableTier,
)
from selfheald.workspace import get_database_path

if TYPE_CHECKING:
    from selfheald.auto_initializer import AutoInitializer
    from selfheald.table_checker import TableExistenceChecker

_LAZY = {
    "AutoInitializer": "selfheald.auto_initializer",
    # From here, so that it knows where the required tables come from if it is not given any.
    "TableExistenceChecker": "selfheald.auto_initializer",
}

__all__ = [
    "AutoInitializer",
    "ConcurrentInitializationError",
    "DatabaseCorruptionError",
    "InitializationError",
    "InitializationResult",
    "InitializationState",
    "InitializationStep",
    "InitializationTimeoutError",
    "RequiredTable",
    "TableExistenceChecker",
    "TableTier",
    "get_database_path",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
