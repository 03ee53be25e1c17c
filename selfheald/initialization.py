"""One initialization, under the database's lock: check again, build on staging, verify, publish, look, marker."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import anyio

from selfheald.attempt import Attempt, RetryRule
from selfheald.catalog import fold
from selfheald.client import file_identity
from selfheald.config import Config
from selfheald.dbt_host import Child, Order, rename_in, run_job
from selfheald.errors import (
    ConcurrentInitializationError,
    InitializationError,
    InitializationTimeoutError,
    from_os_error,
)
from selfheald.from_template import Reuse, place_here
from selfheald.initialization_state import InitializationResult
from selfheald.inspection import Inspection, Tools, adopt, inspect, is_adoptable, look, work_for
from selfheald.locks import DatabaseLock, Holder
from selfheald.log import event_log
from selfheald.marker import Status, log_folder, remove_marker, tick_left
from selfheald.plan import Work
from selfheald.planner import Settings
from selfheald.reproduction import PRIVATE_FILE, reproduction
from selfheald.spare import require_descriptors
from selfheald.staging import (
    KEPT_SECONDS,
    Staging,
    clean_leftovers,
    has_leftovers,
    open_staging,
    require_space,
    write_private,
)
from selfheald.table_checker import copy_in_child
from selfheald.threads import in_stoppable_thread
from selfheald.workspace import Database, Folder, ensure_private_folder, open_folder

#: Seconds between two looks at something that is busy.
BUSY_SECONDS = 0.2
#: Seconds for which finished tables wait for a simulator to close the database, before they are given up.
PUBLISH_PATIENCE_SECONDS = 5.0
#: Seconds for which the live file is looked at after publishing, if a simulator writes to it at once.
CERTIFY_SECONDS = 30.0
#: Seconds that an initialization is said to take where none has been measured yet.
FIRST_ESTIMATE_SECONDS = 5.0


class BusyError(Exception):
    """Another process holds the database, or is writing to it: nothing was changed."""

    def __init__(self, holder: Holder | None) -> None:
        super().__init__("another process holds the database")
        self.holder = holder


class StartOverError(Exception):
    """The database changed meanwhile: nothing was published, look at it anew."""


async def initialize(
    tools: Tools,
    database: Database,
    status: Status,
    *,
    trigger: str,
    attempt: int = 1,
    retry: RetryRule = lambda error: None,
    keep_staging: bool = False,
) -> InitializationResult:
    """Make the missing tables of a database, if they are missing still once its lock is ours.

    A failure is in the result, and written to status, history and log; ``retry`` tells in how many seconds the
    caller will try again. Raises :class:`BusyError` and :class:`StartOverError`, and
    :class:`~selfheald.errors.ConcurrentInitializationError` where another process has the lock: in these cases
    nothing was changed.
    """
    attempted = Attempt(database, status, trigger, attempt, retry, tools.config.history.keep)
    with contextlib.closing(Reuse(tools, database, attempted)) as reuse:
        result = await _initialize(tools, database, attempted, reuse, keep_staging)
        # The marker is there, or never will be: from here on nothing can fail any more.
        await reuse.keep()
    return result


async def _initialize(
    tools: Tools, database: Database, attempted: Attempt, reuse: Reuse, keep_staging: bool
) -> InitializationResult:
    work: _Initialization | None = None
    try:
        _require_usable(database)
        require_descriptors()
        ensure_private_folder(database)
        with DatabaseLock(database.lock) as lock:
            work = _Initialization(tools, database, attempted, lock, reuse, keep_staging)
            return await work.run()
    except ConcurrentInitializationError:
        raise
    except InitializationError as error:
        result = attempted.failed(error)
        if work is not None:  # for the person at the terminal alone, not for the records
            error.hint = "\n".join([error.hint, *work.kept()])
        return result
    except OSError as error:
        return attempted.failed(from_os_error(error, error.filename or database, "use"))
    except anyio.get_cancelled_exc_class():
        attempted.failed(InitializationError("the initialization was interrupted", code="interrupted"))
        raise


def _require_usable(database: Database) -> None:
    """dbt-duckdb takes a path for a URL, and DuckDB turns a backslash into a slash."""
    odd = next((character for character in "#?\\" if character in str(database)), None)
    if odd is not None:
        raise InitializationError(
            f"dbt cannot build in a path with {odd!r} in it: {database}",
            code="unsafe_path",
            path=database,
            hint=f"Rename the folder or file so that its path has no {odd!r}.",
        )


def clean_up(database: Database) -> bool:
    """Remove what killed initializations left; False if somebody is at work there, so that it has to wait."""
    if has_leftovers(database):
        lock = DatabaseLock(database.lock)
        if not lock.acquire():
            return False
        try:
            for leftover in clean_leftovers(database):
                event_log("leftover_removed", f"removed {leftover.name}", database=str(database))
        finally:
            lock.release()
    return True


@dataclass(slots=True)
class _Initialization:
    tools: Tools
    database: Database
    attempt: Attempt
    lock: DatabaseLock
    reuse: Reuse
    keep_staging: bool
    looked: float = 0.0
    deadline: float = 0.0
    told: dict[str, Any] = field(default_factory=dict)
    kept_copy: Path | None = None
    kept_in: Path | None = None
    kept_lines: list[str] = field(default_factory=list)

    async def run(self) -> InitializationResult:
        attempt = self.attempt
        for leftover in clean_leftovers(self.database):
            attempt.log("leftover_removed", f"removed what a killed initialization left: {leftover.name}")
        attempt.begin("check_tables")
        found = await inspect(self.tools, self.database)
        self.looked = time.monotonic()
        if is_adoptable(found):
            attempt.end("check_tables")
            # The marker comes last: whoever sees it, also after a kill in between, finds the status complete.
            result = attempt.completed("adopted")
            if not adopt(self.database, found, answers=attempt.status.record["answers"]):
                raise StartOverError
            return result
        self._require_idle(found)
        attempt.end("check_tables")
        work = work_for(found, self.tools.config)
        attempt.start(
            [table.qualified for table in found.check.to_make],
            len(work.seeds) + len(work.models),
            self.tools.planner.last_seconds() or FIRST_ESTIMATE_SECONDS,
        )
        remove_marker(self.database)
        # The first step that uses dbt has its start in it, so that nobody waits for what no step tells of.
        attempt.hurried = self.reuse.may_concern(found, work)
        attempt.begin("load_seeds" if work.seeds else "build_foundation")
        await self.reuse.look_up(found, work)
        self._require_space(self.reuse.size or 2 * sum(_size(node.path) for node in work.seeds))
        with self._open_staging(found) as staging:
            self.deadline = time.monotonic() + self.tools.config.dbt.timeout
            with self._in_time():
                is_copied = await self.reuse.fetch(found, staging)
            if is_copied:
                attempt.end("load_seeds" if work.seeds else "build_foundation")
                await self._look_twice(found)
                await self._publish_template(found, staging)
            else:
                attempt.take_time()
                await self._make(found, work, staging)
        return await self._certify(found)

    async def _make(self, found: Inspection, work: Work, staging: Staging) -> None:
        """Let dbt make what is missing, and publish it."""
        with log_folder(self.database, self.attempt.attempt_id) as logs:
            inputs = await self._build(found, work, await self._copy_inputs(found, work, staging), staging, logs)
            self._require_space(_size(staging.database))
            await self._look_twice(found)
            await self._publish(found, inputs, staging, logs)
            self.reuse.take(staging)

    async def _publish_template(self, found: Inspection, staging: Staging) -> None:
        """Hand over the tables of the template that staging is a copy of."""
        if found.is_new and not self.tools.apart:
            await self._place(found, staging)
            return
        with log_folder(self.database, self.attempt.attempt_id) as logs:
            if found.is_new:
                await self._place(found, staging, logs)
            else:
                await self._publish(found, [], staging, logs)

    async def _place(self, found: Inspection, staging: Staging, logs: Folder | None = None) -> None:
        """Give the finished file in staging its path: in a child, where there are ``logs`` for one, or here."""
        self.attempt.begin("publish")
        if logs is None:
            with self._in_time():
                answer = await in_stoppable_thread(partial(place_here, self.database, staging, self.lock.fileno()))
        else:
            job = {"job": "place", "staging": str(staging.database), "database": str(self.database)}
            with open_folder(self.database.folder) as live:
                answer = await self._child(job, found.settings, staging, logs, Folder(self.database.folder, live))
        if answer["outcome"] == "busy":
            raise BusyError(None)
        if answer["outcome"] == "changed":
            raise StartOverError
        self.attempt.end("publish")

    @contextmanager
    def _in_time(self) -> Iterator[None]:
        """The limit of the whole initialization for what is done here: a disk can let a thread hang."""
        limit = self.tools.config.dbt.timeout
        try:
            with anyio.fail_after(max(0.05, self.deadline - time.monotonic())):
                yield
        except TimeoutError:
            raise InitializationTimeoutError(
                f"a template was not in place after {limit:g} s",
                timeout_seconds=limit,
                elapsed_seconds=time.monotonic() - self.deadline + limit,
                path=self.database,
            ) from None

    @contextmanager
    def _open_staging(self, found: Inspection) -> Iterator[Staging]:
        """As :func:`open_staging`; what is to be kept for a person is noted for :meth:`kept`."""
        with open_staging(self.database, keep_on_error=self.keep_staging) as staging:
            try:
                yield staging
            except InitializationError:
                if self.keep_staging:
                    self.kept_in = staging.kept
                    self.kept_lines = self._describe_kept(found, staging)
                raise

    def kept(self) -> list[str]:
        """The lines that tell a person of a kept staging folder: none if it was not to be kept, or could not be."""
        return self.kept_lines if self.kept_in is not None and self.kept_in.is_dir() else []

    def _describe_kept(self, found: Inspection, staging: Staging) -> list[str]:
        days = KEPT_SECONDS / 86400
        first = f"Staging is kept in {staging.kept}, until the next success or for {days:.0f} days"
        if not self.told:
            return [f"{first}."]
        told = rename_in(self.told, {str(staging.folder): str(staging.kept)})
        dbt, settings = self.tools.config.dbt, found.settings
        again = reproduction(
            told,
            python=settings.python,
            database=staging.kept / staging.database.name,
            extra={name: settings.environment[name] for name in dbt.env if name in settings.environment},
            variables=settings.variables,
        )
        if again.private is not None:
            write_private(staging, PRIVATE_FILE, again.private)
        return [f"{first}. What dbt did there:", again.line]

    def _on_event(self, event: dict[str, Any]) -> None:
        if event["event"] == "command":
            self.told = event
        else:
            self.attempt.on_event(event)

    async def _look_twice(self, found: Inspection) -> None:
        """Look again at a file that was of zero bytes: whoever makes a database shows one for a moment.

        What is made is private until it is published, so that it need not wait for this.
        """
        if found.reading.empty:
            await anyio.sleep(max(0.0, self.looked + self.tools.config.watch.settle - time.monotonic()))
            again = await look(self.tools, self.database, found.plan, found.settings)
            if again.reading.identity != found.reading.identity:
                raise BusyError(again.reading.holder)

    def _require_space(self, staging_bytes: int) -> None:
        minimum = self.tools.config.limits.min_free_bytes
        require_space(self.database.folder, minimum=minimum, staging_bytes=staging_bytes)

    def _require_idle(self, found: Inspection) -> None:
        """Raise unless this is a database whose missing tables can be made now."""
        if found.check.complete or not found.reading.certain:
            raise BusyError(found.reading.holder)
        if found.check.error is not None:
            raise found.check.error
        if found.reading.holder is not None:
            raise BusyError(found.reading.holder)

    async def _copy_inputs(self, found: Inspection, work: Work, staging: Staging) -> list[dict[str, Any]]:
        """Copy existing tables that missing ones are built from; they must be of the file as it was checked.

        Returns the ``inputs`` of the job that builds.
        """
        if not work.inputs:
            return []
        copy = partial(
            copy_in_child,
            self.database.path,
            staging.database,
            list(work.inputs),
            folder=staging.held,
            storage_version=self.tools.config.dbt.storage_version,
            max_bytes=self.tools.config.limits.max_input_bytes,
            timeout=self.tools.config.dbt.timeout,
        )
        copied = await in_stoppable_thread(copy)
        if copied["identity"] != found.reading.identity:
            raise StartOverError
        defined = zip(work.inputs, copied["definitions"], strict=True)
        return [{"schema": schema, "name": name, "definition": sql} for (schema, name), sql in defined]

    async def _build(
        self, found: Inspection, work: Work, inputs: list[dict[str, Any]], staging: Staging, logs: Folder
    ) -> list[dict[str, Any]]:
        """Let dbt make what is missing; what the tables were that it was made from."""
        dbt = self.tools.config.dbt
        answer = await self._child(
            {
                "job": "build",
                **found.settings.job(self.tools.config),
                "seeds": [node.unique_id for node in work.seeds],
                "models": [node.unique_id for node in work.models],
                "inputs": inputs,
                "judge_reuse": self.reuse.wants_proof(),
                "declared": self.reuse.declared(),
                "storage_version": dbt.storage_version,
                "pre_sql": dbt.pre_sql,
                "work_dir": str(staging.work),
                "database": str(staging.database),
                "partial_parse": str(self.tools.planner.saved_parse(found.plan)),
            },
            found.settings,
            staging,
            logs,
        )
        self.kept_copy = await self.reuse.judge(answer, staging)
        return list(answer["inputs"])

    async def _publish(self, found: Inspection, inputs: list[dict[str, Any]], staging: Staging, logs: Folder) -> None:
        """Hand the tables over, waiting a little for a simulator that has the database open just now."""
        patience = time.monotonic() + PUBLISH_PATIENCE_SECONDS
        identity = None if found.is_new else found.reading.identity
        while True:
            self.attempt.begin("verify")
            job = _publish_job(self.database, found, inputs, staging, self.tools.config)
            # Of a file that was written since, only the rows themselves tell whether its tables are what was copied.
            job |= {"identity": identity, "compare_inputs": identity != found.reading.identity}
            job["keep"] = None if self.kept_copy is None else str(self.kept_copy)
            with open_folder(self.database.folder) as live:
                answer = await self._child(job, found.settings, staging, logs, Folder(self.database.folder, live))
            if answer["outcome"] == "published":
                for name, kept in answer["kept"].items():
                    self.attempt.kept(name, kept)
                return
            if time.monotonic() > patience:
                raise BusyError(None)
            await anyio.sleep(BUSY_SECONDS)
            if answer["outcome"] == "changed":
                self.attempt.log("database_changed", f"it changed meanwhile: {answer.get('message')}", level="DEBUG")
                identity = await self._same_work(found)

    async def _same_work(self, found: Inspection) -> dict[str, Any] | None:
        """The file's identity now, if it still lacks just what was built; else all is to be begun anew."""
        now = await look(self.tools, self.database, found.plan, found.settings)
        same = now.check.to_make == found.check.to_make and now.check.error is None and now.is_new == found.is_new
        if not same or not now.reading.certain:
            raise StartOverError
        return None if now.is_new else now.reading.identity

    async def _certify(self, built: Inspection) -> InitializationResult:
        """Look at the live file, and write the marker if it holds what it should."""
        attempt = self.attempt
        result: InitializationResult | None = None
        until = time.monotonic() + CERTIFY_SECONDS
        while True:
            await self._let_a_tick_pass()
            found = await look(self.tools, self.database, built.plan, built.settings)
            missing = {table.qualified for table in found.check.to_make}
            if found.reading.certain and not found.check.complete:
                raise found.check.error or InitializationError(
                    f"after publishing these are missing: {', '.join(sorted(missing))}",
                    code="verification_failed",
                    step="publish",
                    path=self.database,
                    missing_tables=sorted(missing),
                )
            if found.reading.certain:
                if result is None:
                    attempt.created = [name for name in attempt.missing if name not in missing]
                    attempt.origin = self.reuse.origin
                    # The marker comes last: whoever sees it finds the status complete.
                    result = attempt.completed("initialized")
                    if self.reuse.origin == "dbt":
                        self.tools.planner.remember_seconds(result.duration_seconds)
                answers, origin = attempt.status.record["answers"], self.reuse.origin
                if adopt(self.database, found, answers=answers, origin=origin, initialized_at=time.time()):
                    return result
            if time.monotonic() > until:
                raise StartOverError
            await anyio.sleep(BUSY_SECONDS / 4)

    async def _let_a_tick_pass(self) -> None:
        """A look at what was written just now could certify nothing: wait for the moment from which on one can."""
        identity = file_identity(self.database.path)
        if identity is not None:
            await anyio.sleep(min(tick_left(identity, time.time()), BUSY_SECONDS))

    async def _child(
        self, job: dict[str, Any], settings: Settings, staging: Staging, logs: Folder, *others: Folder
    ) -> dict[str, Any]:
        async def start(order: Order) -> Child:
            """Start the child; its time begins only then."""
            began = time.monotonic()
            child = await self.tools.start(order)
            self.deadline += time.monotonic() - began
            return child

        return await run_job(
            {**job, "log_dir": str(logs.path), "log_file": str(logs.path / f"{job['job']}.log")},
            python=settings.python,
            environment=settings.environment,
            timeout=max(0.05, self.deadline - time.monotonic()),
            on_event=self._on_event,
            locks=(self.lock.fileno(),),
            folders=(staging.held, logs, *others),
            start=start,
        )


