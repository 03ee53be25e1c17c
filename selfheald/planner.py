"""Obtains the plan: from memory, from the plan cache, or by letting dbt parse the project in a child process."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio

from selfheald.config import Config, child_environment, render
from selfheald.dbt_host import kill_group, run_job
from selfheald.errors import InitializationError, InitializationTimeoutError, from_os_error
from selfheald.locks import DatabaseLock
from selfheald.plan import Plan, make_plan, plan_from_json
from selfheald.project import Fingerprints
from selfheald.threads import run_in_thread
from selfheald.workspace import Database, write_atomically

#: Seconds for which a fingerprint counts as fresh: so many checks at once look at the project's files only once.
FRESH_SECONDS = 1.0
#: Seconds for which a project that dbt refused is not tried again unless it has changed.
FAILURE_SECONDS = 2.0
#: Seconds that dbt.vars_command may take.
VARS_SECONDS = 30.0
#: Seconds for which its answer is used again, unless somebody asks for that database.
VARS_FRESH_SECONDS = 60.0
#: Plans that the cache holds; a project changes now and then, and several daemons may share it.
KEPT_PLANS = 20
#: Seconds that a parse may take where dbt.timeout is shorter: a project is parsed once, not for each database.
PARSE_SECONDS = 300.0
#: Seconds after which a temporary file was left by a process that was killed: writing one takes a moment.
TEMPORARY_SECONDS = 3600.0

_SCRATCH = "parse-"


@dataclass(frozen=True, slots=True)
class Settings:
    """What dbt is to run with for one database: the part of every job that doesn't depend on the work."""

    project_dir: Path
    profiles_dir: Path | None
    python: str
    variables: Mapping[str, Any]
    environment: Mapping[str, str]

    def job(self, config: Config) -> dict[str, Any]:
        """The keys that all dbt jobs share."""
        return {
            "project_dir": str(self.project_dir),
            "profiles_dir": None if self.profiles_dir is None else str(self.profiles_dir),
            "target": config.dbt.target,
            "vars": dict(self.variables),
            "threads": config.dbt.threads,
        }


