"""What one initialization has to do with templates: it is made from one, or leaves one, or neither.

Whatever is wrong with the store or a template is logged, and dbt builds as if there were none.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any, TypeVar

import anyio

from selfheald.attempt import Attempt
from selfheald.catalog import judge
from selfheald.child.placing.place_job import place
from selfheald.child.placing.refusals import JobError
from selfheald.config import Config
from selfheald.errors import InitializationError, from_os_error
from selfheald.figures import TemplateEvent
from selfheald.file_copy import StoppedError
from selfheald.inspection import Inspection, Tools
from selfheald.locks import DatabaseLock
from selfheald.plan import Plan, Work
from selfheald.planner import Settings
from selfheald.reuse_outlook import foretell_reuse
from selfheald.staging import Staging
from selfheald.template_key import TemplateKey, UnkeyedError, template_key
from selfheald.templates import Entry, StoreError, TemplateStore
from selfheald.threads import in_stoppable_thread, run_in_thread
from selfheald.workspace import Database, Folder, open_folder

Result = TypeVar("Result")

#: Seconds between two looks whether another process has made the template.
_LOOK_SECONDS = 0.05
#: The published file once more, in the staging folder.
_KEPT_COPY = "template.duckdb"
#: So many templates are tried: one that is damaged may have been made anew by another process.
_TRIES = 2
#: What a file system refuses that has no room.
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Reuse:
    """The templates as one initialization meets them. To be closed in the end.

    ``origin`` is what the marker will say of how the database was made.
    """

    def __init__(self, tools: Tools, database: Database, attempt: Attempt) -> None:
        self._tools = tools
        self._database = database
        self._attempt = attempt
        self._store = store_of(tools.config, tools.figures.template)
        self._key: TemplateKey | None = None
        self._entry: Entry | None = None
        self._lock: DatabaseLock | None = None
        self._copy: int | None = None
        self._proved = False
        self.origin = "dbt"

    def close(self) -> None:
        """Let others go on who wait for the template of this key, whether there is one or not."""
        lock, self._lock = self._lock, None
        copy, self._copy = self._copy, None
        if lock is not None:
            lock.release()
        if copy is not None:
            os.close(copy)

    def may_concern(self, found: Inspection, work: Work) -> bool:
        """True if this database could be made from a template."""
        return why_never(self._tools.config, found, work) is None

    async def look_up(self, found: Inspection, work: Work) -> None:
        """Find the template for this database; wait for it, within ``dbt.timeout``, where another process makes it."""
        if not self.may_concern(found, work):
            return
        try:
            self._key = await self._key_of(found.plan, found.settings)
            self._entry = await self._find()
            if self._entry is None:
                self._tools.figures.template("miss")
                if found.is_new:
                    await self._await_turn()
        except UnkeyedError as error:
            self._attempt.log("template_unusable", f"no template: {error}", level="DEBUG")
        except (StoreError, OSError, InitializationError) as error:
            self._give_up(error)
        if self._entry is not None and _refusal(self._entry, self._tools.config) is not None:
            self._key = self._entry = None

    @property
    def size(self) -> int | None:
        """The size of the template that was found, in bytes."""
        return None if self._entry is None else self._entry.size

    async def fetch(self, found: Inspection, staging: Staging) -> bool:
        """Let staging be a verified copy of the template; False if there is none, so that dbt has to build.

        The step that runs is the copying; verifying is one of its own. Raises ``disk_full`` where the database's file
        system has no room for it.
        """
        for _ in range(_TRIES):
            if self._entry is None:
                break
            if await self._copy_of(self._entry, found, staging):
                return True
            self._entry = None
            if self._key is not None and found.is_new:  # it is to be made anew, by us or by who is faster
                try:
                    await self._await_turn()
                except (StoreError, OSError, InitializationError) as error:
                    self._give_up(error)
        return False

    async def _copy_of(self, entry: Entry, found: Inspection, staging: Staging) -> bool:
        name, step = staging.database.name, self._attempt.status.running()
        assert step is not None
        try:
            await _with_own(staging.lock, partial(self._store.copy, entry, name))
            self._attempt.end(step)
            self._attempt.begin("verify")
            if await self._is_whole(found, staging, entry):
                self._attempt.end("verify")
                self.origin = "template"
                self._tools.figures.template("hit")
                self._attempt.log("template_used", f"made from a template of {entry.created_at}, without dbt")
                return True
        except OSError as error:
            if error.errno in _FULL:
                raise from_os_error(error, staging.database, "write") from error
            self._give_up(error)
        except StoreError as error:
            self._attempt.log("template_unusable", f"the template cannot be used: {error}", level="WARNING")
        self._attempt.begin_again(step)
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=staging.lock)
        return False

    async def _is_whole(self, found: Inspection, staging: Staging, entry: Entry) -> bool:
        """True if the copy holds what is required; it has the template's digest, so one is read for all of them."""
        known = (entry.key, entry.digest)
        if known in self._tools.templates_read:
            return True
        reading = await self._tools.read(staging.database)
        check = judge(reading, found.plan.required, staging.database)
        if check.complete and reading.certain:
            self._tools.templates_read.add(known)
            return True
        if reading.certain:
            why = str(check.error or "required tables are not in it")
            await run_in_thread(partial(self._store.discard, entry, why))
        return False

    def wants_proof(self) -> bool:
        """True if what dbt makes is to be kept, if that is proved to be the same each time."""
        return self._lock is not None and self._tools.config.templates.mode == "auto"

    def declared(self) -> list[str]:
        """The ``declared`` of the job that builds: files whose content the key covers."""
        return [] if self._key is None else list(self._key.files)

    async def judge(self, answer: Mapping[str, Any], staging: Staging) -> Path | None:
        """Where the publishing is to leave a copy of the finished file, if that may serve for others.

        ``answer`` is that of the job that built.
        """
        mode = self._tools.config.templates.mode
        verdict = answer.get("reuse")
        if self._key is None or self._lock is None:
            return None
        self._proved = isinstance(verdict, dict) and bool(verdict.get("usable"))
        if not self._proved and mode != "on":
            if isinstance(verdict, dict):
                why = str(verdict.get("why") or "the models are not proved to give the same again")
                self._attempt.log("template_unusable", f"no template is kept: {why}", level="DEBUG")
                with suppress(StoreError, OSError):
                    await run_in_thread(partial(self._store.refuse, self._key.text, why))
            self.close()
            return None
        if _size(staging.database) > self._tools.config.templates.max_bytes:
            return None
        return staging.folder / _KEPT_COPY

    def take(self, staging: Staging) -> None:
        """Hold on to the copy that the publishing has left, whatever becomes of the staging folder."""
        with suppress(OSError):
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
            self._copy = os.open(_KEPT_COPY, flags, dir_fd=staging.lock)

    async def keep(self) -> None:
        """Keep the copy as a template, if all that it was made from is still what it was. Raises nothing."""
        if self._copy is None or self._key is None:
            return
        try:
            plan, settings = await self._tools.planner.plan_and_settings(self._database, fresh=True)
            now = await self._key_of(plan, settings)
            if now != self._key:
                self._attempt.log("template_not_kept", "no template is kept: what it was made from has changed")
                return
            keep = partial(
                self._store.keep,
                self._key.text,
                tables=[table.qualified for table in plan.required],
                proved=self._proved,
                versions=plan.versions,
            )
            kept = await _with_own(self._copy, keep)
            if kept:
                self._tools.figures.template("built")
            message = "kept as a template" if kept else "there is no room for a template"
            self._attempt.log("template_kept" if kept else "template_not_kept", message)
        except (UnkeyedError, StoreError, OSError, InitializationError) as error:
            self._attempt.log("template_not_kept", f"no template is kept: {error}", level="WARNING")

    async def _key_of(self, plan: Plan, settings: Settings) -> TemplateKey:
        make = partial(template_key, self._tools.config, self._database, plan, settings, self._tools.digests)
        return await run_in_thread(make)

    async def _find(self) -> Entry | None:
        assert self._key is not None
        entry = await run_in_thread(partial(self._store.find, self._key.text))
        # A template that a person vouched for is none where proof is wanted, and the other way round a refusal.
        return None if entry is not None and _is_for_another_mode(entry, self._tools.config) else entry

    async def _await_turn(self) -> None:
        """Be the one process that makes this template, or find it made by another."""
        assert self._key is not None
        lock = await run_in_thread(partial(self._store.lock, self._key.text))
        until, waits = time.monotonic() + self._tools.config.dbt.timeout, False
        while not await run_in_thread(lock.acquire):
            if not waits:
                waits = True
                self._attempt.take_time()
                self._attempt.log("template_awaited", "another process builds the same: its template is waited for")
            if time.monotonic() > until:
                self._attempt.log("template_awaited", "the other process takes too long", level="WARNING")
                return
            await anyio.sleep(_LOOK_SECONDS)
        self._lock = lock
        self._entry = await self._find()
        if self._entry is not None:
            self._lock = None
            lock.release()

    def _give_up(self, error: Exception) -> None:
        self._key = self._entry = None
        self.close()
        self._attempt.log("template_unusable", f"dbt builds, since no template can be used: {error}", level="WARNING")


