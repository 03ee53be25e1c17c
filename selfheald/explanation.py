"""Where a database stands, why so, and what to do about it: values in, sentences out.

Much of it comes from files that others can write: whoever shows a sentence escapes it as its place demands.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from selfheald.errors import in_one_line
from selfheald.initialization_state import seconds_of
from selfheald.printable import shell_word
from selfheald.standing import Standing

#: Codes that a command cures, as the words between ``selfheald`` and the database, and behind it.
_CURES: Mapping[str, tuple[str, str]] = {"database_corrupt": ("repair", " --quarantine")}
#: Names of tables that are told; of more, only the number.
_NAMED = 12


@dataclass(frozen=True, slots=True)
class View:
    """All that is known of one database.

    ``daemon`` is the record of the daemon that watches it, ``None`` if none does; ``root`` what one would watch.
    ``start`` is the command that starts a service that is installed for it. ``holder`` has it open now, as far as that
    was asked; ``lacks`` is what its file system lacks for anybody to make tables there, and the cure. ``others`` tells
    of the initializations that are under way elsewhere, ``queued`` how many databases wait for their turn;
    ``attempts`` is how often one is tried in all (0: unknown).
    """

    database: str
    standing: Standing
    marker: str = "absent"
    status: Mapping[str, Any] | None = None
    exists: bool = True
    requested: bool = False
    daemon: Mapping[str, Any] | None = None
    root: str = "."
    start: str | None = None
    holder: Mapping[str, Any] | None = None
    lacks: str | None = None
    others: tuple[str, ...] = ()
    queued: int = 0
    attempts: int = 0

    @property
    def state(self) -> str:
        """The status record's."""
        return str((self.status or {}).get("state"))

    @property
    def error(self) -> Mapping[str, Any]:
        """The error of the last attempt, where that has failed; else nothing."""
        error = (self.status or {}).get("error") if self.standing is Standing.FAILED else None
        return error if isinstance(error, Mapping) else {}

    @property
    def is_tried_again(self) -> bool:
        """True if a next attempt is planned, and somebody there to make it."""
        return bool((self.status or {}).get("next_attempt_at")) and self.daemon is not None


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a person is told of one database.

    ``why`` is one sentence, ``decision`` what is done about it by itself, ``advice`` what the person can do, and
    ``commands`` what to type then.
    """

    is_ready: bool
    why: str
    decision: str
    advice: str
    commands: tuple[str, ...] = ()


def explain(view: View, now: float | None = None) -> Explanation:
    """Is it ready, and if not, why and what now? ``now`` is in seconds since the epoch."""
    if view.standing is Standing.READY:
        return Explanation(True, "all required tables are there", "nothing is left to do", "Simulations can start.")
    if view.standing is Standing.BUILDING:
        return _of_building(view, now)
    if view.standing is Standing.FAILED:
        return _of_failed(view, now)
    if view.daemon is None:
        return _of_unwatched(view)
    if view.holder is not None or view.standing is Standing.BUSY:
        return _of_busy(view)
    if (view.status or {}).get("reason") == "queued":
        return _of_queued(view)
    return _of_unknown(view)


def in_a_line(view: View, now: float | None = None) -> str:
    """Why it is not ready, and what now, for a table; nothing of what is ready."""
    if view.standing is Standing.READY:
        return ""
    told = explain(view, now)
    # Who waits has nothing to do; and that there is no daemon is told once, with what to do, above the table.
    is_plain = view.standing is Standing.BUILDING or view.standing is Standing.WAITING or view.is_tried_again
    return told.why if is_plain or not told.advice else f"{told.why} → {told.advice}"


def describe(status: Mapping[str, Any], *, attempts: int = 0, now: float | None = None) -> str | None:
    """The sentence for a status record; ``None`` if it says nothing that a waiting person must know.

    ``attempts`` is how many there are in all (0: unknown); ``now`` is in seconds since the epoch.
    """
    state, reason = status.get("state"), status.get("reason")
    if state == "in_progress":
        return _describe_step(status)
    if state == "not_started" and reason is None and status.get("steps"):
        return "Checking tables…"
    if reason == "busy":
        return f"busy: {describe_holder(status.get('holder'))}"
    if reason == "queued":
        return _describe_place(status, "you")
    if state == "failed" and status.get("next_attempt_at"):
        upcoming = int(status.get("attempt") or 0) + 1
        total = f" of {attempts}" if attempts else ""
        seconds = _seconds_until(str(status["next_attempt_at"]), now)
        error = in_one_line(str((status.get("error") or {}).get("message", "failed")))
        return f"{error}; attempt {upcoming}{total} in {seconds:.0f} s"
    return None


def describe_holder(holder: Mapping[str, Any] | None) -> str:
    """Who has a database open, as ``PID 4242 (python sim.py) has it open for writing``."""
    if not holder:
        return "another process is writing to it"
    mode = "writing" if holder.get("mode") == "write" else "reading"
    who = "another process" if holder.get("pid") is None else f"PID {holder['pid']} ({holder.get('command')})"
    return f"{who} has it open for {mode}"


def describe_tables(names: object) -> str:
    """``3: a, b, c``; of many, the first ones. Nothing for what is no list of names."""
    if not isinstance(names, list) or not names:
        return ""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{len(names)}: {', '.join(map(str, names[:_NAMED]))}{more}"


def _of_building(view: View, now: float | None) -> Explanation:
    status = view.status or {}
    began, eta = seconds_of(status.get("started_at")), status.get("eta_seconds")
    left = ""
    if began is not None and isinstance(eta, int | float) and eta:
        seconds = eta - ((time.time() if now is None else now) - began)
        left = f", about {seconds:.0f} s are left" if seconds > 0 else ", it takes longer than the last time"
    return Explanation(
        False,
        describe(status, now=now) or "Checking tables…",
        "its missing tables are made on a private copy, and then published all at once",
        f"Wait{left}.",
        (_wait(view),),
    )


def _of_failed(view: View, now: float | None) -> Explanation:
    error = view.error
    code, message = error.get("code") or "failed", in_one_line(str(error.get("message") or "the attempt failed"))
    hint = in_one_line(str(error.get("hint") or ""))
    before, behind = _CURES.get(str(code), ("ensure" if view.daemon is None else "wait", ""))
    command = f"selfheald {before} {shell_word(view.database)}{behind}"
    if view.is_tried_again:
        return Explanation(
            False,
            f"{code}: {describe(view.status or {}, attempts=view.attempts, now=now)}",
            "it is tried again by itself",
            hint,
            (_wait(view),),
        )
    if view.daemon is None and error.get("retryable"):
        return Explanation(
            False,
            f"{code}: {message}; no daemon watches it",
            "nothing is tried again until a daemon runs",
            f"{hint} Then start one, or make it ready here.".strip(),
            _ways_out(view),
        )
    return Explanation(
        False,
        f"{code}: {message}",
        "it is not tried again by itself: that takes a changed file, a changed project, or somebody who asks for it",
        hint,
        (command,),
    )


def _of_unwatched(view: View) -> Explanation:
    more = f", and {describe_holder(view.holder)}" if view.holder else ""
    if not more:
        more = ", and it has changed since it was last checked" if view.marker == "stale" else ""
    return Explanation(
        False,
        f"no daemon watches it{more}",
        "nothing is done until a daemon runs",
        ("Close it there, then start" if view.holder else "Start") + " one, or make it ready here.",
        _ways_out(view),
    )


def _of_busy(view: View) -> Explanation:
    holder = view.holder or (view.status or {}).get("holder")
    return Explanation(
        False,
        f"busy: {describe_holder(holder)}",
        "nothing is begun while another process has it open; it is looked at again every few seconds",
        "Close it there (a notebook: its connection, or its kernel); then it goes on by itself.",
        (_wait(view),),
    )


def _of_queued(view: View) -> Explanation:
    why = _describe_place(view.status or {}, "it")
    if view.others:
        why += f"; being made now: {', '.join(view.others)}"
    if view.queued > 1:
        why += f"; {view.queued} wait in all"
    return Explanation(
        False,
        why,
        "its missing tables are made when its turn comes, one database at a time; what is waited for comes first",
        "Wait for it: that puts it before those that nobody waits for.",
        (_wait(view),),
    )


def _of_unknown(view: View) -> Explanation:
    if view.lacks is not None:
        what, _, cure = view.lacks.rpartition(": ")
        return Explanation(
            False,
            f"nothing can be written: {what[:1].lower()}{what[1:]}",
            "it is looked at again once something can be written",
            f"{cure[:1].upper()}{cure[1:]}; a daemon then goes on by itself.",
            (_wait(view),),
        )
    if view.requested:
        return Explanation(
            False,
            "a simulation asks for it, and that has not been answered yet",
            "a request is taken up at once, unless the daemon may not use the folder",
            "If that lasts, look what the daemon says.",
            (f"selfheald logs --database {shell_word(view.database)} -n 20", "selfheald doctor"),
        )
    if view.marker == "stale":
        why = "changed since it was last checked"
    else:
        why = describe(view.status or {}) or ("not checked yet" if view.exists else "there is no such file yet")
    return Explanation(
        False,
        why,
        "it is checked within moments, unless the daemon is to leave it alone (watch.heal)",
        "See which tables are there, or wait for it: that asks for it.",
        (f"selfheald check {shell_word(view.database)}", _wait(view)),
    )


def _wait(view: View) -> str:
    return f"selfheald wait {shell_word(view.database)}"


def _ways_out(view: View) -> tuple[str, ...]:
    """What makes it ready where no daemon is there to do so."""
    return (view.start or f"selfheald run {shell_word(view.root)}", f"selfheald ensure {shell_word(view.database)}")


def _describe_place(status: Mapping[str, Any], whom: str) -> str:
    position = status.get("queue_position")
    return "queued" if position is None else f"queued: {position} before {whom}" if position else "queued: next"


def _describe_step(status: Mapping[str, Any]) -> str | None:
    running = next((step for step in status.get("steps") or () if step.get("status") == "running"), None)
    if running is None or running.get("name") == "check_tables":
        return None
    text, progress = f"{running.get('display_name')}…", status.get("progress") or {}
    if running.get("name") != "build_foundation" or not progress.get("total"):
        return text
    return f"{text} {progress.get('done')}/{progress['total']} {progress.get('node') or ''}".rstrip()


def _seconds_until(moment: str, now: float | None) -> float:
    now = time.time() if now is None else now
    due = seconds_of(moment)
    return 0.0 if due is None else max(0.0, due - now)
