"""What a database is found to be, against the plan that holds for it; and its marker, if it lacks nothing."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from selfheald.client import valid_marker
from selfheald.config import Config
from selfheald.dbt_host import Starter, start_child
from selfheald.figures import Figures
from selfheald.initialization_state import InitializationState, iso_time
from selfheald.marker import Status, outlived_a_tick, read_status, write_marker
from selfheald.plan import Plan, Work, find_work
from selfheald.planner import Planner, Settings
from selfheald.table_checker import CheckResult, Reading, judge
from selfheald.template_key import FileDigests
from selfheald.workspace import Database

Reader = Callable[[Path], Awaitable[Reading]]


@dataclass(frozen=True, slots=True)
class Tools:
    """What every initialization needs. ``read`` looks at a database without its lock, ``start`` starts a child.

    ``apart`` says that this process may itself have databases open, so that no file of one is opened here.
    ``templates_read`` are the templates, by key and digest, of which a copy was read: another one holds the same.
    ``figures`` count what becomes of templates.
    """

    config: Config
    planner: Planner
    read: Reader
    start: Starter = start_child
    apart: bool = False
    digests: FileDigests = field(default_factory=FileDigests)
    templates_read: set[tuple[str, str]] = field(default_factory=set)
    figures: Figures = field(default_factory=Figures)


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a database was found to be, and against which plan."""

    plan: Plan
    settings: Settings
    check: CheckResult

    @property
    def reading(self) -> Reading:
        return self.check.reading

    @property
    def is_new(self) -> bool:
        """True if there is no database yet, or only a zero-byte file that asks for one."""
        return not self.reading.exists or self.reading.empty


async def inspect(tools: Tools, database: Database, *, fresh: bool = False) -> Inspection:
    """Read the database and compare it with the plan; nothing is written."""
    return await look(tools, database, *await tools.planner.plan_and_settings(database, fresh=fresh))


async def look(tools: Tools, database: Database, plan: Plan, settings: Settings) -> Inspection:
    """As :func:`inspect`, with the plan that is known."""
    rebuild = tools.config.dbt.on_schema_mismatch == "rebuild-seeds"
    reading = await tools.read(database.path)
    return Inspection(plan, settings, judge(reading, plan.required, database.path, rebuild_seeds=rebuild))


def is_fresh(database: Database, fingerprint: str) -> bool:
    """True if the marker tells of this very file and plan, so that the database need not be opened."""
    marker = valid_marker(database.path)
    return marker is not None and marker.get("fingerprint") == fingerprint


def is_adoptable(found: Inspection) -> bool:
    """True if the database is complete, and has not been written just before it was read."""
    identity = found.reading.identity
    return (
        found.check.complete
        and found.reading.certain
        and identity is not None
        and outlived_a_tick(identity, found.reading.read_at)
    )


def work_for(found: Inspection, config: Config) -> Work:
    """What dbt has to do for this database, and what it needs to find there."""
    return find_work(
        found.plan,
        found.check.to_make,
        existing_tables(found.reading),
        variables=found.settings.variables,
        other_sql=config.dbt.pre_sql or "",
    )


def put_status_right(status: Status) -> None:
    """Of a database that is complete: let a status on disk that says otherwise say so too.

    To be called before :func:`adopt`, since the marker comes last: whoever sees it finds the status true.
    """
    told = read_status(status.database)
    if told is not None and told.get("state") != InitializationState.COMPLETED.value:
        status.end("check_tables")
        status.show(
            state=InitializationState.COMPLETED.value,
            reason=None,
            queue_position=None,
            holder=None,
            error=None,
            next_attempt_at=None,
            missing_tables_found=[],
            completed_at=iso_time(time.time()),
        )


def adopt(
    database: Database,
    found: Inspection,
    *,
    answers: str | None,
    origin: str = "adopted",
    initialized_at: float | None = None,
) -> bool:
    """Write the marker of a database that is complete; False if it changed meanwhile, or only just before."""
    identity = found.reading.identity
    return (
        is_adoptable(found)
        and identity is not None
        and write_marker(
            database,
            identity,
            found.plan.required,
            fingerprint=found.plan.fingerprint,
            origin=origin,
            answers=answers,
            checked_at=time.time(),
            initialized_at=initialized_at,
        )
    )


def existing_tables(reading: Reading) -> set[tuple[str, str]]:
    """The base tables that were seen, as :mod:`selfheald.plan` names relations."""
    return {(each.schema.lower(), each.name.lower()) for each in reading.relations if each.kind == "table"}
