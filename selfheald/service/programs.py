"""Running the service manager's own programs. The one seam to them: tests put another runner in its place."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from selfheald.errors import InitializationError

#: Seconds that a program of the service manager may take; a stop may take as long as the unit says, and this more.
PATIENCE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Done:
    """How a program ended, and what it said."""

    code: int
    output: str = ""
    error: str = ""

    @property
    def said(self) -> str:
        """What it said of its failure, in one line."""
        return " ".join((self.error or self.output).split())


#: Runs a program with its arguments and this environment, for so many seconds at most.
Runner = Callable[[Sequence[str], Mapping[str, str], float], Done]


def run(words: Sequence[str], environ: Mapping[str, str], seconds: float) -> Done:
    """Run it and wait. A program that is missing ends with 127, one that takes too long with 124, as in a shell."""
    try:
        done = subprocess.run(
            words, env=dict(environ), stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=False
        )
    except FileNotFoundError:
        return Done(127, error=f"{words[0]} is not installed")
    except subprocess.TimeoutExpired:
        return Done(124, error=f"{words[0]} did not answer within {seconds:g} s")
    return Done(done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace"))


def service_failed(message: str, hint: str, path: object = None) -> InitializationError:
    """The service manager is not there, or did not do what it was asked: there is no daemon because of that."""
    return InitializationError(message, code="no_daemon", hint=hint, path=path)
