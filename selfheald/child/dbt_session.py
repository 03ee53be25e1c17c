"""dbt in this process: environment, profile, parsing, invoking, and letting go of the database.

Importing this module imports dbt, which takes about a second.
"""

# ruff: noqa: E402  (dbt's locks are replaced before dbt creates any)

from __future__ import annotations

import os
import platform
import re
import sys
import threading
from argparse import Namespace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Optional, Set

import dbt.mp_context

# dbt guards its manifest and connections with locks for several processes, though there is only this one.
# They would cost a helper process, and leave semaphores behind when the child is killed.
dbt.mp_context._MP_CONTEXT = threading

# isort: split
import dbt.adapters.duckdb
import duckdb
import yaml
from dbt.adapters.duckdb.connections import DuckDBConnectionManager
from dbt.adapters.factory import reset_adapters
from dbt.cli.main import dbtRunner
from dbt.config.runtime import load_profile
from dbt.flags import set_flags
from dbt_common.context import set_invocation_context

import saved_parse
from dbt_errors import parse_error, profile_error
from dbt_words import as_said, one_line
from manifest_reader import KINDS
from protocol import Emit, JobError

#: Settings of dbt's that must not come in by the environment: they change what is built, or from what.
_UNWANTED = (
    "FULL_REFRESH EMPTY SAMPLE DEFER DEFER_STATE DEFER_TO_STATE FAVOR_STATE STATE ARTIFACT_STATE_PATH "
    "STORE_FAILURES RESOURCE_TYPES EXCLUDE_RESOURCE_TYPES EVENT_TIME_START EVENT_TIME_END RECORDER_MODE "
    "PARTIAL_PARSE_FILE_DIFF UPLOAD_TO_ARTIFACTS_INGEST_API TARGET PROFILE INTROSPECT"
).split()
_MAX_WARNING = 400
_MAX_WARNINGS = 50


