"""systemd, by its own commands: the system's manager, or that of one user."""

from __future__ import annotations

import os
import pwd
import stat
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from selfheald.service import programs
from selfheald.service.manager import Condition, Say
from selfheald.service.order import Given, Order
from selfheald.service.programs import PATIENCE_SECONDS, Done, Runner, service_failed
from selfheald.service.shipped import UNIT_OF_SYSTEM, UNIT_OF_USER, template
from selfheald.service.unit_text import NAME, given_in, unit_text

#: Where a system that was started by systemd shows it.
BOOTED = Path("/run/systemd/system")
#: Seconds for a start: more than the unit's own limit (TimeoutStartSec), which therefore comes first.
START_SECONDS = 330.0
#: Seconds between two looks at a service that starts.
LOOK_SECONDS = 0.2
#: Lines of the journal that are shown of a start that failed.
LAST_WORDS = 10
_PROPERTIES = "LoadState ActiveState SubState UnitFileState StatusText MainPID Result InvocationID".split()


class Systemd:
    """One of systemd's managers. ``environ`` is the calling person's."""

    kind = "systemd"

    def __init__(self, system: bool, environ: Mapping[str, str], runner: Runner = programs.run) -> None:
        self.system = system
        self._run = runner
        self._scope = [] if system else ["--user"]
        self._environ = dict(environ)
        self.file = Path("/etc/systemd/system") / NAME if system else _units_of_user(environ) / NAME
        self.log_command = " ".join(["journalctl", *self._scope, "-u", "selfheald"])
        self.start_command = " ".join([*(["sudo"] if system else []), "systemctl", *self._scope, "start", "selfheald"])
        if not system and (folder := _runtime_folder(environ)) is not None:
            # Somebody who came by `su` or `ssh` may have no such variable, and a manager all the same.
            self._environ["XDG_RUNTIME_DIR"] = str(folder)

    def require(self) -> None:
        """Raise if the manager is not there, or is not ours to command."""
        if not BOOTED.is_dir():
            raise service_failed(
                "this machine is not run by systemd",
                "Start the daemon by what runs services here: it stays in the foreground (`selfheald run ROOT`) and "
                "ends at SIGTERM.",
            )
        if self.system:
            return
        done = self._systemctl("is-system-running")
        if not done.output.strip() or done.output.strip() == "offline":
            raise service_failed(
                f"the service manager of user {_own_name()} cannot be reached: {done.said or 'no answer'}",
                f"Log in as {_own_name()} by ssh or at the screen, not by su or sudo; or have it run always: "
                f"sudo loginctl enable-linger {_own_name()}. Then try again.",
            )

    def text_for(self, order: Order) -> str:
        """The unit."""
        return unit_text(template(UNIT_OF_SYSTEM if self.system else UNIT_OF_USER), order)

    def given_in(self, text: str) -> Given | None:
        """What was said when this unit was installed; ``None`` if it is none of ours."""
        return given_in(text, system=self.system)

    def condition(self) -> Condition:
        """How the service stands, as systemd tells."""
        found = self._properties()
        if not found:
            return Condition(detail="unknown: systemd does not answer")
        state, sub = found.get("ActiveState", ""), found.get("SubState", "")
        detail = state if sub in ("", state) else f"{state} ({sub})"
        if state == "failed" and found.get("Result"):
            detail = f"failed ({found['Result']})"
        if found.get("LoadState") == "masked":
            detail = "masked"
        pid = found.get("MainPID", "0")
        return Condition(
            enabled=found.get("UnitFileState") == "enabled",
            active=state in ("active", "reloading"),
            detail=detail,
            status=found.get("StatusText", ""),
            pid=int(pid) if pid.isdecimal() and pid != "0" else None,
        )

    def begin(self, order: Order, *, changed: bool, say: Say) -> bool:
        """Enable and start it, anew if its unit has changed, and wait for READY. Raises with its last words."""
        del order  # systemd knows by itself when it is ready
        self._must("daemon-reload")
        self._must("enable", NAME)
        before = self._properties()
        if before.get("ActiveState") in ("active", "reloading") and not changed:
            return False
        # A start that failed too often is refused without this.
        self._systemctl("reset-failed", NAME)
        self._must("restart", "--no-block", NAME)
        self._wait(before.get("InvocationID", ""), say)
        return True

    def end(self) -> None:
        """Stop and disable it. A running initialization has its ``shutdown.grace``."""
        self._must("disable", "--now", NAME, seconds=START_SECONDS)

    def forget(self) -> None:
        """Its unit is gone."""
        self._must("daemon-reload")
        self._systemctl("reset-failed", NAME)

    def notes(self) -> list[str]:
        """That a service of one user ends with the last session, where it does."""
        name = _own_name()
        if self.system or Path("/var/lib/systemd/linger", name).exists():
            return []
        return [f"it runs while you are logged in; to have it run always: loginctl enable-linger {name}"]

    def _wait(self, before: str, say: Say) -> None:
        """Wait until another run than ``before`` is ready."""
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            found = self._properties()
            state, run = found.get("ActiveState"), found.get("InvocationID", "")
            if run and run != before:
                if state == "active":
                    return
                if state == "failed" or found.get("SubState") == "auto-restart":
                    raise self._failed(found)
            say(found.get("StatusText") or "starting")
            time.sleep(LOOK_SECONDS)
        raise self._failed(self._properties())

    def _failed(self, found: Mapping[str, str]) -> Exception:
        of_this_run = [f"_SYSTEMD_INVOCATION_ID={found['InvocationID']}"] if found.get("InvocationID") else []
        words = ["journalctl", *self._scope, "-n", str(LAST_WORDS), "-o", "cat", "--no-pager", "-u", NAME, *of_this_run]
        journal = self._run(words, self._environ, PATIENCE_SECONDS).output.splitlines()
        why = found.get("StatusText") or found.get("Result") or "no word of it"
        return service_failed(
            "\n".join([f"the service did not become ready: {why}", *journal]),
            f"Mend what it says, then install again. The whole log: {self.log_command}",
            self.file,
        )

    def _properties(self) -> dict[str, str]:
        done = self._systemctl("show", NAME, "--property", ",".join(_PROPERTIES))
        return dict(line.split("=", 1) for line in done.output.splitlines() if "=" in line)

    def _must(self, *words: str, seconds: float = PATIENCE_SECONDS) -> None:
        done = self._systemctl(*words, seconds=seconds)
        if done.code != 0:
            command = " ".join(["systemctl", *self._scope, *words])
            raise service_failed(f"{command}: {done.said}", f"Run it by hand: {command}", self.file)

    def _systemctl(self, *words: str, seconds: float = PATIENCE_SECONDS) -> Done:
        return self._run(["systemctl", *self._scope, "--no-pager", *words], self._environ, seconds)


def _units_of_user(environ: Mapping[str, str]) -> Path:
    configured = environ.get("XDG_CONFIG_HOME", "")
    return (Path(configured) if configured.startswith("/") else Path.home() / ".config") / "systemd" / "user"


def _runtime_folder(environ: Mapping[str, str]) -> Path | None:
    """The user's runtime folder, where the environment does not name it: systemd has it in one place."""
    if environ.get("XDG_RUNTIME_DIR"):
        return None
    usual = Path(f"/run/user/{os.geteuid()}")
    with suppress(OSError):
        found = usual.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid():
            return usual
    return None


def _own_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