def place_here(database: Database, staging: Staging, lock: int, stop: Event) -> dict[str, Any]:
    """Put the finished file in its place, from this thread: only in a process that never has the database open.

    The database's ``lock`` stays locked until this is done, also where nobody waits for it any more. Raises
    :class:`InitializationError`.
    """
    held = os.dup(lock)
    try:
        with open_folder(database.folder) as live:
            folders = [Folder(database.folder, live), staging.held]
            # With a dot behind it a folder's fixed path is no link to whoever looks at its last name.
            paths = [f"{folder.fixed}/./{database.path.name}" for folder in folders]
            if stop.is_set():
                return {"outcome": "changed", "message": "it is not wanted any more"}
            try:
                return place({"staging": paths[1], "database": paths[0]}, lambda event: None)
            except JobError as error:
                named = f"{folders[0].fixed}/.", str(database.folder)
                raise InitializationError(
                    error.message.replace(*named),
                    code=error.code,
                    hint=error.hint,
                    path=error.path and error.path.replace(*named),
                    step=error.step,
                ) from error
            except OSError as error:
                raise from_os_error(error, database, "make") from error
    finally:
        os.close(held)


@dataclass(frozen=True, slots=True)
class Prospect:
    """What a dry run says of templates."""

    usable: bool
    why: str | None

    def as_dict(self) -> dict[str, Any]:
        """The ``template`` of ``ensure --dry-run --json``."""
        return {"usable": self.usable, "why": self.why}


