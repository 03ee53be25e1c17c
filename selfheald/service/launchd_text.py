"""The text of a launchd job: the shipped template with its values filled in, and looked through before it is used."""

from __future__ import annotations

import math
import plistlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.parsers.expat import ExpatError

from selfheald.errors import InitializationError
from selfheald.service.launchd_keys import faults
from selfheald.service.order import TIDY_SECONDS, Given, Order

LABEL = "selfheald"
#: Where launchd's own PATH leads, and where programs of the machine's owner are.
_PATH = ("/opt/homebrew/bin", "/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin")
#: In the job's environment: what was said at the installation. launchd passes over keys that it does not know, but says
#: so at each start; a variable disturbs nobody.
_RECORD, _VERSION = "SELFHEALD_SERVICE", "SELFHEALD_SERVICE_VERSION"
_PLACE = re.compile(r"@([A-Z]+)@")


def job_text(template: str, order: Order, *, home: Path, log: Path) -> str:
    """The whole file; ``home`` is the home folder of whom it runs as, ``log`` gets what it prints.

    Raises ``config_invalid`` where launchd would not understand it.
    """
    bin_folder = str(order.python.parent)
    values: dict[str, object] = {
        "COMMAND": list(order.command),
        "ENVIRONMENT": {
            "HOME": str(home),
            "PATH": ":".join(dict.fromkeys((bin_folder, *_PATH))),
            _RECORD: order.given.as_json(),
            _VERSION: order.version,
        },
        "HOME": str(home),
        "STOP": math.ceil(order.grace) + TIDY_SECONDS,
        "LOG": str(log),
        "USER": order.user,
        "GROUP": order.given.group,
    }
    shape = plistlib.loads(template.encode())
    job = {key: _filled(value, values) for key, value in shape.items()}
    job = {key: value for key, value in job.items() if value is not None}
    wrong = faults(job, daemon=order.given.system)
    if wrong:
        raise InitializationError("\n".join(f"launchd: {each}" for each in wrong), code="config_invalid")
    try:
        return plistlib.dumps(job, sort_keys=False).decode()
    except (ValueError, UnicodeEncodeError) as error:  # a control character, or a byte that is not UTF-8
        raise InitializationError(
            f"a path cannot be named in a service's file: {error}", code="config_invalid", hint="Rename it."
        ) from error


def given_in(text: str, *, system: bool) -> Given | None:
    """What was said when this job was installed; ``None`` if it is none of ours."""
    try:
        job: Any = plistlib.loads(text.encode())
    except (plistlib.InvalidFileException, ExpatError, ValueError):
        return None
    environment = job.get("EnvironmentVariables") if isinstance(job, Mapping) else None
    said = environment.get(_RECORD) if isinstance(environment, Mapping) else None
    return Given.from_json(said, system=system) if isinstance(said, str) else None


def _filled(value: object, values: Mapping[str, object]) -> object:
    place = _PLACE.fullmatch(value) if isinstance(value, str) else None
    return value if place is None else values[place[1]]
