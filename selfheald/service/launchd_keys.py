"""launchd's keys and their types, as far as our files may use them: launchd itself passes over what it does not know.

``plutil`` and launchd accept a file with a misspelt key or a word in the place of a number, and then do something else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def _text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _flag(value: object) -> bool:
    return isinstance(value, bool)


def _number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _path(value: object) -> bool:
    # launchd knows no ~ and no variables.
    return isinstance(value, str) and value.startswith("/")


def _texts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_text, value))


def _command(value: object) -> bool:
    return isinstance(value, list) and _texts(value) and _path(value[0])


def _environment(value: object) -> bool:
    return isinstance(value, dict) and all(_text(name) and isinstance(text, str) for name, text in value.items())


def _one_of(*words: str) -> Callable[[object], bool]:
    return lambda value: value in words


def _table(kinds: Mapping[str, Callable[[object], bool]]) -> Callable[[object], bool]:
    return lambda value: (
        isinstance(value, dict)
        and bool(value)
        and all(name in kinds and kinds[name](each) for name, each in value.items())
    )


_LIMITS = _table(
    dict.fromkeys(("NumberOfFiles", "NumberOfProcesses", "Core", "CPU", "Data", "FileSize", "ResidentSetSize"), _number)
)
_KEEP_ALIVE = _table(
    {"SuccessfulExit": _flag, "Crashed": _flag, "PathState": lambda value: isinstance(value, dict) and bool(value)}
)
#: Each key, and what its value has to be.
KEYS: Mapping[str, Callable[[object], bool]] = {
    "Label": _text,
    "Disabled": _flag,
    "UserName": _text,
    "GroupName": _text,
    "InitGroups": _flag,
    "Program": _path,
    "ProgramArguments": _command,
    "EnvironmentVariables": _environment,
    "WorkingDirectory": _path,
    "Umask": _number,
    "RunAtLoad": _flag,
    "KeepAlive": lambda value: _flag(value) or _KEEP_ALIVE(value),
    "ThrottleInterval": _number,
    "ExitTimeOut": _number,
    "StandardInPath": _path,
    "StandardOutPath": _path,
    "StandardErrorPath": _path,
    "ProcessType": _one_of("Background", "Standard", "Adaptive", "Interactive"),
    "Nice": lambda value: isinstance(value, int) and not isinstance(value, bool) and -20 <= value <= 20,
    "LowPriorityIO": _flag,
    "AbandonProcessGroup": _flag,
    "LimitLoadToSessionType": lambda value: _text(value) or _texts(value),
    "SoftResourceLimits": _LIMITS,
    "HardResourceLimits": _LIMITS,
    "AssociatedBundleIdentifiers": lambda value: _text(value) or _texts(value),
}
#: Without these it is no job.
REQUIRED = ("Label", "ProgramArguments")
#: These are for a LaunchDaemon alone.
OF_DAEMONS = frozenset({"UserName", "GroupName", "InitGroups"})


def faults(job: Mapping[str, Any], *, daemon: bool) -> list[str]:
    """What is wrong with a job's dictionary, a sentence each."""
    found = [f"{key} is missing" for key in REQUIRED if key not in job]
    for key, value in job.items():
        if key not in KEYS:
            found.append(f"{key} is no key of launchd's")
        elif not KEYS[key](value):
            found.append(f"{key} cannot be {value!r}")
        elif key in OF_DAEMONS and not daemon:
            found.append(f"{key} is for daemons alone")
    if daemon and "UserName" not in job:
        found.append("UserName is missing: it would run as root")
    return found
