"""The status page: each database's row, and that text from strangers stays text."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfheald.figures import Figures, Snapshot
from selfheald.metrics.page import HEADERS, page
from selfheald.metrics.rows import Row, first_ones, row
from selfheald.standing import Standing
from selfheald.workspace import Database

NOW = Snapshot(state="ready", watcher="native", version="0.1.0", roots=("/srv/w",), standings={Standing.READY: 3})
DATABASE = Database(Path("/srv/w/alpha/simulation.duckdb"))
#: The tags that the page is made of, whatever is shown in it.
TAGS = (
    "html head meta title style body header h1 span p ul li b dl dt dd div table thead tbody tr th td code progress br "
    "footer a"
).split()


class Read(HTMLParser):
    """All tags and attributes of a page, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.names: set[str] = set()
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.names |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.words += data


@given(st.text(), st.text(), st.text(), st.text())
def test_text_of_strangers_stays_text(workspace: str, name: str, why: str, advice: str) -> None:
    hostile = Row(f"/w/{name}", f"/w/{workspace}", Standing.FAILED, why + "<script>", advice + "<img onerror=x>")
    now = Snapshot("ready", "native", roots=(f"/{name}",), standings={Standing.FAILED: 1})
    found = Read(page(now, Figures(), [hostile, Row("/w/b/x", "/w/b", Standing.READY)], 1e9))
    assert set(found.tags) <= set(TAGS)
    assert found.names <= {"lang", "charset", "http-equiv", "content", "name", "class", "title", "href", "value", "max"}
    assert "<script>" in found.words
    assert not re.search("[\x00-\x09\x0b-\x1f\u202a-\u202e\ud800-\udfff]", found.words)


def test_it_loads_nothing_and_needs_no_script() -> None:
    text = page(NOW, Figures(), [])
    assert "script" not in text
    assert "http://" not in text.replace("http-equiv", "")
    assert "src=" not in text
    assert re.search(r"style-src 'sha256-[\w+/]{43}='", HEADERS["Content-Security-Policy"])
    assert " style=" not in text  # the policy would not let it be


def test_what_is_wrong_with_the_daemon_stands_first() -> None:
    text = page(Snapshot("ready", "degraded", reload_refused=True), Figures(), [])
    assert "The watch is degraded" in text
    assert "The last reload was refused" in text
    assert "The daemon is stopping." in page(Snapshot("stopping", "native"), Figures(), [])
    assert 'class="trouble"' in text
    assert 'class="trouble"' not in page(NOW, Figures(), [])


def test_of_many_the_rest_is_counted() -> None:
    text = page(NOW, Figures(), [Row("/w/a/simulation.duckdb", "/w/a", Standing.READY)])
    assert "2 more are not shown" in text
    assert "not shown" not in page(Snapshot("ready", "native"), Figures(), [])


def test_those_that_want_something_come_first() -> None:
    listed = [(Path(f"/w/{each.value}"), each) for each in Standing] + [(Path("/w/a"), Standing.READY)]
    found = [path.name for path, _ in first_ones(listed, 5)]
    assert found == ["building", "failed", "busy", "waiting", "a"]


def test_what_is_being_built_shows_how_far_it_is() -> None:
    status = {
        "state": "in_progress",
        "progress": {"done": 3, "total": 10, "node": "int_baseline_workforce"},
        "steps": [{"name": "build_foundation", "display_name": "Building foundation models", "status": "running"}],
    }
    found = row(DATABASE, Standing.BUILDING, status)
    assert (found.done, found.total) == (3, 10)
    assert found.why == "Building foundation models… int_baseline_workforce"
    assert '<progress value="3" max="10"></progress> 3/10 ' in page(NOW, Figures(), [found])


@pytest.mark.parametrize(
    ("standing", "status", "why", "advice"),
    [
        (Standing.READY, {}, "", ""),
        (Standing.WAITING, {}, "not checked yet", ""),
        (Standing.WAITING, {"reason": "queued", "queue_position": 0}, "queued: next", ""),
        (Standing.WAITING, {"reason": "queued", "queue_position": 4}, "queued: 4 before it", ""),
        (
            Standing.BUSY,
            {"holder": {"pid": 42, "command": "python sim.py --token x"}},
            "busy: PID 42 has it open",
            "Close it there.",
        ),
        (
            Standing.FAILED,
            {"error": {"code": "dbt_failed", "message": "a\n  b", "hint": "Mend it."}},
            "dbt_failed: a b",
            "Mend it.",
        ),
        (
            Standing.FAILED,
            {
                "error": {"code": "timeout", "message": "late", "hint": "Wait."},
                "next_attempt_at": "2026-01-01T00:00:00Z",
            },
            "timeout: late",
            "It is tried again by itself. Wait.",
        ),
    ],
)
def test_why_and_what_now(standing: Standing, status: dict[str, Any], why: str, advice: str) -> None:
    found = row(DATABASE, standing, status)
    assert (found.why, found.advice) == (why, advice)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.sampled_from(list(Standing)),
    st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(
            ("error", "holder", "steps", "progress", "reason", "queue_position", "next_attempt_at", "started_at"), JSON
        ),
    ),
)
def test_no_record_is_more_than_odd(standing: Standing, status: dict[str, Any]) -> None:
    assert page(NOW, Figures(), [row(DATABASE, standing, status)])
