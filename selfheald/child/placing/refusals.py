"""Why a file was not put in its place: for a cause that is known, or since this is not the moment."""

from __future__ import annotations

from typing import Optional


class JobError(Exception):
    """A job failed for a known cause.

    ``code`` is one of selfheald's stable error codes; ``path`` is the file to mend; ``step`` the step of the
    initialization that failed (left out, it is the one that was running).
    """

    def __init__(
        self,
        code: str,
        message: str,
        hint: Optional[str] = None,
        path: Optional[object] = None,
        step: Optional[str] = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.path = None if path is None else str(path)
        self.step = step


class BusyError(Exception):
    """Another process holds a lock on the database: nothing was changed, try again later."""


class ChangedError(Exception):
    """The database is not what it was when staging was made of it: nothing was changed, start over."""
