"""Run by the interpreter under test: the child's own proof, on queries and on projects, many in one process.

Arguments: the child's folder and what to do. stdin is JSON, stdout too.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from contextlib import suppress
from typing import Any


def queries(order: dict[str, Any]) -> dict[str, str | None]:
    """The reason against each query, in a database of the test's own."""
    import duckdb

    proof = importlib.import_module("sql_proof")
    with duckdb.connect(order["database"]) as connection:
        connection.execute(order["relations"])
        connection.execute(order["files"])
    prover = proof.Prover(order["database"], order["declared"])
    made = frozenset(tuple(name) for name in order["made"])
    return {query: _why(proof, lambda query=query: prover.query(query, made)) for query in order["queries"]}


def rows(order: dict[str, Any]) -> dict[str, list[str]]:
    """What each query gives, in no order."""
    import duckdb

    with duckdb.connect(order["database"], read_only=True) as connection:
        with suppress(duckdb.Error):  # there the arrow is none of a lambda's without it
            connection.execute("SET lambda_syntax = 'ENABLE_SINGLE_ARROW'")
        return {query: sorted(map(repr, connection.execute(query).fetchall())) for query in order["queries"]}


def models(job: dict[str, Any]) -> dict[str, str | None]:
    """Build all of a project at once; then the reason against each model with what it is made from."""
    proof, manifest, build = _built(job)
    found = {}
    for uid, node in build.made.items():
        wanted = {uid}
        todo = [uid]
        while todo:
            parents = manifest.nodes[todo.pop()].depends_on_nodes
            todo += [each for each in parents if each not in wanted]
            wanted.update(parents)
        made = {each: build.made[each] for each in wanted if each in build.made}
        asked = [query for query in build.queries if query[0] in made]
        found[node.name] = proof.verdict(build._replace(made=made, queries=asked), [])["why"]
    return found


def reasons(job: dict[str, Any]) -> list[str]:
    """All reasons against a project that need no more than dbt's parse of it."""
    proof, _, build = _parsed(job)
    return list(proof.reasons_in_code(build))


def _built(job: dict[str, Any]) -> tuple[Any, Any, Any]:
    proof, manifest, build = _parsed(job)
    jobs = importlib.import_module("dbt_job")
    made = build.made.values()
    seeds = [node.unique_id for node in made if node.resource_type == "seed"]
    kept: list[Any] = []

    def judge_reuse(session: Any, manifest: Any) -> Any:
        kept[:] = [session, manifest, proof.QueryWatch()]
        return lambda declared: None

    vars(jobs)["judge_reuse"] = judge_reuse
    models = [uid for uid in build.made if uid not in seeds]
    jobs.build({**job, "seeds": seeds, "models": models, "judge_reuse": True}, lambda event: None)
    session, manifest, watch = kept
    return proof, manifest, proof.Build(session, manifest, session.made, watch.queries)


def _parsed(job: dict[str, Any]) -> tuple[Any, Any, Any]:
    proof, jobs = importlib.import_module("reuse_proof"), importlib.import_module("dbt_job")
    log = os.open(job["log_file"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(log, 1)
    os.dup2(log, 2)
    session = jobs.Session(job, lambda event: None)
    manifest = session.parse()
    made = {uid: node for uid, node in manifest.nodes.items() if node.resource_type in ("seed", "model", "snapshot")}
    made = {uid: node for uid, node in made.items() if node.config.materialized != "ephemeral"}
    return proof, manifest, proof.Build(session, manifest, made, [])


def _why(proof: Any, check: Any) -> str | None:
    try:
        check()
    except proof.Impure as error:
        return str(error)
    return None


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    answers = os.dup(1)
    outcome = globals()[sys.argv[2]](json.load(sys.stdin))
    os.write(answers, json.dumps(outcome).encode())
