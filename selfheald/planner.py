"""Obtains the plan: from memory, from the plan cache, or by letting dbt parse the project in a child process."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import anyio

from selfheald.config import Config, child_environment, render
from selfheald.config_values import has_placeholder
from selfheald.dbt_host import Starter, run_job, start_child
from selfheald.errors import InitializationError, from_os_error, is_shortage
from selfheald.locks import DatabaseLock
from selfheald.plan import PLAN_FORMAT, Plan, make_plan, plan_from_json
from selfheald.project import ANY, Fingerprints, Source, environment_in, fingerprint
from selfheald.recent import Recent
from selfheald.threads import run_in_thread
from selfheald.variables import ask_for_variables, variables_given
from selfheald.workspace import Database, write_atomically

#: Seconds for which a fingerprint counts as fresh: so many checks at once look at the project's files only once.
FRESH_SECONDS = 1.0
#: Seconds for which a project that dbt refused is not tried again unless it has changed.
FAILURE_SECONDS = 2.0
#: Seconds for which its answer is used again, unless somebody asks for that database.
VARS_FRESH_SECONDS = 60.0
#: Plans that the cache holds; a project changes now and then, and several daemons may share it.
KEPT_PLANS = 20
#: Of so many projects, plans and failures the latest are kept in memory.
REMEMBERED = 200
#: Of so many databases the last answer of dbt.vars_command.
REMEMBERED_ANSWERS = 10_000
#: So many databases' own variables are tried before a refusal is taken for the project's.
TRIED_VARIABLES = 3
#: Seconds that a parse may take where dbt.timeout is shorter: a project is parsed once, not for each database.
PARSE_SECONDS = 300.0
#: Seconds after which a temporary file was left by a process that was killed: writing one takes a moment.
TEMPORARY_SECONDS = 3600.0

#: So often is a project read again that changes while dbt reads it.
CHANGING_TRIES = 2

_SCRATCH = "parse-"


@dataclass(frozen=True, slots=True)
class Settings:
    """What dbt is to run with for one database: the part of every job that doesn't depend on the work.

    ``inert`` are the variables that the project's parse doesn't depend on.
    """

    project_dir: Path
    profiles_dir: Path | None
    python: str
    variables: Mapping[str, Any]
    environment: Mapping[str, str]
    inert: frozenset[str] = frozenset()

    def job(self, config: Config) -> dict[str, Any]:
        """The keys that all dbt jobs share."""
        return {
            "project_dir": str(self.project_dir),
            "profiles_dir": None if self.profiles_dir is None else str(self.profiles_dir),
            "target": config.dbt.target,
            "vars": dict(self.variables),
            "inert_vars": sorted(self.inert),
            "threads": config.dbt.threads,
        }


@dataclass(frozen=True, slots=True)
class _Keys:
    """What a plan is known by: ``whole`` covers all that counts for a database, ``parse`` what dbt's parse sees."""

    whole: str
    parse: str


@dataclass(slots=True)
class _Failure:
    """Why a project was refused, when, and with which variables that was tried."""

    error: InitializationError
    at: float
    tried: set[str]


