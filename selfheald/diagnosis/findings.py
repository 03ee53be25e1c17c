"""A finding: what was looked at, how it stands, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Status(StrEnum):
    """How it stands: as it should be; worth a look; a daemon or a simulation will fail because of it."""

    GREEN = "green"
    YELLOW = "yellow"
    RED = "red"


#: What is looked at, by group, in the order in which it is told. Ids never change their meaning.
GROUPS: Mapping[str, tuple[str, ...]] = {
    "Configuration": ("configuration", "passed_over", "settings"),
    "Versions": (
        "daemon_python",
        "dbt_python",
        "dbt_versions",
        "daemon_duckdb",
        "storage_format",
        "simulator_duckdb",
    ),
    "dbt project": ("project", "profile", "selection"),
    "Roots": ("roots", "root_access", "root_group", "private_folder", "file_system", "time_stamps"),
    "Machine": (
        "inotify_watches",
        "inotify_instances",
        "inotify_queue",
        "open_files",
        "processes",
        "disk_space",
        "state_folder",
        "log_folder",
        "temporary_folder",
    ),
    "Leftovers": ("leftovers", "set_aside", "suspects"),
    "Service": ("daemon", "service"),
}
CHECKS: tuple[str, ...] = tuple(check for checks in GROUPS.values() for check in checks)
#: These are told of only where there is something to look at; every other id is in each document.
OPTIONAL = frozenset({"service"})


@dataclass(frozen=True, slots=True)
class Finding:
    """``check`` is one of :data:`CHECKS`; ``hint`` is the cure, always given where ``status`` is red."""

    check: str
    status: Status
    message: str
    hint: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """An entry of ``doctor --json``."""
        return {"id": self.check, "status": self.status.value, "message": self.message, "hint": self.hint}


def green(check: str, message: str) -> Finding:
    """It is as it should be."""
    return Finding(check, Status.GREEN, message)


def yellow(check: str, message: str, hint: str | None = None) -> Finding:
    """It is worth a look."""
    return Finding(check, Status.YELLOW, message, hint)


def red(check: str, message: str, hint: str) -> Finding:
    """Something will fail because of it."""
    return Finding(check, Status.RED, message, hint)


def complete(findings: Iterable[Finding], why: str) -> list[Finding]:
    """The findings in their order, and "not checked", with the reason, for every id that none of them is about."""
    found = list(findings)
    known = {finding.check for finding in found}
    found += [yellow(each, f"not checked: {why}") for each in CHECKS if each not in known | OPTIONAL]
    return sorted(found, key=lambda finding: CHECKS.index(finding.check))


def document(findings: Sequence[Finding]) -> dict[str, Any]:
    """The document of ``doctor --json``."""
    ok = not any(finding.status is Status.RED for finding in findings)
    return {"format": 1, "ok": ok, "checks": [finding.as_dict() for finding in findings]}
