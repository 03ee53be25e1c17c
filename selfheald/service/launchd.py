"""launchd, by its own command: jobs of one user (agents) or of the machine (daemons)."""

from __future__ import annotations

import os
import pwd
import re
import time
from collections.abc import Mapping
from pathlib import Path

from selfheald.presence import daemon_record
from selfheald.service import programs
from selfheald.service.launchd_text import LABEL, given_in, job_text
from selfheald.service.manager import Condition, Say
from selfheald.service.order import Given, Order
from selfheald.service.programs import PATIENCE_SECONDS, Done, Runner, service_failed
from selfheald.service.shipped import AGENT, DAEMON, template

#: Seconds in which the daemon must be ready, and between two looks at it: launchd does not know when that is.
START_SECONDS = 330.0
LOOK_SECONDS = 0.5
#: Lines of the log that are shown of a start that failed, and the bytes in which they are looked for.
LAST_WORDS, _LAST_BYTES = 10, 16_384
#: What `launchctl bootout` ends with where there is no such job, and what it says while one is still ending.
_NOT_FOUND, _ENDING = 3, 36


class Launchd:
    """launchd's jobs of this person, or of the machine. ``environ`` is the calling person's."""

    kind = "launchd"

    def __init__(
        self, system: bool, environ: Mapping[str, str], runner: Runner = programs.run, home: Path | None = None
    ) -> None:
        self.system = system
        self._run = runner
        self._environ = dict(environ)
        self._home = Path.home() if home is None else home
        library = Path("/Library") if system else self._home / "Library"
        self.file = library / ("LaunchDaemons" if system else "LaunchAgents") / f"{LABEL}.plist"
        self._log = library / "Logs" / "selfheald" / "launchd.log"
        self.log_command = f"tail -n 100 {self._log}"
        self._domain = "system" if system else f"gui/{os.getuid()}"
        self._job = f"{self._domain}/{LABEL}"
        self.start_command = " ".join([*(["sudo"] if system else []), "launchctl", "kickstart", self._job])

    def require(self) -> None:
        """Raise if the manager is not there, or is not ours to command."""
        done = self._launchctl("print", self._domain)
        if done.code != 0:
            raise service_failed(
                f"launchd cannot be reached: {done.said or 'no answer'}",
                "Log in at the screen, not by ssh; or install one service for the machine: --system.",
            )

    def text_for(self, order: Order) -> str:
        """The job."""
        home = self._home
        if self.system:
            try:
                home = Path(pwd.getpwnam(order.user).pw_dir)
            except KeyError:
                home = Path("/var/empty")  # the installation will say that there is no such user
        return job_text(template(DAEMON if self.system else AGENT), order, home=home, log=self._log)

    def given_in(self, text: str) -> Given | None:
        """What was said when this job was installed; ``None`` if it is none of ours."""
        return given_in(text, system=self.system)

    def condition(self) -> Condition:
        """How the service stands, as launchd tells."""
        done = self._launchctl("print", self._job)
        if done.code != 0:
            return Condition(detail="not loaded")
        state = re.search(r"^\s*state = (.+)$", done.output, re.MULTILINE)
        pid = re.search(r"^\s*pid = (\d+)$", done.output, re.MULTILINE)
        ended = re.search(r"^\s*last exit code = (.+)$", done.output, re.MULTILINE)
        detail = state[1] if state else "unknown"
        if pid is None and ended is not None:
            detail += f" (last exit code {ended[1]})"
        return Condition(True, pid is not None, detail, pid=None if pid is None else int(pid[1]))

    def begin(self, order: Order, *, changed: bool, say: Say) -> bool:
        """Load the job, anew if its file has changed, and wait until the daemon says that it is ready."""
        before = self.condition()
        if before.active and not changed:
            return False
        self._make_log_folder(order)
        if before.enabled:
            self._boot_out()
        # A job that somebody disabled is not loaded.
        self._launchctl("enable", self._job)
        done = self._launchctl("bootstrap", self._domain, str(self.file))
        if done.code != 0:
            command = f"launchctl bootstrap {self._domain} {self.file}"
            raise service_failed(f"{command}: {done.said}", f"Run it by hand: {command}", self.file)
        self._wait(order, say)
        return True

    def end(self) -> None:
        """Stop and unload it."""
        self._boot_out()

    def forget(self) -> None:
        """Its file is gone: launchd keeps nothing of it."""

    def notes(self) -> list[str]:
        """That an agent ends with the session."""
        return [] if self.system else ["it runs while you are logged in at the screen"]

    def _boot_out(self) -> None:
        done = self._launchctl("bootout", self._job, seconds=START_SECONDS)
        if done.code not in (0, _NOT_FOUND, _ENDING):
            raise service_failed(
                f"launchctl bootout {self._job}: {done.said}",
                f"Run it by hand: launchctl bootout {self._job}",
                self.file,
            )
        end = time.monotonic() + START_SECONDS
        while self.condition().enabled and time.monotonic() < end:
            time.sleep(LOOK_SECONDS)

    def _wait(self, order: Order, say: Say) -> None:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            condition = self.condition()
            if "last exit code" in condition.detail and "never exited" not in condition.detail:
                break
            records = [daemon_record(root) for root in order.roots]
            if all(record["state"] == "ready" and record["pid"] == condition.pid for record in records):
                return
            say("starting")
            time.sleep(LOOK_SECONDS)
        raise service_failed(
            "\n".join([f"the service did not become ready: {self.condition().detail}", *self._last_words()]),
            f"Mend what it says, then install again. The whole log: {self.log_command}",
            self.file,
        )

    def _last_words(self) -> list[str]:
        try:
            with self._log.open("rb") as stream:
                size = stream.seek(0, os.SEEK_END)
                stream.seek(max(0, size - _LAST_BYTES))
                return stream.read().decode("utf-8", "replace").splitlines()[-LAST_WORDS:]
        except OSError:
            return []

    def _make_log_folder(self, order: Order) -> None:
        """launchd opens the log as the job's user, and makes no folder for it."""
        self._log.parent.mkdir(parents=True, exist_ok=True)
        if self.system:
            os.chown(self._log.parent, pwd.getpwnam(order.user).pw_uid, -1)

    def _launchctl(self, *words: str, seconds: float = PATIENCE_SECONDS) -> Done:
        return self._run(["launchctl", *words], self._environ, seconds)
