"""The examination: gathers what the probes tell, all at once, and lets it be judged. Changes nothing on disk."""

from __future__ import annotations

import importlib
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import anyio

from selfheald.client import read_record
from selfheald.config import Config, config_sources, warnings
from selfheald.config_values import has_placeholder
from selfheald.diagnosis.findings import Finding, Status, complete, red
from selfheald.diagnosis.judge_machine import (
    judge_instances,
    judge_open_files,
    judge_processes,
    judge_queue,
    judge_watches,
)
from selfheald.diagnosis.judge_places import judge_place, judge_roots, judge_space
from selfheald.diagnosis.judge_setup import (
    Interpreter,
    judge_configuration,
    judge_daemon_python,
    judge_formats,
    judge_interpreter,
    judge_plan,
    judge_wrong_configuration,
)
from selfheald.diagnosis.judge_traces import Watcher, judge_daemons, judge_suspects, judge_traces
from selfheald.diagnosis.probe_machine import flocks, inotify_limits, process_limits
from selfheald.diagnosis.probe_places import (
    Person,
    Walk,
    look_at_place,
    look_at_roots,
    look_at_space,
    look_for_suspects,
    walk,
)
from selfheald.diagnosis.probe_setup import ask_interpreter, daemon_duckdb, profile_of, read_project, simulators
from selfheald.errors import InitializationError
from selfheald.locks import held
from selfheald.marker import installed_version
from selfheald.plan import Plan
from selfheald.presence import LOCK, RECORD
from selfheald.threads import run_in_thread
from selfheald.workspace import PRIVATE_FOLDER, merge_roots

#: Another part of the package that can tell of the service, where it is there.
_SERVICE = "selfheald.service"


@dataclass(slots=True)
class Examination:
    """The findings, and what was learnt on the way."""

    findings: list[Finding]
    interpreter: Interpreter | None = None
    plan: Plan | None = None
    databases: list[Path] = field(default_factory=list)


async def examine(config: Config, person: Person, announce: Callable[[str], None]) -> Examination:
    """All about a configuration that could be read, for a daemon that runs as ``person``."""
    learnt = Examination([])
    findings = learnt.findings
    findings += judge_configuration(config.sources.file, config_sources(config).notices, warnings(config))
    findings += _own_interpreter()
    roots = merge_roots([root for root in config.watch.roots if os.path.isdir(root)])  # noqa: PTH112 - never raises
    walked = anyio.Event()
    seen = Walk()

    async def examine_versions() -> None:
        found = await ask_interpreter(config)
        findings.extend(judge_interpreter(found))
        learnt.interpreter = None if isinstance(found, InitializationError) else found
        writer = None if learnt.interpreter is None else learnt.interpreter.duckdb
        known = set() if learnt.interpreter is None else {learnt.interpreter.prefix}
        others = simulators(os.environ, known)
        findings.extend(judge_formats(config.dbt.storage_version, writer, daemon_duckdb(), others))

    async def examine_project() -> None:
        workspace = roots[0] if roots else Path.cwd()
        if _depends_on_workspace(config):
            await walked.wait()
            workspace = seen.databases[0].parent if seen.databases else workspace
        found, dbt_was_asked = await read_project(config, workspace, announce)
        learnt.plan = None if isinstance(found, InitializationError) else found
        if dbt_was_asked:
            findings.extend(judge_plan(found, profile_of(config, _project_dir(config, found))))
        elif isinstance(found, InitializationError):
            findings.append(red("settings", found.message, found.hint))

    async def examine_places() -> None:
        nonlocal seen
        locks = await run_in_thread(flocks)
        seen = await run_in_thread(lambda: walk(roots, config.watch.database, config.watch.exclude, locks))
        learnt.databases = seen.databases
        walked.set()
        findings.extend(await run_in_thread(lambda: _places(config, roots, person)))
        findings.extend(judge_traces(seen.traces))
        suspects = await run_in_thread(lambda: look_for_suspects(config.state_dir, roots, locks))
        findings.append(judge_suspects(suspects))
        findings.extend(await run_in_thread(lambda: _machine(config, roots, person, seen)))

    async with anyio.create_task_group() as group:
        group.start_soon(examine_versions)
        group.start_soon(examine_project)
        group.start_soon(examine_places)
    findings += service_findings(config)
    learnt.findings = complete(findings, "something else is in the way")
    return learnt


