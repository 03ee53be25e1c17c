"""The support archive of `doctor --bundle`: what somebody needs who is to help, and nothing that they may not know."""

from __future__ import annotations

import json
import os
import platform
import stat
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from selfheald.client import read_record
from selfheald.config import Config, show_toml
from selfheald.config_places import own_python
from selfheald.config_text import looks_secret, private_words
from selfheald.diagnosis.archive import FOLDER
from selfheald.diagnosis.discretion import LEFT_OUT, Discretion, own_words
from selfheald.diagnosis.examination import Examination
from selfheald.diagnosis.findings import Finding, Status, document
from selfheald.initialization_state import iso_time
from selfheald.log_reading import parsed
from selfheald.marker import installed_version, marker_state, read_history
from selfheald.presence import daemon_record
from selfheald.workspace import Database, merge_roots

#: So many databases are told of, those that are not ready first; so many attempts of each; so many lines of the log.
DATABASES, ATTEMPTS, LINES = 200, 5, 2000
#: Bytes of the log that are read, from its end.
_LOG_BYTES = 2 << 20
_LIBRARIES = (
    "anyio",
    "watchfiles",
    "duckdb",
    "dbt-core",
    "dbt-duckdb",
    "fsspec",
    "pydantic",
    "loguru",
    "typer",
    "rich",
)
#: Findings that may quote what dbt, an interpreter or a person wrote; of these, numbers are left out too.
_QUOTING = frozenset({"configuration", "settings", "dbt_python", "dbt_versions", "project", "profile", "selection"})
#: A known secret is looked for in all texts if it has so many characters; shorter ones are parts of many words.
_LEAST = 4

_README = """\
A support archive of selfheald {version}, written {moment}.

{members}

Left out, always: rows of tables, and the databases themselves; the values of dbt.vars, dbt.env, dbt.vars_command and
dbt.pre_sql; the values of environment variables; profiles.yml; dbt's own logs; command lines of other processes; the
journal. In messages, only words that selfheald itself uses, names of the project's tables, and paths that are known are
kept: {mark} stands for what else was there, figures too. Of {count} databases, {told} are told of.

It has names of folders, tables, dbt variables and environment variables. Look through it before you pass it on:
    tar -xzf FILE && less {folder}/*
"""
_ABOUT = {
    "versions.json": "Python, libraries, dbt and DuckDB, the system; which variables are set for selfheald or dbt",
    "doctor.json": "what `selfheald doctor` found",
    "configuration.toml": "the configuration in force, the user's own values hidden",
    "plan.json": "which tables are required, and which nodes of dbt make them",
    "status.json": "who watches, and each database's marker and status",
    "history.json": "the last attempts for each database",
    "log.jsonl": "the last lines of the log",
    "service.txt": "the installed service's file",
}


def members(
    examination: Examination, config: Config | None, environ: Mapping[str, str], moment: float
) -> dict[str, str]:
    """The files of the archive, by name; first the README. Without a ``config`` (it is wrong) there are fewer."""
    discretion = _discretion(examination, config, environ)
    found = {
        "versions.json": _json(_versions(examination, environ)),
        "doctor.json": _json(document([_told(each, discretion) for each in examination.findings])),
    }
    told: list[Path] = []
    if config is not None:
        told = _chosen(examination.databases)
        roots = merge_roots([root for root in config.watch.roots if os.path.isdir(root)])  # noqa: PTH112 - never raises
        found["configuration.toml"] = discretion.without_secrets(show_toml(config, discreet=True))
        found["status.json"] = _json(discretion.record(_status(roots, told)))
        found["history.json"] = _json(discretion.record(_history(told)))
        if log := _log(config.log.file, discretion):
            found["log.jsonl"] = log
    if examination.plan is not None:
        plan = examination.plan
        nodes = [
            {"name": node.alias, "kind": node.resource_type, "as": node.materialized} for node in plan.nodes.values()
        ]
        tables = [{"name": table.name, "tier": table.tier.value} for table in plan.required]
        found["plan.json"] = _json({"project": plan.project, "required": tables, "nodes": nodes})
    if service := _service(environ, discretion):
        found["service.txt"] = service
    ordered = {name: found[name] for name in _ABOUT if name in found}
    readme = _README.format(
        version=installed_version(),
        moment=iso_time(moment),
        members="\n".join(f"{name:<20}{_ABOUT[name]}" for name in ordered),
        mark=LEFT_OUT,
        count=len(examination.databases),
        told=len(told),
        folder=FOLDER,
    )
    return {"README.txt": readme, **ordered}


def _discretion(examination: Examination, config: Config | None, environ: Mapping[str, str]) -> Discretion:
    secrets = {value for name, value in environ.items() if looks_secret(value, name)}
    places = [own_python(), Path(own_python()).parent.parent]
    names: set[str] = set()
    if config is not None:
        secrets |= private_words(config)
        dbt = config.dbt
        places += [*config.watch.roots, config.state_dir, config.templates.dir, dbt.project_dir, dbt.python]
        places += [each for each in (config.log.file, dbt.profiles_dir, config.sources.file) if each is not None]
        places += examination.databases
    if examination.plan is not None:
        plan = examination.plan
        names |= {plan.project, *(table.name for table in plan.required)}
        for node in plan.nodes.values():
            names |= {node.name, node.alias, node.schema}
    # One that is the path of something that is there (`PWD`, a census) is told by other things too, and no secret.
    secrets = {each for each in secrets if len(each) >= _LEAST and not os.path.lexists(each)}
    return Discretion(names, places, secrets, words=own_words())