def _publish_job(
    database: Database, found: Inspection, inputs: list[dict[str, Any]], staging: Staging, config: Config
) -> dict[str, Any]:
    tables = []
    there = {(fold(each.schema), fold(each.name)): each for each in found.reading.relations}
    for table in found.check.to_make:
        node = found.plan.nodes[table.unique_id]
        seed = {"path": node.path, "delimiter": node.delimiter} if node.resource_type == "seed" else None
        replaces = None
        if table in found.check.outdated:
            old = there[fold(table.schema), fold(table.name)]
            replaces = {"columns": list(map(list, old.columns)), "kept_as": set_aside_name(old.name, time.time())}
        tables.append(
            {
                "schema": table.schema,
                "name": table.name,
                "columns": [list(column) for column in table.columns],
                "contract": node.contract,
                "seed": seed,
                "replaces": replaces,
            }
        )
    return {
        "job": "publish",
        "staging": str(staging.database),
        "database": str(database),
        "mode": "create" if found.is_new else "graft",
        "tables": tables,
        "inputs": inputs,
        "storage_version": config.dbt.storage_version,
    }


def set_aside_name(name: str, now: float) -> str:
    """The name under which an old table is kept that was made anew ``now`` (seconds since the epoch)."""
    return f"{name}__before_{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(now))}"


def _size(path: str | Path) -> int:
    try:
        return Path(path).stat().st_size
    except OSError:
        return 0
