"""Judges installed services for `selfheald doctor`. Values in, findings out: a status, a message, and a hint."""

from __future__ import annotations

from selfheald.service.installing import Standing

Told = tuple[str, str, str | None]


def none_installed() -> list[Told]:
    """No service at all."""
    return [
        (
            "yellow",
            "no service is installed: a daemon that was started by hand ends with the machine",
            "selfheald service install, or have whatever runs services here run `selfheald run`.",
        )
    ]


def judged(standing: Standing, *, system: bool) -> list[Told]:
    """One service that is installed: that it runs, that it will after the next start, that its file is up to date."""
    whose = "the machine's service" if system else "your service"
    scope = " --system" if system else ""
    condition = standing.condition
    told: list[Told] = []
    if condition.active:
        pid = "" if condition.pid is None else f", PID {condition.pid}"
        told.append(("green", f"{whose} runs: {condition.detail}{pid}", None))
    else:
        # One that somebody has stopped may be meant to be.
        bad = condition.detail.startswith(("failed", "activating", "masked"))
        status = f": {condition.status}" if condition.status else ""
        hint = f"See why: {standing.manager.log_command}; then `{standing.install_command}` starts it."
        told.append(("red" if bad else "yellow", f"{whose} does not run: {condition.detail}{status}", hint))
    if not condition.enabled:
        told.append(("yellow", f"{whose} does not start by itself", f"`{standing.install_command}` has it do so."))
    if standing.another is not None:
        told.append(("green", f"{whose} is of the selfheald that {standing.another} runs", None))
    elif standing.outdated is not None:
        hint = f"`{standing.install_command}` renews it; `selfheald service show{scope}` tells more."
        told.append(("yellow", f"{standing.manager.file} is out of date: {standing.outdated}", hint))
    else:
        told.append(("green", f"{standing.manager.file} is up to date", None))
    return told
