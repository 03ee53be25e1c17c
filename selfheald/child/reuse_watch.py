"""Notes the queries that a project's own Jinja sends to the database while dbt writes a node's SQL with it."""

from __future__ import annotations

import threading
from typing import Any, List, Tuple

from dbt.adapters.duckdb.connections import DuckDBConnectionManager
from dbt.compilation import Compiler

_state = threading.local()


class QueryWatch:
    """From its making on, ``queries`` grows: each a node's unique id and what was sent for it."""

    def __init__(self) -> None:
        self.queries: List[Tuple[str, str]] = []
        compile_code: Any = Compiler._compile_code
        manager: Any = DuckDBConnectionManager
        add_query = manager.add_query

        def compiling(compiler: Any, node: Any, *arguments: Any, **options: Any) -> Any:
            outer = getattr(_state, "node", None)
            _state.node = node.unique_id
            try:
                return compile_code(compiler, node, *arguments, **options)
            finally:
                _state.node = outer

        def sending(connections: Any, sql: str, *arguments: Any, **options: Any) -> Any:
            node = getattr(_state, "node", None)
            if node is not None and sql != "BEGIN":
                self.queries.append((node, sql))
            return add_query(connections, sql, *arguments, **options)

        # For the rest of this process, which does one job.
        Compiler._compile_code = compiling
        manager.add_query = sending
