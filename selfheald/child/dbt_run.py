"""Lets dbt make the nodes of a build's steps, in one invocation or in several, and tells which step it is at."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterable, List

from dbt_errors import build_error
from dbt_session import Session
from manifest_reader import KINDS, source_file
from protocol import JobError

#: By these a project's code can tell which nodes are made by the same invocation, and by which command.
_TELLS_RUNS = re.compile(
    r"selected_resources|invocation_args_dict|invocation_id|\bflags\b[^}]*\bwhich\b|\bcontext\s*[.\[]", re.IGNORECASE
)


@dataclass(frozen=True)
class Step:
    """What one step makes, by unique id, and the command that makes no more than that by hand."""

    name: str
    command: List[str]
    wanted: Dict[str, Any]


def runs_as_one(manifest: Any) -> bool:
    """True if the project cannot tell one invocation for all steps from one for each.

    Hooks run with every invocation, and may count.
    """
    if any(node.resource_type == "operation" for node in manifest.nodes.values()):
        return False
    macros = (macro.macro_sql for macro in manifest.macros.values() if macro.package_name not in ("dbt", "dbt_duckdb"))
    nodes = (getattr(node, "raw_code", "") for node in manifest.nodes.values())
    hooks = (
        hook.sql
        for node in manifest.nodes.values()
        if node.resource_type in KINDS
        for hook in (*node.config.pre_hook, *node.config.post_hook)
    )
    return not any(_TELLS_RUNS.search(code) for code in (*macros, *nodes, *hooks))


def run_steps(session: Session, manifest: Any, command: List[str], steps: List[Step]) -> List[str]:
    """Let dbt make what these steps want by one ``command``, and nothing else; what it has made, by unique id."""
    wanted = {uid: node for step in steps for uid, node in step.wanted.items()}
    progress = _Progress(session, steps)
    session.on_node = progress.on_node
    outcome = session.invoke(command[0], [*command[1:], "--select", tagged(wanted.values())])
    results = getattr(outcome.result, "results", None) or []
    paths = {uid: source_file(manifest, node) or "" for uid, node in wanted.items()}
    error = build_error(results, outcome.exception, paths, session.project_dir, Path(session.job["log_dir"]))
    nodes = (getattr(result, "node", None) for result in results if str(result.status) == "success")
    compiled = {node.unique_id: node for node in nodes if node is not None and node.resource_type in KINDS}
    made = set(compiled)
    if error is not None:
        step = progress.step
        left = [node for uid, node in step.wanted.items() if uid not in made]
        session.tell(step.command, left or step.wanted.values())
        raise error
    if not outcome.success or made != set(wanted):
        missing = ", ".join(sorted(set(wanted) - made)) or "nothing"
        extra = ", ".join(sorted(made - set(wanted))) or "nothing"
        message = f"dbt ended without an error, but did not make {missing}, and made {extra} beside"
        raise JobError("dbt_failed", message)
    session.made.update(compiled)
    progress.complete()
    return sorted(made)


def tagged(nodes: Iterable[Any]) -> str:
    """A selection of these very nodes, by a tag of their own.

    Names and paths can be ambiguous, prefixes of one another, or hold characters that dbt's selection gives a meaning
    to.
    """
    tag = f"selfheald_{uuid.uuid4().hex}"
    for node in nodes:
        node.tags.append(tag)
    return f"tag:{tag}"


class _Progress:
    """Tells which step begins and which is done, by the nodes that begin: those of one step after those of another."""

    def __init__(self, session: Session, steps: List[Step]) -> None:
        self._session = session
        self._later = steps[1:]
        self.step = steps[0]
        self._begin()

    def on_node(self, uid: str, status: str) -> None:
        if status not in ("started", "success"):
            self._later = []  # what dbt passes over then begins too
        if self._later and uid in self._later[0].wanted:
            self._tell("completed")
            self.step = self._later.pop(0)
            self._begin()

    def complete(self) -> None:
        self._tell("completed")
        while self._later:
            self.step = self._later.pop(0)
            self._begin()
            self._tell("completed")

    def _begin(self) -> None:
        self._tell("started")
        self._session.tell(self.step.command, self.step.wanted.values())

    def _tell(self, state: str) -> None:
        self._session.emit({"event": "step", "name": self.step.name, "state": state})