def _told(finding: Finding, discretion: Discretion) -> Finding:
    numbers = finding.status is Status.GREEN or finding.check not in _QUOTING
    hint = None if finding.hint is None else discretion.text(finding.hint, numbers=numbers)
    return Finding(finding.check, finding.status, discretion.text(finding.message, numbers=numbers), hint)


def _versions(examination: Examination, environ: Mapping[str, str]) -> dict[str, Any]:
    libraries: dict[str, str | None] = {}
    for name in _LIBRARIES:
        try:
            libraries[name] = version(name)
        except PackageNotFoundError:
            libraries[name] = None
    system: Mapping[str, str] = {}
    with suppress(OSError):
        system = platform.freedesktop_os_release()
    interpreter = examination.interpreter
    return {
        "selfheald": installed_version(),
        "python": platform.python_version(),
        "libraries": libraries,
        "dbt.python": None
        if interpreter is None
        else {
            "python": interpreter.python,
            "dbt-core": interpreter.dbt,
            "dbt-duckdb": interpreter.adapter,
            "duckdb": interpreter.duckdb,
        },
        "system": {"name": platform.system(), "release": platform.release(), "machine": platform.machine()},
        "distribution": {key: system.get(key) for key in ("ID", "VERSION_ID")},
        "set": sorted(name for name in environ if name.startswith(("SELFHEALD_", "DBT_")) or name == "DATABASE_PATH"),
    }


def _chosen(databases: Iterable[Path]) -> list[Path]:
    """Those that are not ready first."""
    return sorted(databases, key=lambda path: (marker_state(Database(path)) == "valid", path))[:DATABASES]


def _status(roots: Iterable[Path], databases: Iterable[Path]) -> dict[str, Any]:
    entries = []
    for path in databases:
        database = Database(path)
        with suppress(OSError):
            entries.append(
                {
                    "database": str(path),
                    "size": path.lstat().st_size,
                    "state": marker_state(database),
                    "marker": read_record(database.marker),
                    "status": read_record(database.status),
                }
            )
    return {"format": 1, "daemons": [daemon_record(root) for root in roots], "databases": entries}


def _history(databases: Iterable[Path]) -> dict[str, Any]:
    found = ({"database": str(path), "attempts": read_history(Database(path))[-ATTEMPTS:]} for path in databases)
    return {"format": 1, "databases": [each for each in found if each["attempts"]]}


def _log(path: Path | None, discretion: Discretion) -> str:
    """The last lines, one JSON object each; those that are none of selfheald's own are counted alone."""
    keys = ("timestamp", "level", "event", "attempt_id", "step_name", "database", "duration_seconds", "success")
    lines: deque[str] = deque(maxlen=LINES)
    foreign = 0
    for line in _end_of(path):
        entry = parsed(line, keys)
        if entry is None:
            foreign += 1
            continue
        fields = {**{key: entry.fields.get(key) for key in (*keys, "error_code")}, "message": entry.message}
        lines.append(json.dumps(discretion.record(fields), ensure_ascii=False))
    if foreign:
        lines.append(json.dumps({"left_out_lines_of_others": foreign}))
    return "".join(f"{line}\n" for line in lines)


def _end_of(path: Path | None) -> list[str]:
    """The lines at the end of a plain file; no link is followed."""
    if path is None:
        return []
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return []
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            return []
        file.seek(max(0, found.st_size - _LOG_BYTES))
        return file.read(_LOG_BYTES).decode("utf-8", "backslashreplace").splitlines()


def _service(environ: Mapping[str, str], discretion: Discretion) -> str:
    """The installed files. A line of the shipped one is told as it is; of others, as much as may be told."""
    from selfheald.service.installing import manager_for
    from selfheald.service.shipped import AGENT, DAEMON, UNIT_OF_SYSTEM, UNIT_OF_USER, template

    files = (AGENT, DAEMON, UNIT_OF_SYSTEM, UNIT_OF_USER)
    shipped = {line.strip() for name in files for line in template(name).splitlines()}
    told = []
    for system in (False, True):
        manager = manager_for(system, environ)
        lines = _end_of(manager.file)
        told += [f"# {manager.kind}: {'of the machine' if system else 'of one user'}"] if lines else []
        for line in lines:
            key, equals, value = line.partition("=")
            if line.strip() in shipped:
                told.append(line)
            elif equals and key.isalpha():
                told.append(f"{key}={discretion.text(value, numbers='Environment' not in key)}")
            else:
                told.append(discretion.text(line))
    return "".join(f"{line}\n" for line in told)


def _json(value: object) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n"
