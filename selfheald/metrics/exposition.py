"""All figures in Prometheus' own format.

Only this module imports its client, and only a daemon that serves figures imports this module. Nothing is counted in
the client's objects: what it hands out is read, when it is asked for, from what the daemon counts anyway. No label
takes a value that a stranger can choose: no name of a database, workspace or model is one.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from itertools import product
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from selfheald.errors import HINTS
from selfheald.figures import (
    CHECKED,
    INITIALIZED,
    JOBS,
    ORIGINS,
    RELOADED,
    RESCANNED,
    Figures,
    Snapshot,
    Spread,
    TemplateEvent,
)
from selfheald.standing import Standing

KIND = "text/plain; version=0.0.4; charset=utf-8"
DAEMON_STATES = ("starting", "ready", "stopping")
WATCHER_STATES = ("native", "polling", "degraded")


def exposition(figures: Figures, now: Snapshot) -> str:
    """What Prometheus reads."""
    return generate_latest(registry(figures, now)).decode()


def registry(figures: Figures, now: Snapshot) -> CollectorRegistry:
    """All that there is, as it is ``now``."""
    made = CollectorRegistry(auto_describe=False)
    made.register(_Collector(figures, now))
    ProcessCollector(registry=made)
    return made


class _Collector:
    def __init__(self, figures: Figures, now: Snapshot) -> None:
        self._figures = figures
        self._now = now

    def describe(self) -> Iterable[Metric]:
        return ()  # so that it is not asked for everything at its registration

    def collect(self) -> Iterator[Metric]:
        yield from _standing(self._now)
        yield from _checks(self._figures, self._now)
        yield from _initializations(self._figures, self._now)
        yield from _watching(self._figures)
        yield from _children(self._figures)
        yield from _templates(self._figures)
        yield _build_info(self._now)


def _standing(now: Snapshot) -> Iterator[Metric]:
    yield _one_of("selfheald_daemon_state", "1 for the daemon's state.", "state", DAEMON_STATES, now.state)
    yield _one_of("selfheald_watcher_state", "1 for the watcher's state.", "state", WATCHER_STATES, now.watcher)
    yield _gauge("selfheald_roots", "Folders that are watched.", len(now.roots))
    databases = GaugeMetricFamily("selfheald_databases", "Databases by where they stand.", labels=["state"])
    for standing in Standing:
        databases.add_metric([standing.value], now.standings.get(standing, 0))
    yield databases
    yield _gauge(
        "selfheald_config_last_reload_successful",
        "0 if the last reload of the configuration was refused.",
        not now.reload_refused,
    )


def _checks(figures: Figures, now: Snapshot) -> Iterator[Metric]:
    yield _counter(
        "selfheald_checks",
        "Checks that have ended, by where the database stood then.",
        {"outcome": CHECKED},
        {(outcome,): count for outcome, count in figures.checks.items()},
    )
    yield _histogram("selfheald_check_duration_seconds", "Duration of checks.", {(): figures.check_seconds})
    yield _gauge(
        "selfheald_checks_overdue_seconds", "For how long a check has been due while none began or ended.", now.overdue
    )


def _initializations(figures: Figures, now: Snapshot) -> Iterator[Metric]:
    made = CounterMetricFamily(
        "selfheald_initializations",
        "Initializations that have ended, and databases that were complete already, by outcome and origin.",
        labels=["outcome", "origin"],
    )
    for outcome, origin in INITIALIZED:
        made.add_metric([outcome, origin], figures.initializations[outcome, origin])
    yield made
    yield _histogram(
        "selfheald_initialization_duration_seconds",
        "Duration of initializations under the lock, by origin; none: they failed.",
        {(origin,): figures.initialization_seconds[origin] for origin in ORIGINS},
        "origin",
    )
    yield _histogram(
        "selfheald_step_duration_seconds",
        "Duration of the steps of initializations.",
        {(step,): spread for step, spread in figures.step_seconds.items()},
        "step",
    )
    yield _counter(
        "selfheald_failures",
        "Checks and initializations that failed, by the error's code.",
        {"during": ("check", "initialization"), "code": tuple(HINTS)},
        figures.failures,
    )
    yield _count("selfheald_retries", "Initializations that were not a database's first attempt.", figures.retries)
    yield _gauge("selfheald_queue_length", "Databases that wait for their initialization.", now.queue)
    yield _gauge("selfheald_queue_oldest_age_seconds", "For how long the first of the queue has waited.", now.oldest)
    yield _gauge("selfheald_initialization_running", "1 while an initialization is under way.", now.running is not None)
    yield _gauge(
        "selfheald_initialization_running_seconds",
        "For how long it has been under way; 0: none is.",
        now.running or 0.0,
    )


def _watching(figures: Figures) -> Iterator[Metric]:
    yield _count("selfheald_scans", "Scans of all roots.", figures.scans)
    yield _gauge(
        "selfheald_last_scan_timestamp_seconds",
        "When the last scan of all roots ended, in seconds since 1970; 0: there was none.",
        figures.scan_ended_at,
    )
    yield _gauge(
        "selfheald_last_scan_duration_seconds", "Duration of the last scan of all roots.", figures.scan_seconds
    )
    yield _counter(
        "selfheald_rescans",
        "Scans that make up for lost events (watch.rescan), by whether there were any.",
        {"outcome": RESCANNED},
        {(outcome,): count for outcome, count in figures.rescans.items()},
    )
    yield _count(
        "selfheald_databases_missed",
        "Changed databases that no event told of, found by a scan.",
        figures.databases_missed,
    )
    yield _count(
        "selfheald_watches_ended", "Watches that ended by themselves and were made anew.", figures.watches_ended
    )
    yield _counter(
        "selfheald_reloads",
        "Reloads of the configuration.",
        {"outcome": RELOADED},
        {(outcome,): count for outcome, count in figures.reloads.items()},
    )


def _children(figures: Figures) -> Iterator[Metric]:
    yield _counter(
        "selfheald_children_started",
        "Child processes by their job, forked from the warm dbt host or begun as a fresh interpreter.",
        {"job": JOBS, "start": ("forked", "fresh")},
        {(job, "forked" if forked else "fresh"): count for (job, forked), count in figures.children.items()},
    )
    yield _count("selfheald_dbt_hosts_started", "dbt hosts that were started.", figures.hosts_started)
    yield _count(
        "selfheald_dbt_hosts_troubled",
        "Jobs that no dbt host could be had for, though one was wanted.",
        figures.hosts_troubled,
    )


def _templates(figures: Figures) -> Iterator[Metric]:
    events: tuple[tuple[TemplateEvent, str, str], ...] = (
        ("hit", "hits", "Databases that were made from a template."),
        ("miss", "misses", "Databases for which a template was looked for, and none was there."),
        ("built", "builds", "Templates that were kept."),
        ("evicted", "evictions", "Templates that were removed to make room."),
        ("damaged", "damaged", "Templates that were found damaged, and removed."),
    )
    for event, name, text in events:
        yield _count(f"selfheald_template_{name}", text, figures.templates[event])


def _build_info(now: Snapshot) -> Metric:
    info = GaugeMetricFamily(
        "selfheald_build_info", "1; the labels tell what runs.", labels=["version", "python", "duckdb"]
    )
    info.add_metric([now.version, platform.python_version(), _version_of("duckdb")], 1)
    return info


def _version_of(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=float(value))


def _count(name: str, text: str, value: int) -> Metric:
    return CounterMetricFamily(name, text, value=value)


def _one_of(name: str, text: str, label: str, states: Sequence[str], current: str) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for state in states:
        family.add_metric([state], float(state == current))
    return family


def _counter(name: str, text: str, labels: Mapping[str, Sequence[str]], counts: Mapping[Any, int]) -> Metric:
    """Every combination of labels' values is there from the beginning: else the first one would be no increase.

    ``counts`` are by these combinations, as tuples.
    """
    family = CounterMetricFamily(name, text, labels=list(labels))
    for values in product(*labels.values()):
        family.add_metric(values, counts.get(values, 0))
    return family


def _histogram(name: str, text: str, spreads: Mapping[tuple[str, ...], Spread], *labels: str) -> Metric:
    family = HistogramMetricFamily(name, text, labels=list(labels))
    for values, spread in spreads.items():
        total, buckets = 0, []
        for bound, count in zip((*spread.bounds, float("inf")), spread.counts, strict=True):
            total += count
            buckets.append(("+Inf" if bound == float("inf") else repr(bound), total))
        family.add_metric(list(values), buckets, spread.sum)
    return family
