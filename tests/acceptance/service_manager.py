"""A service manager as a test plays it: the socket that a daemon is told of, and what it has said there."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path
from typing import NamedTuple, Self

from fixtures.standstill import make_standstill

#: Linux' option that has the kernel stamp each message, and the kind of that stamp.
_SO_TIMESTAMP = 29


class Message(NamedTuple):
    """One message: when it was sent (seconds since the epoch), by whom, its lines by their names."""

    sent_at: float
    pid: int
    lines: dict[str, str]


class Manager:
    """Hears what a daemon says. ``watchdog`` is the time in seconds within which it wants signs of life."""

    def __init__(self, folder: Path, watchdog: float | None = None) -> None:
        self.environment = {"NOTIFY_SOCKET": str(folder / "notify")}
        if watchdog is not None:
            self.environment["WATCHDOG_USEC"] = str(int(watchdog * 1e6))
        self._messages: list[Message] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMP, 1)
        self._socket.setblocking(False)
        self._socket.bind(self.environment["NOTIFY_SOCKET"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    @property
    def messages(self) -> list[Message]:
        """All so far."""
        while True:
            try:
                text, told, _, _ = self._socket.recvmsg(65536, 256)
            except BlockingIOError:
                return self._messages
            about = {kind: value for _, kind, value in told}
            seconds, microseconds = struct.unpack("ll", about[_SO_TIMESTAMP])
            pid = struct.unpack("iii", about[socket.SCM_CREDENTIALS])[0]
            lines = dict(line.split("=", 1) for line in text.decode().splitlines())
            self._messages.append(Message(seconds + microseconds / 1e6, pid, lines))

    def said(self, line: str) -> list[Message]:
        """The messages with this line, such as ``READY=1``."""
        name, _, value = line.partition("=")
        return [message for message in self.messages if message.lines.get(name) == value]

    @property
    def statuses(self) -> list[str]:
        """All texts of the status, in their order."""
        return [message.lines["STATUS"] for message in self.messages if "STATUS" in message.lines]

    @property
    def status(self) -> str:
        """The last one."""
        return self.statuses[-1] if self.statuses else ""


def standstill(folder: Path) -> dict[str, str]:
    """An environment in which SIGUSR1 makes a Python program's main thread stand still for good."""
    make_standstill(folder)
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")]))}
