"""What installing asks of a service manager, be it systemd or launchd."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from selfheald.service.order import Given, Order

#: Told of what is being waited for, in a few words.
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Condition:
    """How a service stands. ``detail`` is the manager's own word, ``status`` what the daemon says of itself."""

    enabled: bool = False
    active: bool = False
    detail: str = "not installed"
    status: str = ""
    pid: int | None = None


class Manager(Protocol):
    """A service manager, for services of this person or of the whole machine."""

    #: ``systemd`` or ``launchd``.
    kind: str
    #: Where the service's file belongs.
    file: Path
    #: The commands for people that show its log, and start it again.
    log_command: str
    start_command: str

    def require(self) -> None:
        """Raise if the manager is not there, or is not ours to command."""

    def text_for(self, order: Order) -> str:
        """The service's file."""

    def given_in(self, text: str) -> Given | None:
        """What was said when this file was installed; ``None`` if it is none of ours."""

    def condition(self) -> Condition:
        """How the service stands. Never raises: where nobody answers, ``detail`` says so."""

    def begin(self, order: Order, *, changed: bool, say: Say) -> bool:
        """Have it started now and at each boot or login, anew if its file has ``changed``, and wait until it is ready.

        False if it was running and stays so. Raises ``no_daemon`` with its last words.
        """

    def end(self) -> None:
        """Stop it, and start it no more. Its file is still there."""

    def forget(self) -> None:
        """Its file is gone."""

    def notes(self) -> list[str]:
        """What a person should know of a service that runs."""
