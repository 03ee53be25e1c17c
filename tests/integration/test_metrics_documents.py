"""Documents, dashboard and alert rules name the metrics that there are, and no others."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from selfheald.figures import Figures, Snapshot
from selfheald.metrics.exposition import exposition
from selfheald.standing import Standing

DOCS = Path(__file__).parents[2] / "docs"
ALERTS, DASHBOARD, TEXT = DOCS / "prometheus/alerts.yml", DOCS / "grafana/selfheald.json", DOCS / "metrics.md"
#: What Prometheus itself adds: a metric for each target, and labels for each sample.
UP, TARGET = "up", {"instance", "job"}
_WORDS = {"by", "without", "on", "ignoring", "and", "or", "unless", "group_left", "group_right", "bool", "offset"}

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="figures of the process are had on Linux")


def samples() -> dict[str, dict[str, set[str]]]:
    """Every name that can be asked for, with the values of each of its labels."""
    now = Snapshot("ready", "native", version="1", standings={Standing.READY: 1})
    found: dict[str, dict[str, set[str]]] = {UP: {}}
    for family in text_string_to_metric_families(exposition(Figures(), now)):
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
    return found


KNOWN = samples()


def faults(expression: str) -> list[str]:
    """What an expression of PromQL names that there is not: metrics, labels, and values of labels."""
    found: list[str] = []
    named: set[str] = set()
    for name, selector in re.findall(r"([a-zA-Z_:][\w:]*)\s*\{([^}]*)\}", expression):
        named.add(name)
        for label, operator, value in re.findall(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"', selector):
            if label in TARGET:
                continue
            values = KNOWN.get(name, {}).get(label)
            if values is None:
                found.append(f"{name} has no label {label}")
            elif operator in ("=", "!=") and value not in values:
                found.append(f"{name} has no {label}={value}")
    bare = re.sub(r'\{[^}]*\}|\[[^\]]*\]|"[^"]*"', " ", expression)
    labels = set(re.findall(r"\w+", " ".join(re.findall(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)", bare))))
    bare = re.sub(r"\b(?:by|without|on|ignoring)\s*\([^)]*\)", " ", bare)
    named |= set(re.findall(r"(?<![\w.$])([a-zA-Z_:][\w:]*)(?!\s*\(|\w)", bare)) - _WORDS
    found += [f"there is no {name}" for name in sorted(named - KNOWN.keys())]
    own = {label for name in named for label in KNOWN.get(name, {})}
    return found + [f"nothing there has a label {label}" for label in sorted(labels - own - TARGET)]


@pytest.mark.parametrize(
    ("expression", "wrong"),
    [
        ('sum by (state) (selfheald_databases{state="ready"}) > 2.5e3', []),
        ("time() - selfheald_last_scan_timestamp_seconds > 300", []),
        ('rate(process_cpu_seconds_total{job="selfheald"}[5m])', []),
        ("selfheald_data > 1", ["there is no selfheald_data"]),
        ("rate(selfheald_checks[5m])", ["there is no selfheald_checks"]),
        ('selfheald_databases{state="gone"}', ["selfheald_databases has no state=gone"]),
        ('selfheald_databases{path="x"}', ["selfheald_databases has no label path"]),
        ("sum by (code) (selfheald_databases)", ["nothing there has a label code"]),
        ("a / on (instance) b", ["there is no a", "there is no b"]),
    ],
)
def test_a_wrong_name_is_found(expression: str, wrong: list[str]) -> None:
    assert faults(expression) == wrong


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def expressions(value: Any) -> Iterator[str]:
    """All that a dashboard asks for."""
    if isinstance(value, dict):
        yield from (text for key, text in value.items() if key in ("expr", "query") and isinstance(text, str))
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from expressions(each)


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_alert_rules_name_what_there_is(rule: dict[str, Any]) -> None:
    assert faults(rule["expr"]) == []
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    told = rule["annotations"]
    assert set(told) == {"summary", "description"}
    shown = set(re.findall(r"\$labels\.(\w+)", told["summary"] + told["description"]))
    assert shown <= TARGET | {"code"}
    assert "code" not in shown or "code" in rule["expr"]


def test_there_is_an_alert_for_each_trouble() -> None:
    asked = " ".join(rule["expr"] for rule in rules())
    for name in (
        'up{job="selfheald"} == 0', 'selfheald_watcher_state{state="degraded"}', "selfheald_queue_oldest_age_seconds",
        "selfheald_failures_total", "selfheald_last_scan_timestamp_seconds", 'selfheald_databases{state="failed"}',
    ):  # fmt: skip
        assert name in asked
    assert len({rule["alert"] for rule in rules()}) == len(rules())


def test_the_dashboard_names_what_there_is() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    asked = list(expressions(dashboard["panels"]))
    assert len(asked) > 25
    assert {expression: faults(expression) for expression in asked if faults(expression)} == {}
    (variable,) = (each for each in dashboard["templating"]["list"] if each["type"] == "query")
    metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]).groups()  # type: ignore[union-attr]
    assert (metric in KNOWN, label) == (True, "instance")
    # What a legend shows is a label of what is asked for.
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                assert label in TARGET or any(label in KNOWN[name] for name in KNOWN if name in target["expr"]), target
    places = [tuple(panel["gridPos"][key] for key in "xy") for panel in dashboard["panels"]]
    assert len(set(places)) == len(places)
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(places)


def test_the_table_is_complete() -> None:
    families = list(text_string_to_metric_families(exposition(Figures(), Snapshot("ready", "native"))))
    there = {
        each.name + ("_total" if each.type == "counter" else ""): (
            each.type,
            tuple(dict.fromkeys(label for sample in each.samples for label in sample.labels if label != "le")),
        )
        for each in families
    }
    told = {
        name: (kind, tuple(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels in re.findall(r"^\| `(\w+)` \| (\w+) \|([^|]*)\|", TEXT.read_text(), re.MULTILINE)
    }
    assert {name: (kind, set(labels)) for name, (kind, labels) in told.items()} == {
        name: (kind, set(labels)) for name, (kind, labels) in there.items()
    }
    assert list(told) == list(there)


def test_values_of_labels_are_told_of() -> None:
    lines = {
        found[1]: line
        for line in TEXT.read_text().splitlines()
        if (found := re.match(r"\| `(selfheald_\w+)` \|", line))
    }
    for name, labels in KNOWN.items():
        for label, values in labels.items():
            if name in lines and label not in ("code", "version", "python", "duckdb"):
                states = (
                    {"ready", "building", "waiting", "busy", "failed"} if name == "selfheald_checks_total" else set()
                )
                missing = [value for value in values - states if f"`{value}`" not in lines[name]]
                assert name == "selfheald_initialization_duration_seconds" or not missing, (name, label, missing)