class Planner:
    """Keeps the plans of one configuration. Not for use from several threads at once.

    With ``keep`` false the plan cache is read, and never written to: it may belong to the service's user.
    """

    def __init__(
        self, config: Config, *, announce: Callable[[str], None] = lambda message: None, keep: bool = True
    ) -> None:
        self.config = config
        self.announce = announce
        self._keeps = keep
        # The folder of the service may itself be a link, as with systemd; in what lies below none is followed.
        self._folder = Path(os.path.realpath(config.state_dir)) / "plans"
        self._fingerprints = Fingerprints()
        self._fresh: dict[str, tuple[float, str]] = {}
        self._plans: dict[str, Plan] = {}
        self._failures: dict[str, tuple[float, InitializationError]] = {}
        self._asked: dict[Path, tuple[float, dict[str, Any]]] = {}
        self._turn = anyio.Lock()

    async def settings_for(self, database: Database, *, fresh: bool = False) -> Settings:
        """dbt's settings for this database: placeholders filled in, and what ``dbt.vars_command`` said of late."""
        dbt = self.config.dbt
        filled = {
            name: render(getattr(dbt, name), database.workspace, database.path)
            for name in ("project_dir", "profiles_dir", "vars", "env", "vars_command")
        }
        environment = child_environment(filled["env"])
        variables = dict(filled["vars"])
        if filled["vars_command"]:
            known = self._asked.get(database.path)
            if known is None or fresh or time.monotonic() - known[0] > VARS_FRESH_SECONDS:
                answer = await _ask_for_variables(filled["vars_command"], database, environment)
                known = self._asked[database.path] = (time.monotonic(), answer)
            variables |= known[1]
        return Settings(filled["project_dir"], filled["profiles_dir"], str(dbt.python), variables, environment)

    async def plan_for(self, database: Database, *, fresh: bool = False) -> Plan:
        """The plan that holds for this database now.

        ``fresh`` looks at the project's files again, however lately that was done, and gives a project that was
        refused another try. Raises :class:`InitializationError` as dbt's refusal is classified.
        """
        return (await self.plan_and_settings(database, fresh=fresh))[0]

    async def plan_and_settings(self, database: Database, *, fresh: bool = False) -> tuple[Plan, Settings]:
        """As :meth:`plan_for`, with the settings that the plan was made for."""
        settings = await self.settings_for(database, fresh=fresh)
        async with self._turn:
            fingerprint = await self._fingerprint(settings, fresh)
            name = _name(fingerprint, settings.project_dir)
            plan = self._plans.get(name) or self._kept(fingerprint, settings)
            if plan is None:
                plan = await self._parsed(fingerprint, settings, fresh)
            self._plans[name] = plan
        return plan, settings

    def saved_parse(self, plan: Plan) -> Path:
        """Where dbt's own parse of that project is kept, so that the next process parses only what changed."""
        return self._folder / f"{_name(plan.fingerprint, plan.project_dir)}.msgpack"

    def last_seconds(self) -> float | None:
        """How long the last initialization with these settings took, in seconds, for an estimate."""
        try:
            return float((self._folder / "last_seconds").read_text())
        except (OSError, ValueError):
            return None

    def remember_seconds(self, seconds: float) -> None:
        """Keep a duration for :meth:`last_seconds`."""
        with suppress(OSError, InitializationError):
            write_atomically(self._folder / "last_seconds", f"{seconds:.2f}\n", durable=False)

    async def _fingerprint(self, settings: Settings, fresh: bool) -> str:
        dbt, required = self.config.dbt, self.config.required
        counts = {
            "vars": dict(settings.variables),
            "env": {name: settings.environment[name] for name in sorted(settings.environment) if name in dbt.env},
            "target": dbt.target,
            "select": required.select,
            "tables": [table.model_dump() for table in required.tables],
            "database": self.config.watch.database,
        }
        key = json.dumps([str(settings.project_dir), str(settings.profiles_dir), counts], default=str)
        known = self._fresh.get(key)
        if known is not None and not fresh and time.monotonic() - known[0] < FRESH_SECONDS:
            return known[1]

        def compute() -> str:
            return self._fingerprints.of(
                settings.project_dir,
                profiles_dir=settings.profiles_dir,
                python=settings.python,
                settings=counts,
            )

        fingerprint = await run_in_thread(compute)
        self._fresh[key] = (time.monotonic(), fingerprint)
        return fingerprint

    def _kept(self, fingerprint: str, settings: Settings) -> Plan | None:
        path = self._folder / f"{_name(fingerprint, settings.project_dir)}.json"
        try:
            plan = plan_from_json(json.loads(path.read_text()))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return plan if plan.fingerprint == fingerprint else None

    async def _parsed(self, fingerprint: str, settings: Settings, fresh: bool) -> Plan:
        name = _name(fingerprint, settings.project_dir)
        failed = self._failures.get(name)
        if failed is not None and not (fresh and time.monotonic() - failed[0] > FAILURE_SECONDS):
            raise copy.copy(failed[1])  # whoever catches it adds the path of his own database
        self.announce("Reading the dbt project…")
        try:
            try:
                plan = await self._parse(fingerprint, settings, keep=self._keeps)
            except InitializationError as error:
                if not self._keeps or error.code not in ("disk_full", "permission_denied"):
                    raise
                # The plan cache spares time, no more: without room for it the project is read elsewhere.
                plan = await self._parse(fingerprint, settings, keep=False)
        except InitializationError as error:
            if not error.retryable:
                self._failures[name] = (time.monotonic(), error)
            raise
        self._failures.pop(name, None)
        return plan

    async def _parse(self, fingerprint: str, settings: Settings, *, keep: bool) -> Plan:
        """Let dbt read the project: in the plan cache, to ``keep`` what it makes, or in a temporary folder."""
        name = _name(fingerprint, settings.project_dir)
        try:
            with self._scratch(keep=keep) as (folder, lock):
                log_folder = (self._folder if keep else folder) / "logs"
                log_folder.mkdir(exist_ok=True)
                answer = await run_job(
                    {
                        "job": "plan",
                        **settings.job(self.config),
                        "select": list(self.config.required.select) if not self.config.required.tables else ["*"],
                        "work_dir": str(folder),
                        "database": str(folder / self.config.watch.database),
                        "partial_parse": str(self._folder / f"{name}.msgpack") if keep else None,
                        "log_dir": str(log_folder),
                        "log_file": str(log_folder / "plan.log"),
                    },
                    python=settings.python,
                    environment=settings.environment,
                    timeout=max(self.config.dbt.timeout, PARSE_SECONDS),
                    locks=() if lock is None else (lock.fileno(),),
                )
        except OSError as error:
            raise from_os_error(error, error.filename or self._folder, "use") from error
        plan = make_plan(
            answer,
            fingerprint=fingerprint,
            project_dir=str(settings.project_dir),
            select=self.config.required.select,
            explicit=[table.model_dump() for table in self.config.required.tables],
        )
        if keep:
            self._keep(plan)
        return plan

    @contextmanager
    def _scratch(self, *, keep: bool) -> Iterator[tuple[Path, DatabaseLock | None]]:
        """A private folder for a parse: in the plan cache, with the lock that marks it as used, or a temporary one."""
        if not keep:
            with tempfile.TemporaryDirectory(prefix="selfheald-") as temporary:
                yield Path(temporary), None
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        _clean_cache(self._folder)
        lock = DatabaseLock(self._folder / f"{_SCRATCH}{secrets.token_hex(6)}.lock")
        folder = lock.path.with_suffix("")
        try:
            lock.acquire()
            folder.mkdir(0o700)
            yield folder, lock
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            if lock.acquired:
                _give_up(lock)

    def _keep(self, plan: Plan) -> None:
        """Write the plan to the cache, which holds the latest few."""
        with suppress(OSError, InitializationError):
            path = self._folder / f"{_name(plan.fingerprint, plan.project_dir)}.json"
            write_atomically(path, json.dumps(plan.to_json()), durable=False)
            others = (found for found in self._folder.glob("*.json") if found != path)
            plans = sorted(others, key=lambda found: found.stat().st_mtime)
            for old in plans[: 1 - KEPT_PLANS]:
                old.unlink(missing_ok=True)
                old.with_suffix(".msgpack").unlink(missing_ok=True)


