"""Installing the service, taking it away, and telling how it stands."""

from __future__ import annotations

import os
import secrets
import shlex
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfheald.client import real_path
from selfheald.config_places import own_python
from selfheald.errors import InitializationError, from_os_error
from selfheald.service.account import account_of, require_access
from selfheald.service.launchd import Launchd
from selfheald.service.manager import Condition, Manager, Say
from selfheald.service.order import Given, Order
from selfheald.service.planning import planned
from selfheald.service.rehearsal import rehearse
from selfheald.service.systemd import Systemd
from selfheald.workspace import is_under

#: A larger file is no service's (bytes).
_MAX_BYTES = 1 << 20


def manager_for(system: bool, environ: Mapping[str, str]) -> Manager:
    """The service manager of this machine."""
    return (Launchd if sys.platform == "darwin" else Systemd)(system, environ)


@dataclass(frozen=True, slots=True)
class Standing:
    """An installed service: its file, how it runs, and, where it is to be renewed, ``outdated``: why.

    ``given`` is ``None`` where no file is there. Of one that ``another`` interpreter runs, only that one can tell.
    """

    manager: Manager
    given: Given | None
    condition: Condition
    outdated: str | None = None
    another: str | None = None

    @property
    def install_command(self) -> str:
        """What renews it."""
        return shlex.join(["selfheald", "service", "install", *(self.given or Given()).as_arguments()])

    def as_dict(self) -> dict[str, Any]:
        """The document of ``service show --json``."""
        condition = self.condition
        return {
            "format": 1,
            "manager": self.manager.kind,
            "file": str(self.manager.file),
            "installed": self.given is not None,
            "enabled": condition.enabled,
            "active": condition.active,
            "detail": condition.detail,
            "status": condition.status or None,
            "pid": condition.pid,
            "current": None if self.given is None or self.another is not None else self.outdated is None,
            "outdated": self.outdated,
            "error": None,
        }


def install(order: Order, manager: Manager, say: Say) -> str:
    """Install and start the service, and wait until it is ready.

    Returns what was done: ``installed``, ``renewed``, ``started``, or ``unchanged``. Raises
    :class:`InitializationError`; what is wrong is found before anything is changed.
    """
    _require_person(order.given)
    text = manager.text_for(order)
    before = _read_own(manager)
    manager.require()
    account = None
    if order.given.system:
        account = account_of(order)
        require_access(order, account)
    say("preparing the workspaces")
    rehearse(order, account)
    if text != before:
        _write(manager.file, text)
    say("starting")
    started = manager.begin(order, changed=text != before, say=say)
    if text != before:
        return "installed" if before is None else "renewed"
    return "started" if started else "unchanged"


def uninstall(manager: Manager, given: Given) -> bool:
    """Stop the service and remove its file, and nothing else; False if it was not installed."""
    _require_person(given)
    if _read_own(manager) is None:
        return False
    manager.require()
    manager.end()
    try:
        manager.file.unlink(missing_ok=True)
    except OSError as error:
        raise from_os_error(error, manager.file, "remove") from error
    manager.forget()
    return True


def start_command(path: Path, environ: Mapping[str, str]) -> str | None:
    """What starts an installed service that watches ``path``, one's own first; ``None`` if there is none.

    One that was installed without roots watches what its configuration says, which is not asked here.
    """
    for system in (False, True):
        manager = manager_for(system, environ)
        with suppress(InitializationError):
            given = manager.given_in(_read(manager.file) or "")
            roots = () if given is None else given.roots
            if given is not None and (not roots or any(is_under(path, Path(real_path(root))) for root in roots)):
                return manager.start_command
    return None


def standing(manager: Manager, environ: Mapping[str, str], wanted: Given | None = None) -> Standing:
    """How the service stands; ``wanted`` is what it is compared with, else what it was installed with."""
    text = _read(manager.file)
    given = None if text is None else manager.given_in(text)
    condition = manager.condition() if text is not None else Condition()
    if text is None:
        return Standing(manager, None, condition)
    if given is None:
        return Standing(manager, Given(), condition, "it was not written by selfheald")
    if wanted is None and given.python not in (None, str(own_python())):
        return Standing(manager, given, condition, another=given.python)
    try:
        order, _ = planned(wanted or given, environ)
        outdated = None if manager.text_for(order) == text else _difference(text, manager.text_for(order))
    except InitializationError as error:
        outdated = f"it could not be installed now: {error.sentence}"
    return Standing(manager, wanted or given, condition, outdated)


def _difference(old: str, new: str) -> str:
    """What distinguishes two files, in a few words: the first line of the new one that the old one has not."""
    there = set(old.splitlines())
    line = next((each.strip() for each in new.splitlines() if each not in there), None)
    return "it has more than is needed now" if line is None else f"it would say now: {line}"


def _require_person(given: Given) -> None:
    root = os.geteuid() == 0
    if given.system and not root:
        raise InitializationError(
            "only root can install a service for the whole machine",
            code="permission_denied",
            hint="Say the same with sudo before it, or leave out --system for a service of your own.",
        )
    if root and not given.system:
        raise InitializationError(
            "a service of root's own would do everything as root",
            code="config_invalid",
            hint="Add --system (it runs as a user without rights then), or call this without sudo.",
        )


def _read_own(manager: Manager) -> str | None:
    """The installed file; ``None`` if there is none. Raises for one that somebody else has put there."""
    text = _read(manager.file)
    if text is not None and manager.given_in(text) is None:
        raise InitializationError(
            f"{manager.file} was not written by selfheald",
            code="config_invalid",
            path=manager.file,
            hint=f"Keep what is of use in it, then move it away: mv {shlex.quote(str(manager.file))} ~",
        )
    return text


def _read(file: Path) -> str | None:
    try:
        with file.open("rb") as stream:
            return stream.read(_MAX_BYTES).decode("utf-8", "replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise from_os_error(error, file, "read") from error


def _write(file: Path, text: str) -> None:
    """Whole or not at all, readable by all."""
    draft = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(text, encoding="utf-8")
        draft.chmod(0o644)
        draft.replace(file)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise from_os_error(error, file, "write") from error
