"""The job ``place``: a finished database file gets its path, and what became of that."""

from __future__ import annotations

from typing import Any, Callable, Dict, Mapping

from .file_dance import put_in_place
from .refusals import BusyError, ChangedError


def place(job: Mapping[str, Any], emit: Callable[[Dict[str, Any]], None]) -> Dict[str, Any]:
    """Put the file ``staging`` at the path ``database``. The outcome is published, busy or changed."""
    try:
        put_in_place(job["staging"], job["database"])
    except BusyError as busy:
        return {"outcome": "busy", "message": str(busy)}
    except ChangedError as changed:
        return {"outcome": "changed", "message": str(changed)}
    return {"outcome": "published"}
