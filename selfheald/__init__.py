"""selfheald: makes DuckDB workforce-simulation databases ready by themselves.

The names below are the public interface; they load what they need when they are first used, so that importing the
package costs little: neither duckdb nor dbt is loaded by it.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:  # for the checkers, without the module of that name: importing it costs more than this one
    from typing import Any

    from selfheald.auto_initializer import AutoInitializer
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
    from selfheald.table_checker import TableExistenceChecker
    from selfheald.workspace import get_database_path

_PLACES = {
    # The checker too, so that it knows where the required tables come from if it is not given any.
    "selfheald.auto_initializer": ("AutoInitializer", "TableExistenceChecker"),
    "selfheald.errors": (
        "ConcurrentInitializationError",
        "DatabaseCorruptionError",
        "InitializationError",
        "InitializationTimeoutError",
    ),
    "selfheald.initialization_state": (
        "InitializationResult",
        "InitializationState",
        "InitializationStep",
        "RequiredTable",
        "TableTier",
    ),
    "selfheald.workspace": ("get_database_path",),
}
_PLACE_OF = {name: place for place, names in _PLACES.items() for name in names}

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
    if name not in _PLACE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_PLACE_OF[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
