"""Figures in Prometheus' format: each count comes out under its name, and nothing that a stranger can choose."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from selfheald.figures import Figures, Snapshot
from selfheald.metrics.exposition import exposition
from selfheald.standing import Standing


def samples(figures: Figures, now: Snapshot) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *(f"{name}={value}" for name, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(exposition(figures, now))
        for sample in family.samples
    }


def test_the_state_is_one_of_all() -> None:
    now = Snapshot(
        "ready", "polling", roots=("/a", "/b"), standings={Standing.FAILED: 3}, queue=2, oldest=7.5, running=1.5,
        overdue=0.25, reload_refused=True,
    )  # fmt: skip
    found = samples(Figures(), now)
    assert [found["selfheald_daemon_state", f"state={state}"] for state in ("starting", "ready", "stopping")] == [
        0,
        1,
        0,
    ]
    assert [found["selfheald_watcher_state", f"state={state}"] for state in ("native", "polling", "degraded")] == [
        0,
        1,
        0,
    ]
    assert {key[1]: value for key, value in found.items() if key[0] == "selfheald_databases" and value} == {
        "state=failed": 3
    }
    assert found["selfheald_roots",] == found["selfheald_queue_length",] == 2
    assert found["selfheald_queue_oldest_age_seconds",] == 7.5
    assert (found["selfheald_initialization_running",], found["selfheald_initialization_running_seconds",]) == (1, 1.5)
    assert found["selfheald_checks_overdue_seconds",] == 0.25
    assert found["selfheald_config_last_reload_successful",] == 0


def test_every_count_has_its_name() -> None:
    """One of each is counted: then just these samples differ."""
    now, figures = Snapshot("ready", "native"), Figures()
    before = samples(figures, now)
    figures.checked("busy", 0.02)
    figures.check_failed("database_corrupt")
    figures.adopted()
    figures.postponed()
    figures.scanned(0.5)
    figures.rescanned("events_missed", 4)
    figures.watches_ended += 1
    figures.reloads["followed"] += 1
    figures.children["build", True] += 1
    figures.children["publish", False] += 1
    figures.hosts_started += 1
    figures.hosts_troubled += 1
    for event in ("hit", "miss", "built", "evicted", "damaged"):
        figures.template(event)
    after = samples(figures, now)
    moved = {key for key, value in after.items() if value != before[key] and not key[0].startswith("process_")}
    assert {key for key in moved if not key[0].endswith(("_bucket", "_sum"))} == {
        ("selfheald_checks_total", "outcome=busy"),
        ("selfheald_check_duration_seconds_count",),
        ("selfheald_failures_total", "code=database_corrupt", "during=check"),
        ("selfheald_initializations_total", "origin=adopted", "outcome=completed"),
        ("selfheald_initializations_total", "origin=none", "outcome=postponed"),
        ("selfheald_scans_total",),
        ("selfheald_last_scan_timestamp_seconds",),
        ("selfheald_last_scan_duration_seconds",),
        ("selfheald_rescans_total", "outcome=events_missed"),
        ("selfheald_databases_missed_total",),
        ("selfheald_watches_ended_total",),
        ("selfheald_reloads_total", "outcome=followed"),
        ("selfheald_children_started_total", "job=build", "start=forked"),
        ("selfheald_children_started_total", "job=publish", "start=fresh"),
        ("selfheald_dbt_hosts_started_total",),
        ("selfheald_dbt_hosts_troubled_total",),
        ("selfheald_template_hits_total",),
        ("selfheald_template_misses_total",),
        ("selfheald_template_builds_total",),
        ("selfheald_template_evictions_total",),
        ("selfheald_template_damaged_total",),
    }
    assert after["selfheald_databases_missed_total",] == 4


@given(st.lists(st.floats(min_value=0, max_value=100), max_size=30))
def test_a_histogram_is_what_was_measured(durations: list[float]) -> None:
    figures = Figures()
    for seconds in durations:
        figures.checked("ready", seconds)
    found = samples(figures, Snapshot("ready", "native"))
    name = "selfheald_check_duration_seconds"
    assert found[f"{name}_bucket", "le=+Inf"] == found[f"{name}_count",] == len(durations)
    assert found[f"{name}_bucket", "le=0.25"] == sum(seconds <= 0.25 for seconds in durations)


def test_what_was_counted_under_an_odd_name_is_left_out() -> None:
    """The number of samples is the same from the first day to the last."""
    figures, now = Figures(), Snapshot("ready", "native")
    count = len(samples(figures, now))
    figures.children["copy", False] += 1
    figures.failures["check", "of_tomorrow"] += 1
    figures.checks["of_tomorrow"] += 1
    assert len(samples(figures, now)) == count < 500
