"""The dbt variables of one database: those that the configuration gives, and those that a command prints.

dbt renders Jinja in variables that are text, and a workspace's name is a stranger's word. So whatever is put in here
means itself; Jinja that the administrator wrote into ``dbt.vars`` stays Jinja.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterable, Mapping
from pathlib import Path
from typing import Any

import anyio

from selfheald.config import render
from selfheald.dbt_host import kill_group
from selfheald.errors import InitializationError, InitializationTimeoutError
from selfheald.workspace import Database

#: Seconds that dbt.vars_command may take.
VARS_SECONDS = 30.0
#: What it may print (bytes): variables are arguments of dbt's.
MAX_ANSWER_BYTES = 1 << 20
#: How much of the end of what it says on stderr is told (characters).
MAX_TOLD = 400
#: Seconds in which what it said on stderr has arrived once it has ended; whoever it started may keep that open.
_LAST_WORDS_SECONDS = 0.5


def variables_given(variables: Mapping[str, Any], database: Database) -> dict[str, Any]:
    """``dbt.vars`` with ``{workspace}`` and ``{database}`` filled in."""
    places = (str(database.workspace), str(database.path))
    as_text = tuple(map(as_jinja_text, places))
    return {name: render(value, *(as_text if isinstance(value, str) else places)) for name, value in variables.items()}


def as_jinja_text(text: str) -> str:
    """What Jinja renders as ``text``. Only text without a brace is its own Jinja."""
    return text.replace("{", "{{ '{' }}")


async def ask_for_variables(
    command: tuple[str, ...], database: Database, environment: Mapping[str, str]
) -> dict[str, Any]:
    """Run ``dbt.vars_command`` in the workspace; its standard output is a JSON object of variables."""
    hint = f"Run it in {database.workspace}: it must print a JSON object within {VARS_SECONDS:g} s."
    said = bytearray()

    def refused(problem: str) -> InitializationError:
        words = _last_words(said)
        message = f"dbt.vars_command{problem}" + (f"; it says: {words}" if words else "")
        return InitializationError(message, code="config_invalid", path=command[0], hint=hint)

    try:
        with anyio.fail_after(VARS_SECONDS):
            code, output = await _run(command, database.workspace, environment, said)
    except TimeoutError:
        words = _last_words(said)
        raise InitializationTimeoutError(
            f"dbt.vars_command gave no answer within {VARS_SECONDS:g} s" + (f"; it says: {words}" if words else ""),
            timeout_seconds=VARS_SECONDS,
            elapsed_seconds=VARS_SECONDS,
            path=command[0],
            hint=hint,
        ) from None
    except OSError as error:
        raise refused(f": it cannot be started: {error.strerror or error}") from error
    if len(output) > MAX_ANSWER_BYTES:
        raise refused(f" printed more than {MAX_ANSWER_BYTES} bytes")
    if code:
        raise refused(f" ended with exit code {code}")
    try:
        variables = json.loads(output)
    except (ValueError, RecursionError) as error:
        raise refused(f": it printed no JSON: {error}") from error
    if not isinstance(variables, dict):
        raise refused(f" did not print a JSON object, but a {type(variables).__name__}")
    return {name: as_jinja_text(value) if isinstance(value, str) else value for name, value in variables.items()}


async def _run(
    command: tuple[str, ...], folder: Path, environment: Mapping[str, str], said: bytearray
) -> tuple[int, bytes]:
    """The command's exit code and what it printed; ``said`` gets what it says on stderr.

    It is killed as soon as it prints too much. When this ends, in whatever way, nothing of its group is left.
    """
    process = await anyio.open_process(
        list(command),
        cwd=folder,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    output = bytearray()
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(_listen, process.stderr, said)
            async for chunk in process.stdout:
                output += chunk
                if len(output) > MAX_ANSWER_BYTES:
                    process.kill()
                    break
            await process.wait()
            group.cancel_scope.deadline = anyio.current_time() + _LAST_WORDS_SECONDS
    finally:
        with anyio.CancelScope(shield=True):
            await kill_group(process)
    return process.returncode or 0, bytes(output)


async def _listen(stream: AsyncIterable[bytes], said: bytearray) -> None:
    async for chunk in stream:
        said += chunk
        del said[: -4 * MAX_TOLD]


def _last_words(said: bytes | bytearray) -> str:
    """The end of what was said, in one line that a terminal can show."""
    text = " ".join(bytes(said).decode("utf-8", "replace").split())
    shown = "".join(character if character.isprintable() else "?" for character in text)
    return shown if len(shown) <= MAX_TOLD else f"…{shown[1 - MAX_TOLD :]}"
