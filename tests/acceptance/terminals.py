"""Programs in terminals of their own, as tests hold them."""

from __future__ import annotations

import os
import pty
import select
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from fixtures.waiting import DEADLINE, wait_for


class Screen:
    """A program in a terminal of its own."""

    def __init__(self, process: subprocess.Popen[bytes], descriptor: int) -> None:
        self.process = process
        self.text = ""
        self._descriptor = descriptor

    def expect(self, text: str) -> None:
        """Read until it is there."""
        wait_for(lambda: self.read() and text in self.text, what=lambda: self.text)

    def send(self, text: str) -> None:
        """Type."""
        os.write(self._descriptor, text.encode())

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


@contextmanager
def terminal(words: Sequence[str], environment: dict[str, str], folder: Path | None = None) -> Iterator[Screen]:
    """A program in a terminal, in a session and, if that is given, a folder of its own; killed in the end."""
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            words, cwd=folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        )
        os.close(theirs)
        try:
            yield Screen(process, ours)
        finally:
            process.kill()
            process.wait(DEADLINE)
    finally:
        with suppress(OSError):
            os.close(ours)
