"""Where a database stands, why so, and what now: each case has a cause and a next step."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfheald.errors import HINTS, RETRYABLE
from selfheald.explanation import View, describe_tables, explain, in_a_line
from selfheald.initialization_state import iso_time
from selfheald.standing import Standing, standing_of

NOW = 1_795_449_600.0  # 2026-11-23T16:00:00Z
DATABASE = "/srv/it's/simulation.duckdb"
QUOTED = shlex.quote(DATABASE)
DAEMON = {"root": "/srv", "pid": 17, "state": "ready", "watcher": "native"}
WRITER = {"pid": 4242, "command": "python notebook.py", "mode": "write"}
NEXT = iso_time(NOW + 4)


def error(code: str, **more: Any) -> dict[str, Any]:
    return {"code": code, "message": f"it is\n  {code}", "hint": HINTS[code], "retryable": code in RETRYABLE, **more}


def view(status: dict[str, Any] | None = None, **known: Any) -> View:
    found = {"daemon": DAEMON, "root": "/srv", **known}
    return View(DATABASE, standing_of(found.get("marker") == "valid", status), status=status, **found)


QUEUED = {"state": "not_started", "reason": "queued", "queue_position": 2}
BUSY = {"state": "not_started", "reason": "busy", "holder": WRITER}
FAILED = {"state": "failed", "reason": "needs_person", "error": error("dbt_failed")}
AGAIN = {"state": "failed", "attempt": 1, "next_attempt_at": NEXT, "error": error("disk_full")}
LACKS = "The file system of /srv is full: free disk space"


@pytest.mark.parametrize(
    ("seen", "why", "advice", "commands"),
    [
        (view(BUSY), "busy: PID 4242 (python notebook.py) has it open for writing", "Close it there", ["wait"]),
        (view(None, holder=WRITER), "busy: PID 4242 (python notebook.py)", "Close it there", ["wait"]),
        (view(QUEUED), "queued: 2 before it", "Wait for it", ["wait"]),
        (
            view(QUEUED, others=("/srv/a (Publishing…)",), queued=3),
            "queued: 2 before it; being made now: /srv/a (Publishing…); 3 wait in all",
            "Wait for it",
            ["wait"],
        ),
        (view(FAILED), "dbt_failed: it is dbt_failed", HINTS["dbt_failed"], ["wait"]),
        (view(AGAIN, attempts=5), "disk_full: it is disk_full; attempt 2 of 5 in 4 s", "Free disk space", ["wait"]),
        (
            view({**FAILED, "error": error("database_corrupt")}),
            "database_corrupt: it is database_corrupt",
            "Restore it",
            [f"selfheald repair {QUOTED} --quarantine"],
        ),
        (
            view(AGAIN, daemon=None),
            "disk_full: it is disk_full; no daemon watches it",
            "Free disk space",
            ["selfheald run /srv", f"selfheald ensure {QUOTED}"],
        ),
        (view(FAILED, daemon=None), "dbt_failed: it is", HINTS["dbt_failed"], [f"selfheald ensure {QUOTED}"]),
        (
            view(QUEUED, daemon=None, start="systemctl --user start selfheald"),
            "no daemon watches it",
            "Start one, or make it ready here.",
            ["systemctl --user start selfheald", f"selfheald ensure {QUOTED}"],
        ),
        (
            view(BUSY, daemon=None, holder=WRITER),
            "no daemon watches it, and PID 4242",
            "Close it there, then start one",
            ["selfheald run /srv", f"selfheald ensure {QUOTED}"],
        ),
        (view(None, daemon=None, marker="stale"), "no daemon watches it, and it has changed", "Start one", ["run", ""]),
        (view(None, lacks=LACKS), "nothing can be written: the file system of /srv is full", "Free disk", ["wait"]),
        (view(None, requested=True), "a simulation asks for it", "look what the daemon says", ["logs", "doctor"]),
        (view(None, marker="stale"), "changed since it was last checked", "See which tables", ["check", "wait"]),
        (view(None), "not checked yet", "See which tables", ["check", "wait"]),
        (view(None, exists=False), "there is no such file yet", "See which tables", ["check", "wait"]),
        (
            view({"state": "in_progress", "eta_seconds": 10, "started_at": iso_time(NOW - 4)}),
            "Checking tables…",
            "Wait, about 6 s are left.",
            ["wait"],
        ),
        (
            view({"state": "in_progress", "eta_seconds": 2, "started_at": iso_time(NOW - 4)}),
            "Checking tables…",
            "Wait, it takes longer than the last time.",
            ["wait"],
        ),
        (view(None, marker="valid"), "all required tables are there", "Simulations can start.", []),
    ],
)
def test_cause_and_next_step(seen: View, why: str, advice: str, commands: list[str]) -> None:
    told = explain(seen, NOW)
    assert why in told.why
    assert advice in told.advice
    assert told.decision
    assert told.is_ready == (seen.marker == "valid")
    assert len(told.commands) == len(commands)
    for command, wanted in zip(told.commands, commands, strict=True):
        assert command.startswith(wanted if " " in wanted else f"selfheald {wanted}")
        assert shlex.split(command)[-1] != "simulation.duckdb", "a path with a quote in it stays one word"


def test_a_line_of_a_table() -> None:
    assert in_a_line(view(None, marker="valid")) == ""
    assert in_a_line(view(QUEUED)) == "queued: 2 before it"
    assert in_a_line(view(AGAIN, attempts=5), NOW) == "disk_full: it is disk_full; attempt 2 of 5 in 4 s"
    assert in_a_line(view(FAILED)) == f"dbt_failed: it is dbt_failed → {HINTS['dbt_failed']}"
    assert " → Close it there" in in_a_line(view(BUSY))
    assert in_a_line(view(None, daemon=None)) == "no daemon watches it"


def test_tables() -> None:
    assert describe_tables(["a", "b"]) == "2: a, b"
    assert describe_tables([str(number) for number in range(14)]).endswith("11 and 2 more")
    assert describe_tables([]) == describe_tables(None) == describe_tables("abc") == ""


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)
record = st.fixed_dictionaries(
    {},
    optional={
        "state": st.sampled_from(["not_started", "in_progress", "completed", "failed"]) | st.text(max_size=4),
        "reason": st.sampled_from(["queued", "busy", "backoff", None]),
        "queue_position": st.none() | st.integers(),
        "attempt": st.none() | st.integers(),
        "next_attempt_at": st.none() | st.text(max_size=8),
        "progress": st.none() | st.dictionaries(st.sampled_from(["done", "total", "node"]), json),
        "eta_seconds": st.none() | st.integers(),
        "holder": st.none() | st.dictionaries(st.sampled_from(["pid", "command", "mode"]), json),
        "error": st.none() | st.dictionaries(st.sampled_from(["code", "message", "hint", "retryable"]), json),
        "steps": st.lists(st.dictionaries(st.sampled_from(["name", "status", "display_name"]), json), max_size=2),
        "started_at": json,
    },
)


@given(record, st.booleans(), st.booleans(), st.sampled_from(["valid", "stale", "absent"]))
def test_whatever_stands_in_a_status_file(status: dict[str, Any], watched: bool, asked: bool, marker: str) -> None:
    """Of the form that is let through as a status record, whatever the values: there is a cause and a next step."""
    seen = view(status, daemon=DAEMON if watched else None, requested=asked, marker=marker)
    told = explain(seen, NOW)
    assert told.why
    assert told.decision
    assert told.advice or seen.standing is Standing.FAILED
    assert in_a_line(seen, NOW) or told.is_ready
