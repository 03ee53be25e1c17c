"""What the daemon says to the service manager that started it, in systemd's notify protocol.

Where nobody listens (no ``NOTIFY_SOCKET``) nothing is said, and nothing is spent on it. Nothing here raises: a service
manager that does not answer never harms the work.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Self

from selfheald.errors import InitializationError

#: Seconds that a change of state may wait for a service manager that is busy. Other words are dropped at once then.
PATIENCE_SECONDS = 1.0
#: What a service manager says to one process alone, and none of its children is to believe.
OWN_NAMES = frozenset(
    "NOTIFY_SOCKET WATCHDOG_PID WATCHDOG_USEC LISTEN_FDS LISTEN_FDNAMES LISTEN_PID FDSTORE MAINPID MANAGERPID".split()
)
#: The longest text of a status, in characters.
_LONGEST = 400
#: What the kernel would call a failing start, where it has no cause that the kernel named itself.
_NUMBERS = {
    "config_invalid": errno.EINVAL,
    "permission_denied": errno.EACCES,
    "concurrent_initialization": errno.EBUSY,
    "disk_full": errno.ENOSPC,
}


class ServiceManager:
    """Who started this process as a service, if anybody did.

    ``watchdog`` is the time in seconds within which it wants to hear :meth:`alive`, or ``None``. The socket is kept
    open, from the making of this to :meth:`close`: a daemon whose descriptors are used up is alive still.
    """

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        environ = os.environ if environ is None else environ
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self._socket = None if self._address is None else _open()
        self.watchdog = _watchdog(environ) if self.listens else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Say no more."""
        opened, self._socket = self._socket, None
        if opened is not None:
            opened.close()

    @property
    def listens(self) -> bool:
        """True if somebody wants to know."""
        return self._socket is not None

    def ready(self, status: str) -> bool:
        """The start, or a reload, is done."""
        return self._say("READY=1", _status(status), patient=True)

    def reloading(self, status: str) -> bool:
        """A reload begins; :meth:`ready` says that it has ended, however it did."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        return self._say("RELOADING=1", f"MONOTONIC_USEC={now}", _status(status), patient=True)

    def stopping(self, status: str) -> bool:
        """The end begins."""
        return self._say("STOPPING=1", _status(status), patient=True)

    def failed(self, error: InitializationError) -> bool:
        """The start has failed."""
        cause = error.__cause__
        number = cause.errno if isinstance(cause, OSError) and cause.errno else _NUMBERS.get(error.code)
        numbered = [] if number is None else [f"ERRNO={number}"]
        return self._say(_status(f"{error.code}: {error.message}"), *numbered, patient=True)

    def status(self, text: str) -> bool:
        """How it goes, for people; False if that could not be said now."""
        return self._say(_status(text))

    def alive(self) -> bool:
        """All that should move does."""
        return self._say("WATCHDOG=1")

    def _say(self, *lines: str, patient: bool = False) -> bool:
        if self._socket is None or self._address is None:
            return False
        # A name in a status may hold bytes that are no text.
        message = "\n".join(lines).encode("utf-8", "surrogateescape")
        try:
            self._socket.sendto(message, 0 if patient else socket.MSG_DONTWAIT, self._address)
        except OSError:
            return False
        return True


def of_children(environ: Mapping[str, str]) -> dict[str, str]:
    """An environment without what a service manager says to this process alone."""
    return {name: value for name, value in environ.items() if name not in OWN_NAMES}


def _address(name: str) -> str | None:
    """The socket's address: a path, or a name without one that begins with ``@``. Other kinds are not spoken to."""
    if len(name) < 2 or name[0] not in "/@":
        return None
    return f"\0{name[1:]}" if name[0] == "@" else name


def _open() -> socket.socket | None:
    try:
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    except OSError:
        return None
    with suppress(OSError):
        whole, rest = divmod(PATIENCE_SECONDS, 1)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(whole), int(rest * 1e6)))
    return opened


def _watchdog(environ: Mapping[str, str]) -> float | None:
    """Seconds; ``None`` where there is no watchdog, or it is another process's."""
    try:
        microseconds = int(environ.get("WATCHDOG_USEC", "0"))
        process = int(environ.get("WATCHDOG_PID", os.getpid()))
    except ValueError:
        return None
    return microseconds / 1e6 if microseconds > 0 and process == os.getpid() else None


def _status(text: str) -> str:
    """One line: the protocol ends a word at the end of its line."""
    line = " ".join(text.split())
    return f"STATUS={line if len(line) <= _LONGEST else line[: _LONGEST - 1] + '…'}"
