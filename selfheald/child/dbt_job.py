"""The two jobs that need dbt: reading a project's plan, and building tables in a staging database."""

from __future__ import annotations

import gc
import json
import re
from pathlib import Path
from typing import Any, Dict, List, Set

import duckdb

import shortcuts
from dbt_errors import missing_seed, selection_error
from dbt_run import Step, run_steps, runs_as_one, tagged
from dbt_session import Session, versions
from dbt_words import as_said
from inputs import note
from manifest_reader import KINDS, describe
from protocol import Emit, JobError
from reuse_proof import judge_reuse

_BUILD = ["build", "--resource-type", "model", "--resource-type", "snapshot"]
#: One of the project's YAML selectors, which dbt knows by an option of its own, and not in the midst of a selection.
_SELECTOR = re.compile(r"selector:[^,]+")
_STORAGE_VERSION = re.compile(r"latest|v\d+\.\d+\.\d+")

# A process that lives for seconds gains nothing from looking for cycles among dbt's millions of objects.
gc.disable()
shortcuts.take()


def plan(job: Dict[str, Any], emit: Emit) -> Dict[str, Any]:
    """Parse the project and resolve the selection by dbt's own rules. Touches no database."""
    session = Session(job, emit)
    manifest = session.parse()
    gone = missing_seed(session.project_dir, session.raw_project)
    if gone is not None:
        raise gone
    select, tables = list(job.get("select") or []), list(job.get("tables") or [])
    required = [] if tables else _selected(session, select)
    if not required and not tables:
        raise _nothing_selected(session, manifest, select)
    return {
        "required": required,
        "tables": [[] if each is None else _selected(session, [each]) for each in tables],
        **describe(manifest),
        "vars": str(session.raw_project.get("vars") or ""),
        "project": session.project_name,
        "versions": versions(),
        "database_name": session.catalog,
        "warnings": session.warnings,
    }


def build(job: Dict[str, Any], emit: Emit) -> Dict[str, Any]:
    """Make exactly the listed seeds and models in the staging file, and leave it closed and whole.

    With ``judge_reuse`` the answer's ``reuse`` says whether others may be given them, where the content of the
    ``declared`` files counts as known.
    """
    session = Session(job, emit)
    manifest = session.parse()
    steps = [
        Step("load_seeds", ["seed"], _wanted(session, manifest, job.get("seeds") or [])),
        Step("build_foundation", _BUILD, _wanted(session, manifest, job.get("models") or [])),
    ]
    steps = [step for step in steps if step.wanted]
    ordered = shortcuts.link_only([list(step.wanted) for step in steps])
    inputs = note(session.database, job.get("inputs") or [])
    judge = judge_reuse(session, manifest) if job.get("judge_reuse") else None
    _prepare_database(session.database, job.get("storage_version"), job.get("pre_sql"))
    built: List[str] = []
    try:
        if ordered and runs_as_one(manifest):
            built += run_steps(session, manifest, [*_BUILD, "--resource-type", "seed"], steps)
        else:
            for step in steps:
                built += run_steps(session, manifest, step.command, [step])
    finally:
        session.close()
    reuse = None if judge is None else judge(job.get("declared") or [])
    return {"built": built, "inputs": inputs, "versions": versions(), "warnings": session.warnings, "reuse": reuse}


def judge(job: Dict[str, Any], emit: Emit) -> Dict[str, Any]:
    """What ``build`` would say of ``reuse``, as far as that can be told without building.

    dbt writes the SQL of the listed nodes, with a database in which none of their tables is. What only these show (the
    types of their columns, the answers that Jinja gets from them) is taken to be harmless, or to be told later.
    """
    session = Session(job, emit)
    manifest = session.parse()
    seeds, models = (_wanted(session, manifest, job.get(kind) or []) for kind in ("seeds", "models"))
    judge_built = judge_reuse(session, manifest)
    _prepare_database(session.database, job.get("storage_version"), job.get("pre_sql"))
    duckdb.connect(session.database).close()
    selection = ["--indirect-selection", "empty", "--select", tagged(models.values())]
    try:
        outcome = session.invoke("compile", selection) if models else None
    finally:
        session.close()
    results = [] if outcome is None else getattr(outcome.result, "results", None) or []
    compiled = {result.node.unique_id: result.node for result in results if str(result.status) == "success"}
    compiled = {uid: node for uid, node in compiled.items() if uid in models}
    session.made.update({**seeds, **models, **compiled})
    return {"reuse": judge_built(job.get("declared") or [], built=False)}