async def _ask_for_variables(
    command: tuple[str, ...], database: Database, environment: Mapping[str, str]
) -> dict[str, Any]:
    """Run ``dbt.vars_command`` in the workspace; its standard output is a JSON object of variables."""
    hint = f"Run it in {database.workspace}: it must print a JSON object within {VARS_SECONDS:g} s."
    try:
        with anyio.fail_after(VARS_SECONDS):
            output = await _output_of(command, database.workspace, environment)
        variables = json.loads(output)
    except TimeoutError:
        raise InitializationTimeoutError(
            f"dbt.vars_command gave no answer within {VARS_SECONDS:g} s",
            timeout_seconds=VARS_SECONDS,
            elapsed_seconds=VARS_SECONDS,
            path=command[0],
            hint=hint,
        ) from None
    except subprocess.CalledProcessError as error:
        raise InitializationError(
            f"dbt.vars_command ended with exit code {error.returncode}",
            code="config_invalid",
            path=command[0],
            hint=hint,
        ) from error
    except (OSError, ValueError) as error:
        raise InitializationError(
            f"dbt.vars_command: {error}", code="config_invalid", path=command[0], hint=hint
        ) from error
    if not isinstance(variables, dict):
        raise InitializationError(
            "dbt.vars_command did not print a JSON object", code="config_invalid", path=command[0], hint=hint
        )
    return variables


async def _output_of(command: tuple[str, ...], folder: Path, environment: Mapping[str, str]) -> bytes:
    """What a command prints that succeeds. When this ends, in whatever way, nothing of its group is left."""
    process = await anyio.open_process(
        list(command),
        cwd=folder,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        output = b"".join([chunk async for chunk in process.stdout])
        code = await process.wait()
    finally:
        with anyio.CancelScope(shield=True):
            await kill_group(process)
    if code:
        raise subprocess.CalledProcessError(code, command)
    return output


def _clean_cache(plans: Path) -> None:
    """Remove what killed processes left: the folder of a parse nobody holds the lock of, and old temporary files."""
    for path in plans.glob(f"{_SCRATCH}*.lock"):
        lock = DatabaseLock(path)
        if lock.acquire():
            shutil.rmtree(path.with_suffix(""), ignore_errors=True)
            _give_up(lock)
    for path in plans.glob(".*"):
        with suppress(OSError):
            if time.time() - path.lstat().st_mtime > TEMPORARY_SECONDS:
                path.unlink()


def _give_up(lock: DatabaseLock) -> None:
    """Of a lock whose file has a name of its own: nobody else will want it, so it need not stay."""
    with suppress(OSError):
        lock.path.unlink(missing_ok=True)
    lock.release()


def _name(fingerprint: str, project_dir: object) -> str:
    """A plan names files of its project: a copy of the project elsewhere has a plan of its own."""
    return hashlib.sha256(f"{fingerprint}\0{project_dir}".encode(errors="replace")).hexdigest()[:32]
