"""Where the benchmarks run: a temporary folder, an environment of their own, and processes that end with them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

from selfheald.client import read_record

ROOT = Path(__file__).parents[1]
#: Seconds in which whatever is waited for must have come.
DEADLINE = 180.0
#: Seconds between two looks.
PAUSE = 0.001

Form = Literal["tiny", "small", "large"]
Value = TypeVar("Value")


class BenchError(Exception):
    """Something could not be measured; the text says why."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What a subject has to work with. All that it makes lies below ``folder``."""

    folder: Path
    form: Form = "small"
    #: The Python of an environment with the oldest versions, if there is one.
    pinned: str | None = None
    say: Callable[[str], None] = field(default=lambda text: None)

    def scaled(self, *, tiny: Value, small: Value, large: Value) -> Value:
        """A number of rounds, a size, or whatever differs between the forms."""
        return {"tiny": tiny, "small": small, "large": large}[self.form]

    def make_folder(self, name: str) -> Path:
        """A new folder."""
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))

    def environment(self, **settings: object) -> dict[str, str]:
        """An environment that points nowhere out of ``folder``: ``WATCH__SETTLE=0.05`` sets ``watch.settle``."""
        foreign = ("SELFHEALD_", "XDG_", "DBT_")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        for name in ("DATABASE_PATH", "NO_COLOR", "TERM", "PYTHONDONTWRITEBYTECODE"):
            inherited.pop(name, None)
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        texts = {
            f"SELFHEALD_{name}": value if isinstance(value, str) else json.dumps(value)
            for name, value in settings.items()
        }
        own = {"HOME": str(home), "SELFHEALD_STATE_DIR": str(home / "state"), "SELFHEALD_LOG__FILE": "none"}
        paths = os.pathsep.join(filter(None, [str(ROOT), inherited.get("PYTHONPATH")]))
        return inherited | own | {"PYTHONPATH": paths, "DBT_SEND_ANONYMOUS_USAGE_STATS": "false"} | texts

    def run(
        self, command: Sequence[str | Path], *, environment: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> float:
        """Run a program to its end, which must be a good one; the seconds that it took."""
        return self.answer(command, environment=environment, cwd=cwd)[0]

    def answer(
        self, command: Sequence[str | Path], *, environment: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> tuple[float, str]:
        """As :meth:`run`; the seconds, and all that it wrote.

        It gets a process group of its own, which is killed if it is left before its end.
        """
        with tempfile.TemporaryFile() as output:
            began = time.perf_counter()
            process = subprocess.Popen(
                list(map(str, command)), cwd=cwd or self.folder, env=dict(environment or self.environment()),
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
            try:
                code = process.wait(DEADLINE)
                seconds = time.perf_counter() - began
            except BaseException:
                _kill(process)
                raise
            output.seek(0)
            told = output.read().decode(errors="replace")
            if code:
                raise BenchError(f"{' '.join(map(str, command[:6]))} ended with {code}:\n{told[-2000:]}")
            return seconds, told

    def selfheald(self, *arguments: str | Path, **settings: object) -> float:
        """Run one of our commands to its good end; the seconds that it took."""
        return self.run(command(*arguments), environment=self.environment(**settings))

    @contextmanager
    def daemon(self, *roots: Path, **settings: object) -> Iterator[Daemon]:
        """A daemon that is ready when the body begins, and is gone after it, with all that it started."""
        output = self.make_folder("daemon") / "output"
        with output.open("wb") as stream:
            began = time.perf_counter()
            process = subprocess.Popen(
                command("run", *roots), cwd=self.folder, env=self.environment(**settings),
                stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        try:
            until(lambda: _is_ready(process, roots, output), "the daemon's READY")
            yield Daemon(process, output, time.perf_counter() - began)
            process.send_signal(signal.SIGTERM)
            process.wait(DEADLINE)
        finally:
            _kill(process)


@dataclass(frozen=True, slots=True)
class Daemon:
    """``selfheald run``, ready; ``seconds_to_ready`` after its start."""

    process: subprocess.Popen[bytes]
    output: Path
    seconds_to_ready: float

    @property
    def pid(self) -> int:
        return self.process.pid


def command(*arguments: str | Path) -> list[str]:
    """The command line of selfheald."""
    return [sys.executable, "-m", "selfheald", *map(str, arguments)]


def until(look: Callable[[], object], what: str, deadline: float = DEADLINE) -> float:
    """Look until it gives something true; the seconds that it took."""
    began = time.perf_counter()
    while not look():
        if time.perf_counter() - began > deadline:
            raise BenchError(f"not within {deadline:g} s: {what}")
        time.sleep(PAUSE)
    return time.perf_counter() - began


def _is_ready(process: subprocess.Popen[bytes], roots: Sequence[Path], output: Path) -> bool:
    if process.poll() is not None:
        raise BenchError(f"the daemon ended with {process.returncode}:\n{output.read_text()[-2000:]}")
    records = [read_record(root / ".selfheald" / "daemon.json") or {} for root in roots]
    return all(record.get("pid") == process.pid and record.get("state") == "ready" for record in records)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and its group, of which it is the first."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