class Session:
    """One dbt project with one profile that writes to one database file."""

    def __init__(self, job: Dict[str, Any], emit: Emit) -> None:
        self.job = job
        self.emit = emit
        self.project_dir = Path(job["project_dir"])
        self.work_dir = Path(job["work_dir"])
        self.database = str(job["database"])
        self.warnings: List[str] = []
        #: Called with the unique id and the status of each node that begins or ends, before that is told.
        self.on_node: Callable[[str, str], None] = lambda uid, status: None
        #: The nodes that dbt has made relations of, as it has compiled them.
        self.made: Dict[str, Any] = {}
        self._seen: Set[str] = set()
        self._unset: List[str] = []
        self.raw_project = self._read_project()
        self._set_environment()
        self.profiles_dir = self._find_profile()
        self._profile_override: Optional[str] = None if self.raw_project.get("profile") else "selfheald"
        self.catalog = self._check_profile()
        self._runner = dbtRunner(callbacks=[self._on_event])

    @property
    def project_name(self) -> str:
        return str(self.raw_project.get("name", ""))

    def parse(self) -> Any:
        """dbt's manifest of the project. Nothing is written but in the work folder and the kept parse."""
        kept = self.job.get("partial_parse")
        saved_parse.make_reusable(str(self.project_dir), self.database, self.job.get("inert_vars") or ())
        saved_parse.recall()
        arguments = ["--partial-parse"]
        if kept and Path(kept).exists():
            arguments += ["--partial-parse-file-path", kept]
        outcome = self.invoke("parse", arguments)
        if not outcome.success or outcome.result is None:
            raise parse_error(outcome.exception, self.project_dir, self.raw_project)
        self._runner.manifest = outcome.result
        if kept:
            try:
                saved_parse.keep(self.work_dir / "target" / "partial_parse.msgpack", Path(kept))
            except OSError as error:  # the next job parses again
                sys.stderr.write(f"the parse was not kept: {error}\n")
        return outcome.result

    def invoke(self, command: str, arguments: Iterable[str] = ()) -> Any:
        """Run one dbt command; returns dbt's own result and raises nothing."""
        full = ["--quiet", "--no-use-colors", "--no-use-colors-file", "--no-write-json"]
        full += ["--log-level-file", "info", "--log-format-file", "text"]
        full += ["--log-path", str(self.job["log_dir"]), command, *self._options(command)]
        return self._runner.invoke([*full, *arguments])

    def tell(self, command: List[str], nodes: Iterable[Any]) -> None:
        """Say how dbt is to be called for the same by hand: with the staging folder alone, parsing by itself."""
        full = [*command, *self._options(command[0]), "--log-path", str(self.work_dir / "logs"), "--no-partial-parse"]
        full += ["--select", *(select_by_hand(node) for node in nodes)]
        self.emit({"event": "command", "arguments": full, "unset": self._unset})

    def _options(self, command: str) -> List[str]:
        full = ["--project-dir", str(self.project_dir), "--profiles-dir", str(self.profiles_dir)]
        full += ["--target-path", str(self.work_dir / "target")]
        full += ["--threads", str(self._threads)] if command != "ls" else []
        full += ["--target", self.job["target"]] if self.job.get("target") else []
        full += ["--profile", self._profile_override] if self._profile_override else []
        if self.job.get("vars"):
            full += ["--vars", yaml.safe_dump(self.job["vars"], default_flow_style=True, width=10**9).strip()]
        return full

    def close(self) -> None:
        """Let go of the database, so that all of it is in its one file and no write-ahead log is left."""
        manager: Any = DuckDBConnectionManager
        connection = getattr(manager._ENV, "conn", None)
        reset_adapters()
        manager.close_all_connections()
        if connection is not None:
            connection.close()
        if Path(self.database + ".wal").exists():
            last = duckdb.connect(self.database)
            last.execute("CHECKPOINT")
            last.close()

    # -- what the project and its profile are ----------------------------------------------------------

    def _read_project(self) -> Dict[str, Any]:
        file = self.project_dir / "dbt_project.yml"
        if not file.is_file():
            raise JobError("dbt_project_missing", f"no dbt project: {file} does not exist", path=file)
        try:
            raw = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise JobError("dbt_project_invalid", f"{file} cannot be read: {as_said(error)}", path=file) from error
        if not isinstance(raw, dict):
            raise JobError("dbt_project_invalid", f"{file} is not a mapping", path=file)
        return raw

    def _set_environment(self) -> None:
        unwanted = [f"DBT_{prefix}{name}" for name in _UNWANTED for prefix in ("", "ENGINE_")]
        self._unset = [name for name in unwanted if os.environ.pop(name, None) is not None]
        os.environ["DATABASE_PATH"] = self.database
        os.environ.setdefault("HOME", str(self.work_dir))

    def _find_profile(self) -> Path:
        """The folder of the profiles.yml: as configured, else the project's own, else a made one."""
        given = self.job.get("profiles_dir")
        if given:
            if not (Path(given) / "profiles.yml").is_file():
                missing = Path(given) / "profiles.yml"
                raise JobError("profile_invalid", f"no profile: {missing} does not exist", path=missing)
            return Path(given)
        if (self.project_dir / "profiles.yml").is_file():
            return self.project_dir
        output = {"type": "duckdb", "path": "{{ env_var('DATABASE_PATH') }}", "threads": self._threads}
        target = self.job.get("target") or "selfheald"
        profile = {"target": target, "outputs": {target: output}}
        name = self.raw_project.get("profile") or "selfheald"
        text = yaml.safe_dump({name: profile})
        (self.work_dir / "profiles.yml").write_text(text, encoding="utf-8")
        return self.work_dir

    def _check_profile(self) -> str:
        """Resolve the profile as dbt will, and refuse one that would write elsewhere. Returns the catalog."""
        file = self.profiles_dir / "profiles.yml"
        set_invocation_context(dict(os.environ))
        set_flags(Namespace(PROFILES_DIR=str(self.profiles_dir), LOG_CACHE_EVENTS=False))
        try:
            profile = load_profile(
                str(self.project_dir),
                dict(self.job.get("vars") or {}),
                self._profile_override,
                self.job.get("target"),
                self._threads,
            )
        except Exception as error:
            raise profile_error(error, file) from error
        credentials: Any = profile.credentials
        if credentials.type != "duckdb":
            message = f"the profile's type is {credentials.type!r}; only duckdb makes a DuckDB database"
            raise JobError("profile_invalid", message, path=file)
        if credentials.path != self.database or getattr(credentials, "remote", None):
            place = "a remote server" if credentials.path == self.database else repr(credentials.path)
            message = f"the profile writes to {place}, whatever DATABASE_PATH says"
            raise JobError("profile_invalid", message, path=file)
        self.credentials = credentials
        return str(credentials.database)

    @property
    def _threads(self) -> int:
        return int(self.job.get("threads") or 1)

    # -- what dbt says while it runs -------------------------------------------------------------------

    def _on_event(self, event: Any) -> None:
        name = event.info.name
        if event.info.level == "warn":
            self._warn(event.info.msg)
        elif name == "NodeStart" and event.data.node_info.resource_type in KINDS:
            self._node(event.data.node_info, "started", None)
        elif name == "NodeFinished" and event.data.node_info.resource_type in KINDS:
            self._node(event.data.node_info, "finished", event.data.run_result)

    def _node(self, node: Any, state: str, result: Any) -> None:
        status = str(result.status) if result is not None else str(node.node_status)
        seconds = round(float(result.execution_time), 3) if result is not None else None
        self.on_node(node.unique_id, status)
        self.emit(
            {
                "event": "node",
                "unique_id": node.unique_id,
                "name": node.node_name,
                "state": state,
                "status": status,
                "seconds": seconds,
            }
        )

    def _warn(self, text: str) -> None:
        message = one_line(text).replace("[WARNING]: ", "", 1)[:_MAX_WARNING]
        if message and message not in self._seen and len(self.warnings) < _MAX_WARNINGS:
            self._seen.add(message)
            self.warnings.append(message)
            self.emit({"event": "warning", "message": message})


def select_by_hand(node: Any) -> str:
    """What makes dbt select this node and no other, without a tag of ours.

    A name of several parts also means what is below it, so the file's name must fit too. What means something to
    dbt's selection stands as ``?``, any one character.
    """
    parts = [".".join(node.fqn), Path(node.original_file_path).name, node.resource_type]
    fqn, file, kind = (re.sub(r"[^\w.-]", "?", str(part)) for part in parts)
    return f"fqn:{fqn},file:{file},resource_type:{kind}"


def versions() -> Dict[str, str]:
    """Which interpreter and libraries do the work."""
    return {
        "python": platform.python_version(),
        "dbt": version("dbt-core"),
        "adapter": version("dbt-duckdb"),
        "duckdb": str(duckdb.__version__),
    }
