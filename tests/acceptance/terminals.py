"""A terminal as a test holds it: what a program shows there, what is typed, and how large it is."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from fixtures.waiting import DEADLINE, wait_for

ESCAPE = "\x1b"
#: Colours and other looks of characters.
_LOOKS = re.compile(r"\x1b\[[0-9;]*m")


class Screen:
    """A program in a terminal of its own."""

    process: subprocess.Popen[bytes]

    def __init__(self, descriptor: int) -> None:
        self.text = ""
        self.height = 0
        self._descriptor = descriptor

    def expect(self, text: str) -> None:
        """Read until it is there."""
        wait_for(lambda: self.read() and text in self.text, what=lambda: self.text)

    def send(self, text: str) -> None:
        """Type."""
        os.write(self._descriptor, text.encode())

    def resize(self, width: int, height: int) -> None:
        """Change its size; the kernel tells the program."""
        self.height = height
        fcntl.ioctl(self._descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def frame(self) -> list[str]:
        """The lines that a program shows which draws all of them anew each time, without their looks; none as long
        as it has not done so in the size that the terminal has now."""
        self.read()
        drawn = (plain(part).replace("\r", "").split("\n") for part in reversed(self.text.split(f"{ESCAPE}[H")))
        return next((lines for lines in drawn if len(lines) == self.height), [])

    def wait(self) -> int:
        """Read until it ends; its exit code."""
        wait_for(lambda: not self.read() or self.process.poll() is not None, what=lambda: self.text)
        while self.read() and select.select([self._descriptor], [], [], 0)[0]:
            pass
        return self.process.wait(DEADLINE)

    def read(self) -> bool:
        """Take what there is; False at the end."""
        while select.select([self._descriptor], [], [], 0)[0]:
            try:
                data = os.read(self._descriptor, 65536)
            except OSError:  # Linux' way to say that nobody has the other end open
                data = b""
            if not data:
                return False
            self.text += data.decode(errors="replace")
        return True


def plain(text: str) -> str:
    """Text without the looks of its characters."""
    return _LOOKS.sub("", text)


@contextmanager
def terminal(
    words: Sequence[str], environment: dict[str, str], size: tuple[int, int] = (80, 24), folder: Path | None = None
) -> Iterator[Screen]:
    """A program in a terminal of so many characters and lines, and, if that is given, a folder of its own.

    What is typed there reaches it, Ctrl-C as a signal.
    """
    ours, theirs = pty.openpty()
    try:
        screen = Screen(ours)
        screen.resize(*size)
        process = subprocess.Popen(
            words,
            cwd=folder,
            env=environment,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(theirs)
        screen.process = process
        try:
            yield screen
        finally:
            process.kill()
            process.wait(DEADLINE)
    finally:
        with suppress(OSError):
            os.close(ours)
