"""What doctor makes of the configuration, versions, storage formats and the dbt project."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfheald.diagnosis.findings import CHECKS, OPTIONAL, Finding, Status, complete, document, green, red, yellow
from selfheald.diagnosis.judge_setup import (
    SUPPORTED,
    Interpreter,
    judge_configuration,
    judge_daemon_python,
    judge_formats,
    judge_interpreter,
    judge_plan,
    judge_wrong_configuration,
    parse_version,
)
from selfheald.errors import InitializationError
from selfheald.initialization_state import RequiredTable, TableTier
from selfheald.plan import Plan

ROOT = Path(__file__).parents[2]


def statuses(findings: list[Finding]) -> dict[str, str]:
    """The worst status of each id."""
    order = [Status.GREEN, Status.YELLOW, Status.RED]
    worst: dict[str, Status] = {}
    for each in findings:
        worst[each.check] = max(worst.get(each.check, Status.GREEN), each.status, key=order.index)
    return {check: status.value for check, status in worst.items()}


def interpreter(**changes: str | None) -> Interpreter:
    facts: dict[str, str | None] = {"dbt": "1.11.2", "adapter": "1.11.1", "duckdb": "2.0.0", "problem": None}
    facts |= {"path": "/v/bin/python", "prefix": "/v", "python": "3.11.7"} | changes
    return Interpreter(**facts)  # type: ignore[arg-type]


class TestFindings:
    def test_the_document_is_ok_unless_something_is_red(self) -> None:
        assert document([green("roots", "a"), yellow("daemon", "b", "c")]) == {
            "format": 1,
            "ok": True,
            "checks": [
                {"id": "roots", "status": "green", "message": "a", "hint": None},
                {"id": "daemon", "status": "yellow", "message": "b", "hint": "c"},
            ],
        }
        assert document([red("roots", "a", "b"), green("daemon", "c")])["ok"] is False

    def test_what_was_not_looked_at_is_told(self) -> None:
        found = complete([red("roots", "gone", "make it"), green("configuration", "read")], "for a reason")
        assert [each.check for each in found] == [each for each in CHECKS if each not in OPTIONAL]
        assert [each.status for each in found if each.check == "roots"] == [Status.RED]
        others = [each for each in found if each.check not in ("roots", "configuration")]
        assert {(each.status, each.message) for each in others} == {(Status.YELLOW, "not checked: for a reason")}

    def test_ids_are_told_once_each(self) -> None:
        assert len(set(CHECKS)) == len(CHECKS)
        assert set(CHECKS) >= OPTIONAL


class TestConfiguration:
    def test_one_that_is_right(self) -> None:
        found = judge_configuration(Path("/etc/selfheald.toml"), [], ["watch.roots: /a is not a folder"])
        assert statuses(found) == {"configuration": "green", "passed_over": "green", "settings": "green"}
        assert "/etc/selfheald.toml" in found[0].message

    def test_without_a_file(self) -> None:
        assert "no configuration file" in judge_configuration(None, [], [])[0].message

    def test_what_is_hardly_meant(self) -> None:
        notice = "passed over /here/selfheald.toml: others can write to it"
        found = judge_configuration(None, [notice], [notice, "dbt.env: everybody here can read it"])
        assert statuses(found) == {"configuration": "green", "passed_over": "yellow", "settings": "yellow"}
        assert [each.message for each in found if each.check == "passed_over"] == [notice]
        assert [each.hint for each in found if each.check == "settings"] == ["See dbt.env in docs/configuration.md."]

    def test_each_line_of_a_wrong_one_is_a_finding(self) -> None:
        error = InitializationError("f:1: a\nf:2: b", code="config_invalid", path="f")
        found = judge_wrong_configuration(error)
        assert [(each.check, each.status, each.message) for each in found] == [
            ("configuration", Status.RED, "f:1: a"),
            ("configuration", Status.RED, "f:2: b"),
        ]
        assert all(each.hint for each in found)


class TestInterpreters:
    def test_the_range_is_that_of_the_package(self) -> None:
        wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
        for name, (least, untried) in SUPPORTED.items():
            line = next(each for each in wanted if re.match(rf"{name}[<>=]", each))
            assert f">={least}" in line
            assert "<" not in line or f"<{untried}" in line

    @pytest.mark.parametrize(("version", "status"), [("3.10.9", "red"), ("3.11.0", "green"), ("3.14.0a1", "green")])
    def test_the_daemons(self, version: str, status: str) -> None:
        assert judge_daemon_python(version, "/v", virtual=True).status == status

    def test_one_that_has_all(self) -> None:
        found = judge_interpreter(interpreter())
        assert statuses(found) == {"dbt_python": "green", "dbt_versions": "green"}
        assert found[1].message == "dbt-core 1.11.2, dbt-duckdb 1.11.1, duckdb 2.0.0"

    def test_one_that_does_not_start(self) -> None:
        error = InitializationError("cannot start /v/bin/python: No such file", code="dbt_unavailable")
        found = judge_interpreter(error)
        assert statuses(found) == {"dbt_python": "red"}
        assert found[0].hint

    def test_a_python_that_is_too_old(self) -> None:
        assert statuses(judge_interpreter(interpreter(python="3.8.20"))) == {"dbt_python": "red"}
        assert statuses(judge_interpreter(interpreter(python="3.9.0")))["dbt_python"] == "green"

    @pytest.mark.parametrize(
        ("changes", "status", "told"),
        [
            ({"dbt": None}, "red", "no dbt-core"),
            ({"adapter": None}, "red", "no dbt-duckdb"),
            ({"duckdb": None}, "red", "no duckdb"),
            ({"dbt": "1.8.7"}, "red", "1.8.7 is older"),
            ({"dbt": "1.8.8"}, "green", ""),
            ({"dbt": "1.12.0"}, "yellow", "nothing has been tried"),
            ({"dbt": "1.11.99"}, "green", ""),
            ({"adapter": "1.8.0"}, "red", "1.8.0 is older"),
            ({"duckdb": "0.10.3"}, "red", "0.10.3 is older"),
            ({"duckdb": "2.1.0"}, "yellow", "nothing has been tried"),
            ({"problem": "no such symbol"}, "red", "cannot be imported: no such symbol"),
        ],
    )
    def test_versions(self, changes: dict[str, str | None], status: str, told: str) -> None:
        found = [each for each in judge_interpreter(interpreter(**changes)) if each.check == "dbt_versions"]
        assert [each.status for each in found] == [status]
        assert told in found[0].message
        assert status == "green" or "/v/bin/python -m pip install" in (found[0].hint or "")

    @given(st.lists(st.integers(0, 99), min_size=1, max_size=4))
    def test_a_version_is_its_numbers(self, numbers: list[int]) -> None:
        text = ".".join(map(str, numbers))
        assert parse_version(text) == parse_version(f"v{text}") == parse_version(f"{text}rc1") == tuple(numbers)

    def test_no_version(self) -> None:
        assert parse_version("unknown") == ()


class TestFormats:
    @pytest.mark.parametrize(
        ("setting", "writer", "daemon", "expected"),
        [
            ("v1.0.0", "2.0.0", "2.0.0", ("green", "green")),
            ("v1.0.0", "1.0.0", "1.0.0", ("green", "green")),
            ("v1.0.0", "2.0.0", "1.0.0", ("green", "green")),
            ("v1.0.0", "1.0.0", "2.0.0", ("green", "green")),
            ("latest", "1.0.0", "1.0.0", ("green", "green")),
            ("v1.4.0", "1.0.0", "1.0.0", ("yellow", "green")),
            ("latest", "2.0.0", "2.0.0", ("yellow", "green")),
            ("latest", "2.0.0", "1.4.0", ("yellow", "red")),
            ("v1.4.0", "2.0.0", "1.3.2", ("green", "red")),
            ("v1.4.0", "2.0.0", "1.4.0", ("green", "green")),
            ("v2.0.1", "2.0.0", "2.0.0", ("red", "green")),
            ("v1.2.0", "1.2.0", "2.1.0", ("green", "yellow")),
            ("v1.0.0", "2.0.0", "0.10.0", (None, "red")),
            ("v1.0.0", None, "2.0.0", (None, "green")),
        ],
    )
    def test_who_can_read_it(
        self, setting: str, writer: str | None, daemon: str, expected: tuple[str | None, str]
    ) -> None:
        found = statuses(judge_formats(setting, writer, daemon, []))
        assert (found.get("storage_format"), found["daemon_duckdb"]) == expected

    def test_keys_make_a_file_of_an_older_format_unreadable(self) -> None:
        def told(setting: str, writer: str) -> str:
            found = judge_formats(setting, writer, "2.0.0", [])
            return next(each.message for each in found if each.check == "storage_format")

        assert "keys or indexes are refused" in told("v1.0.0", "2.0.0")
        assert "keys" not in told("v2.0.0", "2.0.0")
        assert "keys" not in told("v1.0.0", "1.4.0")

    def test_an_environment_at_hand_may_be_a_simulators(self) -> None:
        others = [(Path("/old/bin/python"), "1.0.0"), (Path("/new/bin/python"), "2.0.0")]
        found = [each for each in judge_formats("v1.4.0", "2.0.0", "2.0.0", others) if each.check == "simulator_duckdb"]
        assert [each.status for each in found] == ["yellow", "green"]
        assert "v1.0.0" in (found[0].hint or "")
        found = [each for each in judge_formats("v1.0.0", "2.0.0", "2.0.0", others) if each.check == "simulator_duckdb"]
        assert [each.status for each in found] == ["green", "green"]


class TestPlan:
    def plan(self, *warnings: str) -> Plan:
        tables = (
            RequiredTable("a", TableTier.SEED, "fqn:a"),
            RequiredTable("b", TableTier.FOUNDATION, "fqn:b"),
            RequiredTable("c", TableTier.FOUNDATION, "fqn:c"),
        )
        return Plan("sha256:0", "own", "/project", tables, {}, {}, {}, warnings)

    def test_one_that_is_right(self) -> None:
        found = judge_plan(self.plan(), Path("/project/profiles.yml"))
        assert statuses(found) == {"project": "green", "profile": "green", "selection": "green"}
        assert "1 seed and 2 foundation tables" in found[-1].message
        assert "/project/profiles.yml" in found[1].message
        assert "is generated" in judge_plan(self.plan(), None)[1].message

    def test_each_warning_is_told(self) -> None:
        found = judge_plan(self.plan("tag 'Foundation' differs", "b is a view"), None)
        assert [each.status for each in found if each.check == "selection"] == ["yellow", "yellow"]

    @pytest.mark.parametrize(
        ("code", "expected"),
        [
            ("dbt_project_missing", {"project": "red"}),
            ("dbt_project_invalid", {"project": "red"}),
            ("missing_seed_file", {"project": "red"}),
            ("timeout", {"project": "red"}),
            ("profile_invalid", {"profile": "red"}),
            ("selection_empty", {"selection": "red", "project": "green", "profile": "green"}),
        ],
    )
    def test_why_there_is_none(self, code: str, expected: dict[str, str]) -> None:
        assert statuses(judge_plan(InitializationError("no", code=code), None)) == expected
