"""Judges the configuration, the versions at work and the dbt project. Values in, findings out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from selfheald.diagnosis.findings import Finding, green, red, yellow
from selfheald.errors import InitializationError
from selfheald.initialization_state import TableTier
from selfheald.plan import Plan

Version = tuple[int, ...]

#: The least version of each library, and the first that nothing has been tried with.
SUPPORTED: dict[str, tuple[str, str]] = {
    "dbt-core": ("1.8.8", "1.12"),
    "dbt-duckdb": ("1.8.1", "1.12"),
    "duckdb": ("1.0.0", "2.1"),
}
#: The least Python of the daemon, and of dbt.python.
DAEMON_PYTHON, DBT_PYTHON = (3, 11), (3, 9)
#: DuckDB versions: the oldest that is told a storage format; the first whose keys no earlier one can read.
KNOWS_FORMATS, NEW_KEYS = (1, 2), (2, 0)
#: What every DuckDB before :data:`KNOWS_FORMATS` writes, and all later ones read.
OLDEST_FORMAT = (1, 0, 0)
#: What the judgements of the configuration's warnings here are about; other findings tell of these.
_TOLD_ELSEWHERE = ("watch.roots: ", "dbt.project_dir: ", "dbt.python: ")
#: The finding that an error of the planner's belongs to; those not listed are the project's.
_FINDING_OF = {"profile_invalid": "profile", "selection_empty": "selection", "config_invalid": "selection"}


@dataclass(frozen=True, slots=True)
class Interpreter:
    """What an interpreter is: its ``path``, its environment's folder, the versions of what it has installed.

    ``problem`` says why DuckDB cannot be imported.
    """

    path: str
    prefix: str
    python: str
    dbt: str | None
    adapter: str | None
    duckdb: str | None
    problem: str | None = None


def judge_configuration(file: Path | None, notices: Sequence[str], warnings: Sequence[str]) -> list[Finding]:
    """A configuration that could be read: which file, what was passed over, what is hardly meant."""
    where = "no configuration file: environment and defaults" if file is None else f"read from {file}"
    found = [green("configuration", where)]
    trust = "Let it, and its folder, belong to you or root, writable by nobody else."
    found += [yellow("passed_over", notice, trust) for notice in notices]
    if not notices:
        found.append(green("passed_over", "no file was passed over"))
    others = [each for each in warnings if each not in notices and not each.startswith(_TOLD_ELSEWHERE)]
    found += [yellow("settings", each, f"See {each.partition(':')[0]} in docs/configuration.md.") for each in others]
    if not others:
        found.append(green("settings", "nothing that is allowed and hardly meant"))
    return found


def judge_wrong_configuration(error: InitializationError) -> list[Finding]:
    """A configuration that cannot be used: a finding for each line that it was told in."""
    return [red("configuration", line, error.hint) for line in error.message.splitlines()]


def judge_daemon_python(version: str, prefix: str, *, virtual: bool) -> Finding:
    """The interpreter that selfheald itself runs on."""
    where = f"{'the environment' if virtual else 'no virtual environment,'} {prefix}"
    if parse_version(version)[:2] < DAEMON_PYTHON:
        least = _dotted(DAEMON_PYTHON)
        return red("daemon_python", f"Python {version} in {where}", f"Install selfheald with Python {least} or later.")
    return green("daemon_python", f"Python {version} in {where}")


def judge_interpreter(found: Interpreter | InitializationError) -> list[Finding]:
    """``dbt.python``: does it start, and has it what it needs, in versions that are supported?"""
    if isinstance(found, InitializationError):
        return [red("dbt_python", found.message, found.hint)]
    if parse_version(found.python)[:2] < DBT_PYTHON:
        hint = f"Let dbt.python name an interpreter of Python {_dotted(DBT_PYTHON)} or later."
        return [red("dbt_python", f"{found.path} is Python {found.python}", hint)]
    findings = [green("dbt_python", f"{found.path} starts: Python {found.python}")]
    versions = {"dbt-core": found.dbt, "dbt-duckdb": found.adapter, "duckdb": found.duckdb}
    faults = [fault for name, version in versions.items() if (fault := _judge_version(name, version, found.path))]
    if found.duckdb is not None and found.problem is not None:
        hint = f"Install it anew: {found.path} -m pip install --force-reinstall duckdb"
        faults.append(red("dbt_versions", f"DuckDB {found.duckdb} cannot be imported: {found.problem}", hint))
    told = ", ".join(f"{name} {version}" for name, version in versions.items())
    return findings + (faults or [green("dbt_versions", told)])


def _judge_version(name: str, version: str | None, python: str) -> Finding | None:
    least, untried = SUPPORTED[name]
    wanted = f"{python} -m pip install '{name}>={least},<{untried}'"
    if version is None:
        return red("dbt_versions", f"{python} has no {name}", f"Install it: {wanted}")
    if parse_version(version) < parse_version(least):
        return red(
            "dbt_versions", f"{name} {version} is older than {least}, the least that works", f"Upgrade: {wanted}"
        )
    if parse_version(version) >= parse_version(untried):
        return yellow("dbt_versions", f"{name} {version}: nothing has been tried with {untried} or later", wanted)
    return None


def judge_formats(
    setting: str, writer: str | None, daemon: str, simulators: Sequence[tuple[Path, str]]
) -> list[Finding]:
    """Who can read the databases that the DuckDB ``writer`` makes with ``dbt.storage_version`` = ``setting``.

    ``simulators`` are other environments at hand, and the DuckDB of each: a simulator's, perhaps.
    """
    least, untried = SUPPORTED["duckdb"]
    if parse_version(daemon) < parse_version(least):
        return [red("daemon_duckdb", f"the daemon's DuckDB is {daemon}", f"Upgrade it to {least} or later.")]
    if writer is None:
        return [green("daemon_duckdb", f"the daemon's DuckDB is {daemon}")]
    needed, finding = _judge_format(setting, parse_version(writer), writer)
    findings = [finding]
    if needed is None:
        return [green("daemon_duckdb", f"the daemon's DuckDB is {daemon}"), finding]
    message = f"the daemon's DuckDB {daemon}"
    if parse_version(daemon) < needed:
        hint = f"Set dbt.storage_version to v{daemon} or older, or upgrade the daemon's DuckDB to {_dotted(needed)}."
        findings.append(red("daemon_duckdb", f"{message} cannot read what {writer} writes: no check succeeds", hint))
    elif parse_version(daemon) >= parse_version(untried):
        findings.append(yellow("daemon_duckdb", f"{message}: nothing has been tried with {untried} or later"))
    else:
        findings.append(green("daemon_duckdb", f"{message} reads what DuckDB {writer} writes"))
    for python, version in simulators:
        if parse_version(version) < needed:
            hint = f"If simulations run there, set dbt.storage_version to v{version}, or upgrade its DuckDB."
            message = f"DuckDB {version} of {python} cannot read databases made here"
            findings.append(yellow("simulator_duckdb", message, hint))
        else:
            findings.append(green("simulator_duckdb", f"DuckDB {version} of {python} can read databases made here"))
    if not simulators:
        findings.append(green("simulator_duckdb", "no other environment with a DuckDB is active here"))
    return findings


def _judge_format(setting: str, writer: Version, name: str) -> tuple[Version | None, Finding]:
    """The oldest DuckDB that can read what is written, if anything can be."""
    if writer < KNOWS_FORMATS:
        if setting not in ("latest", "v1.0.0"):
            message = f"DuckDB {name} knows no storage formats: dbt.storage_version = {setting} has no effect"
            return OLDEST_FORMAT, yellow("storage_format", message, "Take dbt.storage_version out.")
        return OLDEST_FORMAT, green("storage_format", f"DuckDB {name} writes what 1.0.0 and later can read")
    if setting == "latest":
        message = f"databases get the newest format of DuckDB {name}: earlier versions may not read them"
        hint = "Let simulations run with that version, or set dbt.storage_version to the oldest that they use."
        return writer, yellow("storage_format", message, hint)
    wanted = parse_version(setting)
    if wanted > writer:
        hint = f"Set dbt.storage_version to v{name} or older, or upgrade the DuckDB of dbt.python."
        return None, red("storage_format", f"DuckDB {name} cannot write the format {setting}", hint)
    keys = ""
    if writer >= NEW_KEYS > wanted:
        keys = "; models with keys or indexes are refused, since they would make it unreadable"
    return wanted, green("storage_format", f"databases can be read by DuckDB {_dotted(wanted)} and later{keys}")


def judge_plan(found: Plan | InitializationError, profile: Path | None) -> list[Finding]:
    """What became of reading the project. ``profile`` is the profiles.yml that is used, if it is not a made one."""
    if isinstance(found, InitializationError):
        check = _FINDING_OF.get(found.code, "project")
        findings = [red(check, found.message, found.hint)]
        if check == "selection":  # dbt has read the profile and the project by then
            findings += [green("project", "dbt can read the project"), _judge_profile(profile)]
        return findings
    seeds = sum(table.tier is TableTier.SEED for table in found.required)
    others = len(found.required) - seeds
    plan = f"{_count(seeds, 'seed')} and {_count(others, 'foundation table')} are required"
    findings = [green("project", f"{found.project} in {found.project_dir} parses"), _judge_profile(profile)]
    if found.warnings:
        hint = "Mend it in the dbt project, or correct required.select."
        findings += [yellow("selection", f"{plan}; {warning}", hint) for warning in found.warnings]
    else:
        findings.append(green("selection", plan))
    return findings


def _judge_profile(profile: Path | None) -> Finding:
    if profile is None:
        return green("profile", "the project has none of its own: one that writes to $DATABASE_PATH is generated")
    return green("profile", f"{profile} writes to $DATABASE_PATH")


def parse_version(text: str) -> Version:
    """The numbers that a version begins with: ``(1, 2, 0)`` for ``v1.2.0`` and ``1.2.0rc1``."""
    found = re.match(r"v?(\d+(?:\.\d+)*)", text)
    return tuple(int(part) for part in found[1].split(".")) if found else ()


def _dotted(version: Version) -> str:
    return ".".join(map(str, version))


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