class Planner:
    """Keeps the plans of one configuration. Not for use from several threads at once.

    With ``keep`` false the plan cache is read, and never written to: it may belong to the service's user. ``start``
    starts the child in which dbt parses.
    """

    def __init__(
        self,
        config: Config,
        *,
        announce: Callable[[str], None] = lambda message: None,
        keep: bool = True,
        start: Starter = start_child,
    ) -> None:
        self.config = config
        self._start = start
        self.announce = announce
        self._keeps = keep
        # The folder of the service may itself be a link, as with systemd; in what lies below none is followed.
        self._folder = Path(os.path.realpath(config.state_dir)) / "plans"
        #: Counts the changes of projects that were seen.
        self.changes = 0
        self._fingerprints = Fingerprints()
        self._sources: Recent[tuple[Path, Path | None], tuple[float, Source]] = Recent(REMEMBERED_ANSWERS)
        self._inert: Recent[tuple[str, str], frozenset[str]] = Recent(REMEMBERED)
        self._plans: Recent[str, Plan] = Recent(REMEMBERED)
        self._failures: Recent[str, _Failure] = Recent(REMEMBERED)
        self._asked: Recent[Path, tuple[float, dict[str, Any]]] = Recent(REMEMBERED_ANSWERS)
        self._turn = anyio.Lock()

    async def settings_for(self, database: Database, *, fresh: bool = False) -> Settings:
        """dbt's settings for this database: placeholders filled in, and what ``dbt.vars_command`` said of late."""
        dbt = self.config.dbt
        filled = {
            name: render(getattr(dbt, name), database.workspace, database.path)
            for name in ("project_dir", "profiles_dir", "env", "vars_command")
        }
        environment = child_environment(filled["env"])
        variables = variables_given(dbt.vars, database)
        if filled["vars_command"]:
            known = self._asked.get(database.path)
            if known is None or fresh or time.monotonic() - known[0] > VARS_FRESH_SECONDS:
                answer = await ask_for_variables(filled["vars_command"], database, environment)
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
        tries = 0
        while True:
            tries += 1
            source, settings, keys = await self._settings_and_keys(database, fresh)
            async with self._turn:
                name = _name(keys.parse, settings.project_dir)
                known = self._plans.get(name) or self._kept(keys.parse, settings)
                plan = known or await self._parsed(keys, settings, fresh)
                # Of one that changes while dbt reads it, it may be the plan of what it was not when the key was made.
                is_its_own = known is not None or await self._is_still(source, settings)
                if is_its_own:
                    self._plans[name] = plan
                    if known is None and self._keeps:
                        self._keep(plan)
            if is_its_own or tries == CHANGING_TRIES:
                return replace(plan, fingerprint=keys.whole), settings

    async def fingerprint_for(self, database: Database, *, fresh: bool = False) -> str:
        """The fingerprint of the plan that holds for this database, which needs no dbt even where the plan does."""
        return (await self._settings_and_keys(database, fresh))[2].whole

    async def look_at_projects(self, databases: Iterable[Database]) -> None:
        """Let :attr:`changes` count what has changed in the projects of these databases."""
        dbt = self.config.dbt
        if not any(has_placeholder(str(path)) for path in (dbt.project_dir, dbt.profiles_dir)):
            databases = list(islice(databases, 1))
        environment = child_environment(dbt.env)
        for database in databases:
            project_dir, profiles_dir = (
                render(path, database.workspace, database.path) for path in (dbt.project_dir, dbt.profiles_dir)
            )
            with suppress(InitializationError):  # whoever needs it will hear of it
                async with self._turn:
                    await self._source(Settings(project_dir, profiles_dir, str(dbt.python), {}, environment), True)

    def saved_parse(self, plan: Plan) -> Path:
        """Where dbt's own parse of that project is kept, so that the next process parses only what changed."""
        return self._folder / f"{_name(plan.parse_key, plan.project_dir)}.msgpack"

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

    async def _settings_and_keys(self, database: Database, fresh: bool) -> tuple[Source, Settings, _Keys]:
        settings = await self.settings_for(database, fresh=fresh)
        async with self._turn:
            source = await self._source(settings, fresh)
            inert = await self._inert_in(source, settings)
        return source, replace(settings, inert=inert), self._keys(source, settings, inert)

    async def _source(self, settings: Settings, fresh: bool) -> Source:
        place = (settings.project_dir, settings.profiles_dir)
        known = self._sources.get(place)
        if known is not None and not fresh and time.monotonic() - known[0] < FRESH_SECONDS:
            return known[1]

        def read() -> Source:
            return self._fingerprints.read(
                settings.project_dir,
                profiles_dir=settings.profiles_dir,
                python=settings.python,
                search_path=settings.environment.get("PYTHONPATH"),
            )

        try:
            source = await run_in_thread(read)
        except InitializationError:
            self.changes += known is not None
            self._sources.pop(place, None)
            raise
        self.changes += known is not None and known[1].digest != source.digest
        self._sources[place] = (time.monotonic(), source)
        return source

    async def _is_still(self, source: Source, settings: Settings) -> bool:
        """True if the project is what it was when it was looked at."""
        return (await self._source(settings, True)).digest == source.digest

    async def _inert_in(self, source: Source, settings: Settings) -> frozenset[str]:
        """The variables that the project's parse does not depend on."""
        if not settings.variables:
            return frozenset()
        # Of a value its Jinja counts, which dbt renders.
        kinds = {
            name: str(each) if "{" in str(each) else type(each).__name__ for name, each in settings.variables.items()
        }
        key = (source.digest, json.dumps(kinds))
        inert = self._inert.get(key)
        if inert is None:

            def judge() -> frozenset[str]:
                from selfheald.inert_variables import inert_variables  # with Jinja and YAML, which few need

                try:
                    return inert_variables(source.texts(), settings.variables)
                except OSError:
                    return frozenset()  # it is being changed

            inert = await run_in_thread(judge)
            if not await self._is_still(source, settings):
                return frozenset()  # what was judged may be what it is now
            self._inert[key] = inert
        return inert

    def _keys(self, source: Source, settings: Settings, inert: frozenset[str]) -> _Keys:
        dbt, required = self.config.dbt, self.config.required
        # dbt renders the values of variables, too.
        wanted = source.environment.union(*(environment_in(str(value)) for value in settings.variables.values()))
        asked = {name for name in settings.environment if name in wanted or name.startswith("DBT_")}
        given = dbt.env.keys() & settings.environment.keys()
        seen = asked | given if ANY in wanted else asked
        shared = {
            "target": dbt.target,
            "select": required.select,
            "tables": [table.model_dump() for table in required.tables],
            "database": self.config.watch.database,
            "plan_format": PLAN_FORMAT,
        }

        def key(variables: dict[str, Any], environment: Iterable[str]) -> str:
            values = {name: settings.environment[name] for name in sorted(environment)}
            return fingerprint(source, {**shared, "vars": variables, "env": values})

        variables = dict(settings.variables)
        # Of an inert one it counts that it is there: dbt refuses a project that asks for one that is not.
        kinds = {name: {"inert": type(value).__name__} for name, value in variables.items() if name in inert}
        return _Keys(key(variables, asked | given), key({**variables, **kinds}, seen))

    def _kept(self, key: str, settings: Settings) -> Plan | None:
        path = self._folder / f"{_name(key, settings.project_dir)}.json"
        try:
            plan = plan_from_json(json.loads(path.read_text()))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return plan if plan.parse_key == key else None

    async def _parsed(self, keys: _Keys, settings: Settings, fresh: bool) -> Plan:
        name = _name(keys.parse, settings.project_dir)
        failed = self._failures.get(name)
        if failed is not None:
            # It may be the fault of one database's own variables, which others need not have.
            others = keys.whole not in failed.tried and len(failed.tried) < TRIED_VARIABLES
            if not others and not (fresh and time.monotonic() - failed.at > FAILURE_SECONDS):
                raise copy.copy(failed.error)  # whoever catches it adds the path of his own database
        self.announce("Reading the dbt project…")
        try:
            try:
                plan = await self._parse(keys.parse, settings, keep=self._keeps)
            except InitializationError as error:
                if not self._keeps or not _is_of_the_cache(error):
                    raise
                # The plan cache spares time, no more: where it cannot be used the project is read elsewhere.
                plan = await self._parse(keys.parse, settings, keep=False)
        except InitializationError as error:
            if not error.retryable:
                tried = set() if failed is None else failed.tried
                self._failures[name] = _Failure(error, time.monotonic(), {*tried, keys.whole})
            raise
        self._failures.pop(name, None)
        return plan

    async def _parse(self, key: str, settings: Settings, *, keep: bool) -> Plan:
        """Let dbt read the project: in the plan cache, to ``keep`` what it makes, or in a temporary folder."""
        required = self.config.required
        saved = self._folder / f"{_name(key, settings.project_dir)}.msgpack"
        try:
            with self._scratch(keep=keep) as (folder, lock):
                log_folder = (self._folder if keep else folder) / "logs"
                log_folder.mkdir(exist_ok=True)
                if keep:
                    self._begin_with_latest(saved, settings.project_dir, folder)
                answer = await run_job(
                    {
                        "job": "plan",
                        **settings.job(self.config),
                        "select": list(required.select) if not required.tables else [],
                        "tables": [table.select for table in required.tables],
                        "work_dir": str(folder),
                        "database": str(folder / self.config.watch.database),
                        "partial_parse": str(saved) if keep else None,
                        "log_dir": str(log_folder),
                        "log_file": str(log_folder / "plan.log"),
                    },
                    python=settings.python,
                    environment=settings.environment,
                    timeout=max(self.config.dbt.timeout, PARSE_SECONDS),
                    locks=() if lock is None else (lock.fileno(),),
                    start=self._start,
                )
        except OSError as error:
            raise from_os_error(error, error.filename or self._folder, "use") from error
        return make_plan(
            answer,
            fingerprint=key,
            project_dir=str(settings.project_dir),
            select=required.select,
            explicit=[table.model_dump() for table in required.tables],
        )

    def _begin_with_latest(self, saved: Path, project_dir: Path, scratch: Path) -> None:
        """Let dbt begin with its last parse of that project: it finds out by itself what of it has changed."""
        with suppress(OSError, ValueError):
            found = [path for path in self._folder.glob(f"{_place(project_dir)}-*.msgpack") if path != saved]
            if not saved.exists():
                latest = max(found, key=lambda path: path.stat().st_mtime)
                shutil.copyfile(latest, scratch / saved.name).replace(saved)

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
            path = self._folder / f"{_name(plan.parse_key, plan.project_dir)}.json"
            write_atomically(path, json.dumps(plan.to_json()), durable=False)
            others = (found for found in self._folder.glob("*.json") if found != path)
            plans = sorted(others, key=lambda found: found.stat().st_mtime)
            for old in plans[: 1 - KEPT_PLANS]:
                old.unlink(missing_ok=True)
                old.with_suffix(".msgpack").unlink(missing_ok=True)


