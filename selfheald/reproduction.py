"""The command by which a person sees for himself how dbt failed in a staging folder that was kept.

Text in, text out: ``initialization`` knows what dbt was told, ``staging`` where it was kept.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfheald.config_text import looks_secret

#: In the kept folder: what must not be printed. It sets shell variables, to be read with ``.``.
PRIVATE_FILE = "private.sh"
_VARS = "SELFHEALD_VARS"
_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Reproduction:
    """A line for a shell; ``private`` is what the file that it reads has to hold, if there is anything to hide."""

    line: str
    private: str | None = None


def reproduction(
    told: Mapping[str, Any], *, python: str, database: Path, extra: Mapping[str, str], variables: Mapping[str, Any]
) -> Reproduction:
    """What dbt was last told (the child's event ``command``), as plain dbt is told it.

    ``database`` is the one in the kept folder, ``extra`` the environment that the configuration adds. Its values are
    never printed, nor variables if one of them looks secret: they are read from :data:`PRIVATE_FILE`.
    """
    arguments = [str(argument) for argument in told["arguments"]]
    unset = [word for name in told.get("unset") or () for word in ("-u", str(name))]
    private = [f"export {name}={shlex.quote(value)}" for name, value in extra.items() if _NAME.fullmatch(name)]
    line = [
        *(["env", *unset] if unset else []),
        f"DATABASE_PATH={shlex.quote(str(database))}",
        "DBT_SEND_ANONYMOUS_USAGE_STATS=false",
        *map(shlex.quote, [python, "-m", "dbt.cli.main"]),
        *_quoted(arguments, hidden=looks_secret(variables)),
    ]
    if looks_secret(variables) and "--vars" in arguments:
        private.append(f"{_VARS}={shlex.quote(arguments[arguments.index('--vars') + 1])}")
    if not private:
        return Reproduction(" ".join(line))
    file = shlex.quote(str(database.with_name(PRIVATE_FILE)))
    return Reproduction(f"( . {file}; {' '.join(line)} )", "\n".join(private) + "\n")


def _quoted(arguments: Sequence[str], *, hidden: bool) -> list[str]:
    quoted = [shlex.quote(argument) for argument in arguments]
    if hidden and "--vars" in arguments:
        quoted[arguments.index("--vars") + 1] = f'"${_VARS}"'
    return quoted
