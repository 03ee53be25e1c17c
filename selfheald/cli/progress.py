"""What a waiting person reads: a spinner on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Awaitable, Mapping
from typing import Any, TypeVar

import anyio
import typer

from selfheald.explanation import describe
from selfheald.printable import one_line
from selfheald.quick_wait import ready_sentence
from selfheald.terminal import colour_allowed

Found = TypeVar("Found")

#: Without a terminal a line appears at least this often (seconds).
REPEAT_SECONDS = 5.0


def describe_ready(status: Mapping[str, Any] | None, seconds: float, *, made: bool) -> str:
    """The last sentence."""
    created = len((status or {}).get("tables_created") or ()) if made else 0
    if not created:
        return ready_sentence(seconds)
    return f"Ready in {seconds:.1f} s: {_tables(created)} made, existing tables untouched"


def describe_size(status: Mapping[str, Any]) -> str:
    """How much an initialization that begins has to do."""
    eta = status.get("eta_seconds")
    about = f" (about {eta:.0f} s)" if eta else ""
    return f"Initializing {_tables(len(status.get('missing_tables_found') or ()), 'missing ')}{about}"


def _tables(count: int, kind: str = "") -> str:
    return f"{count} {kind}table" + ("" if count == 1 else "s")


class Progress:
    """Shows one sentence at a time on stderr. Use as a context manager.

    Sentences come from files that others can write: what could move a cursor is spelled out.
    """

    def __init__(self, first: str, *, quiet: bool = False) -> None:
        self._text = one_line(first)
        self._quiet = quiet
        self._shown_at = float("-inf")
        self._spinner: Any = None
        self._status: Mapping[str, Any] = {}
        self._attempts = 0
        self._began = time.monotonic()

    def __enter__(self) -> Progress:
        if not self._quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.markup import escape

            console = Console(stderr=True, no_color=not colour_allowed())
            self._spinner = console.status(escape(self._text))
            self._spinner.start()
        self._show()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._spinner is not None:
            self._spinner.stop()
            self._spinner = None

    def say(self, text: str | None) -> None:
        """Show a sentence, unless it is shown already."""
        text = one_line(text or "")
        if text and text != self._text:
            self._text = text
            self._show()

    def on_status(self, status: Mapping[str, Any], attempts: int = 0) -> None:
        """Show what a status record says. A first one of an initialization says how much there is to do."""
        was, self._status = self._status, status
        self._attempts = attempts
        for warning in (status.get("warnings") or ())[len(was.get("warnings") or ()) :]:
            self.leave(f"warning: {warning}")
        if status.get("state") == "in_progress" and was.get("attempt_id") != status.get("attempt_id"):
            self.say(describe_size(status))
        self.say(describe(status, attempts=attempts))

    def final(self, text: str) -> None:
        """End with a sentence."""
        self.__exit__()
        if not self._quiet:
            typer.echo(one_line(text), err=True)

    async def keep_talking(self) -> None:
        """Repeat what is going on, so that nobody is left silent. Runs until it is cancelled."""
        while True:
            await anyio.sleep(REPEAT_SECONDS / 5)
            if self._spinner is None and time.monotonic() - self._shown_at >= REPEAT_SECONDS:
                again = describe(self._status, attempts=self._attempts) or self._text
                self._shown_at = time.monotonic()
                if not self._quiet:
                    typer.echo(f"{one_line(again)} ({time.monotonic() - self._began:.0f} s)", err=True)

    def leave(self, text: str) -> None:
        """Show a sentence that stays to be read."""
        if self._spinner is None:
            self.say(text)
        else:
            self._spinner.console.print(one_line(text), markup=False, highlight=False)

    async def along(self, work: Awaitable[Found]) -> Found:
        """Do some work, and keep talking meanwhile; its error comes out as it is."""
        failure: Exception | None = None
        async with anyio.create_task_group() as group:
            group.start_soon(self.keep_talking)
            try:
                found = await work
            except Exception as error:  # noqa: BLE001  (a group would wrap it)
                failure = error
            group.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return found

    def _show(self) -> None:
        self._shown_at = time.monotonic()
        if self._spinner is not None:
            from rich.markup import escape

            self._spinner.update(escape(self._text))
        elif not self._quiet:
            typer.echo(self._text, err=True)
