"""What to do with a database that was just looked at: a pure decision."""

from __future__ import annotations

from enum import Enum, auto

from selfheald.catalog import CheckResult


class Decision(Enum):
    """The next thing to do with a database."""

    LOOK_AGAIN = auto()  #: somebody may have been writing while it was read
    ADOPT = auto()  #: all is there: write the marker
    FORGET = auto()  #: there is no database, and nobody asks for one
    FAIL = auto()  #: nothing that we may mend
    LEAVE = auto()  #: incomplete, but the configuration says to leave it alone
    WAIT = auto()  #: incomplete, and another process holds it
    INITIALIZE = auto()  #: incomplete: make what is missing


def decide(check: CheckResult, *, requested: bool, heal: str) -> Decision:
    """The next thing to do, given what was found, whether a simulator asks, and ``watch.heal``."""
    reading = check.reading
    if not reading.certain:
        return Decision.LOOK_AGAIN
    if check.complete:
        return Decision.ADOPT
    if check.error is not None:
        return Decision.FAIL
    if not reading.exists and not requested:
        return Decision.FORGET
    # A zero-byte file is a request, in the way that a shell can make one.
    if heal == "never" or (heal == "requested" and not (requested or reading.empty)):
        return Decision.LEAVE
    return Decision.WAIT if reading.holder is not None else Decision.INITIALIZE
