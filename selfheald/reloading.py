"""What another configuration means for a daemon that runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from selfheald.config import Config
from selfheald.workspace import merge_roots

#: Reads the configuration as it is now; raises InitializationError if it is wrong.
ReadAgain = Callable[[], Config]

#: What a daemon has opened at its start, and keeps.
FIXED = ("state_dir",)
#: What a watch is made with, and how often its roots are scanned.
_WATCH = ("roots", "database", "exclude", "mode", "rescan")
#: Sections of which no verdict about a database depends.
_NO_VERDICT = ("log", "shutdown", "history", "metrics", "templates")


@dataclass(frozen=True, slots=True)
class Change:
    """From one configuration to the next.

    ``config`` is what holds from now on. ``keys`` are those that are other than before, ``kept`` those of them that
    only a restart can change. ``watch_anew``: another watch is needed; ``look_again``: what was decided about a
    database may be decided otherwise now.
    """

    config: Config
    keys: tuple[str, ...]
    kept: tuple[str, ...]
    watch_anew: bool
    look_again: bool

    @property
    def roots(self) -> list[Path]:
        """The folders to watch from now on."""
        return merge_roots(list(self.config.watch.roots))


def change(old: Config, new: Config) -> Change:
    """What a daemon that runs with ``old`` has to do to run with ``new``."""
    kept = tuple(key for key in FIXED if getattr(old, key) != getattr(new, key))
    config = new.model_copy(update={key: getattr(old, key) for key in kept}).with_sources(new.sources)
    keys = []
    for section in type(new).model_fields:
        before, after = getattr(old, section), getattr(new, section)
        if before != after:
            names = getattr(type(after), "model_fields", None)
            keys += [section] if names is None else _differing(section, before, after, names)
    watched = {f"watch.{name}" for name in _WATCH}
    verdicts = {key for key in keys if key.split(".")[0] not in (*_NO_VERDICT, "watch", *FIXED) or key == "watch.heal"}
    return Change(config, tuple(keys), kept, not watched.isdisjoint(keys), bool(verdicts))


def _differing(section: str, before: object, after: object, names: object) -> list[str]:
    assert isinstance(names, dict)
    return [f"{section}.{name}" for name in names if getattr(before, name) != getattr(after, name)]