async def foresee(tools: Tools, database: Database, found: Inspection, work: Work) -> Prospect:
    """Whether a template would be used, and if not, why not, and whether one would be left. Changes nothing.

    Where there is none yet and only a proof could let one be kept, dbt is asked for the SQL, which takes it seconds.
    """
    config = tools.config
    never = why_never(config, found, work)
    if never is not None:
        return Prospect(False, never)
    try:
        key = await run_in_thread(partial(template_key, config, database, found.plan, found.settings, tools.digests))
        entry = await run_in_thread(partial(store_of(config).find, key.text))
    except (UnkeyedError, StoreError) as error:
        return Prospect(False, str(error))
    if entry is not None and not _is_for_another_mode(entry, config):
        refusal = _refusal(entry, config)
        return Prospect(refusal is None, refusal or f"there is one of {entry.created_at}")
    if not found.is_new:
        return Prospect(False, "there is none yet, and one is kept only of a database that is made anew")
    if config.templates.mode == "auto":
        saved = tools.planner.saved_parse(found.plan)
        verdict = await foretell_reuse(
            config, found.settings, work, declared=key.files, saved_parse=saved, start=tools.start
        )
        if not verdict["usable"]:
            return Prospect(False, str(verdict["why"]))
    return Prospect(False, "there is none yet; this initialization would leave one")


def why_never(config: Config, found: Inspection, work: Work) -> str | None:
    """Why no template is of use to this database, whatever there is; ``None`` if one could be."""
    if config.templates.mode == "off":
        return "templates.mode is off"
    if len(found.check.missing) < len(found.plan.required):
        return "the database holds some of the required tables"
    if work.inputs:
        return "the missing tables are built from others that the database holds"
    return None


def store_of(config: Config, count: Callable[[TemplateEvent], None] = lambda event: None) -> TemplateStore:
    """The store that the configuration names, whose events are counted."""
    templates = config.templates
    return TemplateStore(templates.dir, templates.max_bytes, config.limits.min_free_bytes, count=count)


def _refusal(entry: Entry, config: Config) -> str | None:
    return entry.refused if config.templates.mode == "auto" else None


def _is_for_another_mode(entry: Entry, config: Config) -> bool:
    if config.templates.mode == "auto":
        return entry.refused is None and not entry.proved
    return entry.refused is not None


async def _with_own(descriptor: int, function: Callable[..., Result]) -> Result:
    """Run ``function`` in a thread, with a descriptor of its own and ``stop``: it may outlive a cancellation."""

    def run(stop: Event) -> Result:
        own = os.dup(descriptor)
        try:
            return function(own, stop=stop)
        finally:
            os.close(own)

    try:
        return await in_stoppable_thread(run)
    except StoppedError as error:
        raise StoreError("stopped") from error


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
