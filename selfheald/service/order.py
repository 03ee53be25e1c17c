"""What a service is to run, for whom, and what it may write: what both a unit and a launchd job are made from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

#: As whom a system's service runs where nobody says otherwise.
DEFAULT_USER = "selfheald"
#: Seconds beyond ``shutdown.grace`` that a stop may take.
TIDY_SECONDS = 10
#: Who is to reach the port that a service serves figures at.
Reach = Literal["nobody", "this machine", "others"]
_TEXTS = ("config", "user", "group", "python")


@dataclass(frozen=True, slots=True)
class Given:
    """What the installing person said, and to which ``python``, as it is kept in the installed file.

    All paths are absolute.
    """

    system: bool = False
    roots: tuple[str, ...] = ()
    config: str | None = None
    user: str | None = None
    group: str | None = None
    python: str | None = None

    def as_json(self) -> str:
        """One line of ASCII."""
        words = {name: getattr(self, name) for name in ("roots", *_TEXTS)}
        return json.dumps({name: value for name, value in words.items() if value}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str, *, system: bool) -> Self | None:
        """What :meth:`as_json` wrote; ``None`` if it did not write this."""
        try:
            record: Any = json.loads(text)
        except (ValueError, RecursionError):
            return None
        if not isinstance(record, Mapping):
            return None
        roots, rest = record.get("roots", []), [record.get(name) for name in _TEXTS]
        sound = isinstance(roots, list) and all(isinstance(root, str) for root in roots)
        if not sound or not all(isinstance(value, str | None) for value in rest):
            return None
        return cls(system, tuple(roots), *rest)

    def as_arguments(self) -> list[str]:
        """The words behind ``selfheald service install`` that say the same."""
        words = ["--system"] if self.system else []
        for option, value in (("--config", self.config), ("--user-name", self.user), ("--group", self.group)):
            words += [option, value] if value else []
        return [*words, *self.roots]


@dataclass(frozen=True, slots=True)
class Order:
    """``python`` runs selfheald; ``writable`` are the real paths of the workspaces, and of a state folder or a log
    folder that the configuration names; ``grace`` is ``shutdown.grace`` in seconds; ``reach`` says who is to reach the
    port of ``metrics.listen``."""

    given: Given
    python: Path
    roots: tuple[Path, ...]
    writable: tuple[Path, ...]
    grace: float
    version: str
    reach: Reach = "nobody"

    @property
    def command(self) -> Sequence[str]:
        """The program and its arguments."""
        config = [] if self.given.config is None else ["--config", self.given.config]
        return [str(self.python), "-m", "selfheald", "run", *config, *self.given.roots]

    @property
    def user(self) -> str:
        return self.given.user or DEFAULT_USER