def examine_machine_alone(error: InitializationError) -> list[Finding]:
    """What can be told without a configuration, which ``error`` refuses."""
    findings = judge_wrong_configuration(error)
    findings += _own_interpreter()
    findings += judge_formats("latest", None, daemon_duckdb(), ())
    findings += _process_findings(None, os.geteuid())
    return complete(findings, "the configuration is wrong")


def service_findings(config: Config) -> list[Finding]:
    """What the service module tells of the installed service; nothing where there is no such module.

    Its ``diagnose(config)`` gives ``(status, message, hint)`` for each thing that it looked at.
    """
    if find_spec(_SERVICE) is None:
        return []
    told: Iterable[tuple[str, str, str | None]] = importlib.import_module(_SERVICE).diagnose(config)
    return [Finding("service", Status(status), message, hint) for status, message, hint in told]


def _own_interpreter() -> list[Finding]:
    virtual = sys.prefix != sys.base_prefix
    return [judge_daemon_python(platform.python_version(), sys.prefix, virtual=virtual)]


def _depends_on_workspace(config: Config) -> bool:
    dbt = config.dbt
    texts = (str(dbt.project_dir), str(dbt.profiles_dir or ""), repr(dbt.vars), repr(dbt.env))
    return bool(dbt.vars_command) or any(map(has_placeholder, texts))


def _project_dir(config: Config, found: Plan | InitializationError) -> Path:
    return config.dbt.project_dir if isinstance(found, InitializationError) else Path(found.project_dir)


def _places(config: Config, roots: Sequence[Path], person: Person) -> list[Finding]:
    temporary = _temporary_folder()
    log_folder = None if config.log.file is None else config.log.file.parent
    others = [config.state_dir, *([] if log_folder is None else [log_folder]), temporary]
    findings = judge_roots(look_at_roots(config.watch.roots, person), config.watch.mode)
    findings += judge_space(look_at_space(roots, others), config.limits.min_free_bytes)
    findings.append(judge_place("state_folder", look_at_place(config.state_dir, person)))
    findings.append(judge_place("log_folder", None if log_folder is None else look_at_place(log_folder, person)))
    findings.append(judge_place("temporary_folder", look_at_place(temporary, person)))
    return findings


def _temporary_folder() -> Path:
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError:  # none can be written, and this is the one that is looked for first by most programs
        return Path("/tmp")


def _machine(config: Config, roots: Sequence[Path], person: Person, seen: Walk) -> list[Finding]:
    watchers = [_watcher_of(root) for root in roots]
    watch, folders = config.watch, seen.folders
    pids = {pid for each in watchers if isinstance(pid := each.record.get("pid"), int)}
    limits = inotify_limits(person.uid, pids)
    return [
        *judge_daemons(watchers, version=installed_version(), database=watch.database, mode=watch.mode, uid=person.uid),
        judge_watches(limits.watches, folders, watch.mode),
        judge_instances(limits.instances, watch.mode),
        judge_queue(limits.queue, folders, watch.mode, watch.rescan),
        *_process_findings(min(pids, default=None), person.uid),
    ]


def _process_findings(pid: int | None, uid: int) -> list[Finding]:
    limits = process_limits(pid, uid)
    whose = "a process that is started here" if pid is None else f"the daemon (PID {pid})"
    return [judge_open_files(limits.open_files, whose), judge_processes(limits.processes, whose)]


def _watcher_of(root: Path) -> Watcher:
    """The daemon that has claimed the root, or a folder above it."""
    for folder in (root, *root.parents):
        if held(folder / PRIVATE_FOLDER / LOCK):
            record = read_record(folder / PRIVATE_FOLDER / RECORD) or {}
            return Watcher(root, folder, {"state": "starting", **record})
    return Watcher(root, root)