def _selected(session: Session, select: List[str]) -> List[str]:
    """The unique ids of what dbt itself finds for a selection; for each ``selector:NAME`` it is asked apart."""
    words = " ".join(select).split(" ")  # as dbt does
    selectors = [word for word in words if _SELECTOR.fullmatch(word)]
    plain = " ".join(word for word in words if word not in selectors)
    found: Set[str] = set()
    asked = [["--selector", word.partition(":")[2]] for word in selectors]
    for selection in [*asked, ["--select", plain]] if plain else asked:
        arguments = [f"--resource-type={kind}" for kind in KINDS]
        outcome = session.invoke("ls", [*arguments, "--output", "json", "--output-keys", "unique_id", *selection])
        if not outcome.success:
            raise selection_error(outcome.exception, select, session.project_dir / "dbt_project.yml")
        found.update(json.loads(line)["unique_id"] for line in outcome.result or [])
    return sorted(found)


def _nothing_selected(session: Session, manifest: Any, select: List[str]) -> JobError:
    """An error that lists what there is to select, also what is disabled."""
    there = list(manifest.nodes.values())
    off = [node for nodes in manifest.disabled.values() for node in nodes]
    seeds = [node.name for node in there if node.resource_type == "seed"]
    seeds += [f"{node.name} (disabled)" for node in off if node.resource_type == "seed"]
    tags = {tag for node in there if node.resource_type in KINDS for tag in node.tags}
    off_tags = {tag for node in off if node.resource_type in KINDS for tag in node.tags} - tags
    told = (
        f"the selection {select!r} matches nothing in {session.project_name}",
        f"its seeds: {', '.join(sorted(seeds)) or 'none'}",
        f"its tags: {', '.join(sorted([*tags, *(f'{tag} (disabled)' for tag in off_tags)])) or 'none'}",
    )
    return JobError("selection_empty", "; ".join(told), path=session.project_dir / "dbt_project.yml")


def _wanted(session: Session, manifest: Any, listed: List[str]) -> Dict[str, Any]:
    """The nodes asked for, by unique id. Ephemeral ones are no relations: dbt folds them into others."""
    nodes: Dict[str, Any] = {}
    for uid in listed:
        node = manifest.nodes.get(uid)
        if node is None:
            gone = missing_seed(session.project_dir, session.raw_project, only=uid.rpartition(".")[2])
            if uid.startswith("seed.") and gone is not None:
                raise gone
            message = f"{uid} is no longer in the project, or is disabled with these variables"
            raise JobError("dbt_project_invalid", message, path=session.project_dir / "dbt_project.yml")
        if node.config.materialized != "ephemeral":
            nodes[uid] = node
    return nodes


def _prepare_database(path: str, storage_version: object, pre_sql: object) -> None:
    """A new staging file gets the wanted storage format, then the administrator's SQL runs."""
    if storage_version and not Path(path).exists() and _duckdb_knows_formats():
        if not _STORAGE_VERSION.fullmatch(str(storage_version)):
            raise JobError("config_invalid", f"no storage version: {storage_version!r}", "Write it like v1.0.0.")
        name = path.replace("'", "''")
        with duckdb.connect(":memory:") as memory:
            try:
                memory.execute(f"ATTACH '{name}' AS staging (STORAGE_VERSION '{storage_version}')")
            except duckdb.InvalidInputException as error:
                message = f"DuckDB {duckdb.__version__} knows no storage version {storage_version}"
                raise JobError("config_invalid", message, "Correct dbt.storage_version.") from error
            memory.execute("DETACH staging")
    if pre_sql:
        try:
            with duckdb.connect(path) as database:
                database.execute(str(pre_sql))
        except duckdb.Error as error:
            raise JobError("config_invalid", f"dbt.pre_sql: {as_said(error)}", "Correct dbt.pre_sql.") from error


def _duckdb_knows_formats() -> bool:
    major, minor = (int(part) for part in str(duckdb.__version__).split(".")[:2])
    return (major, minor) >= (1, 2)