def _is_of_the_cache(error: InitializationError) -> bool:
    """True if a parse may have failed for want of room or rights in the plan cache, or of the folder itself."""
    of_ours = isinstance(error.__cause__, OSError) and not is_shortage(error)
    return of_ours or error.code in ("disk_full", "permission_denied")


def _clean_cache(plans: Path) -> None:
    """Remove what killed processes left (the folder of a parse nobody holds the lock of, old temporary files), and all
    but the latest parses."""
    for path in plans.glob(f"{_SCRATCH}*.lock"):
        lock = DatabaseLock(path)
        if lock.acquire():
            shutil.rmtree(path.with_suffix(""), ignore_errors=True)
            _give_up(lock)
    with suppress(OSError):  # another process may clean up too
        parses = sorted((path.stat().st_mtime, path) for path in plans.glob("*.msgpack"))
        for _, path in parses[:-KEPT_PLANS]:  # also of projects that gave no plan
            path.unlink(missing_ok=True)
    for path in plans.glob(".*"):
        with suppress(OSError):
            if time.time() - path.lstat().st_mtime > TEMPORARY_SECONDS:
                path.unlink()


def _give_up(lock: DatabaseLock) -> None:
    """Of a lock whose file has a name of its own: nobody else will want it, so it need not stay."""
    with suppress(OSError):
        lock.path.unlink(missing_ok=True)
    lock.release()


def _name(key: str, project_dir: object) -> str:
    """A plan names files of its project: a copy of the project elsewhere has a plan of its own."""
    return f"{_place(project_dir)}-{hashlib.sha256(key.encode()).hexdigest()[:24]}"


def _place(project_dir: object) -> str:
    return hashlib.sha256(str(project_dir).encode(errors="replace")).hexdigest()[:12]
