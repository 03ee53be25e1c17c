"""The text of a systemd unit: the shipped template with its values filled in, each quoted as its setting reads it."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

from selfheald.errors import InitializationError
from selfheald.service.order import TIDY_SECONDS, Given, Order, Reach

NAME = "selfheald.service"
#: What `ProtectHome=` hides.
HOMES = (Path("/home"), Path("/root"), Path("/run/user"))
#: What `PrivateTmp=` hides. Nothing there can be shown again.
TEMPORARY = (Path("/tmp"), Path("/var/tmp"))
#: What the sandbox lets through, by who is to reach the port of `metrics.listen`.
NETWORK: Mapping[Reach, Sequence[str]] = {
    "nobody": [
        "# No network, and no sockets but unix ones. A project that reads from the network needs these three relaxed.",
        "PrivateNetwork=yes",
        "RestrictAddressFamilies=AF_UNIX",
        "IPAddressDeny=any",
    ],
    "this machine": [
        "# metrics.listen names a port of this machine: packets from it and to it pass, and no others.",
        "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6",
        "IPAddressDeny=any",
        "IPAddressAllow=localhost",
    ],
    "others": [
        "# metrics.listen names a port for other machines. IPAddressDeny=any and IPAddressAllow= say for which.",
        "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6",
    ],
}
_PLACE = re.compile(r"@([A-Z]+)@")
_RECORD = re.compile(r"^Given=(.*)$", re.MULTILINE)


def unit_text(template: str, order: Order) -> str:
    """The whole unit. Raises ``config_invalid`` for a path that no unit can name."""
    for word in (*order.command, *map(str, order.writable)):
        if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in word):  # Cs: a byte that is not UTF-8
            raise _unnameable(word, "it has a control character, or is not UTF-8")
    if any(letter in str(order.python) for letter in "\\\"'"):
        raise _unnameable(str(order.python), "systemd runs no program that has a quote or a backslash in its path")
    shown = [path for path in order.writable if is_below(path, HOMES)]
    values = {
        "MOUNTS": [f"RequiresMountsFor={quoted(str(path))}" for path in order.writable if not _needs_escapes(path)],
        "COMMAND": command_line(order.command),
        "STOP": str(math.ceil(order.grace) + TIDY_SECONDS),
        "USER": order.user,
        "GROUP": [f"Group={order.given.group}"] if order.given.group else [],
        # Empty homes, and in them the workspaces alone.
        "HOME": "tmpfs" if shown else "yes",
        "WRITABLE": [
            f"{'BindPaths' if path in shown else 'ReadWritePaths'}={quoted(str(path))}" for path in order.writable
        ],
        "NETWORK": NETWORK[order.reach],
        "RECORD": ["[X-Selfheald]", f"Version={order.version}", f"Given={order.given.as_json()}"],
    }
    return fill(template, values)


def given_in(text: str, *, system: bool) -> Given | None:
    """What was said when this unit was installed; ``None`` if it is none of ours."""
    found = _RECORD.search(text)
    return None if found is None else Given.from_json(found[1], system=system)


def fill(template: str, values: Mapping[str, str | Sequence[str]]) -> str:
    """The template with its places filled: a text stands in its line, a list is lines of its own, perhaps none."""
    lines: list[str] = []
    for line in template.splitlines():
        place = _PLACE.fullmatch(line)
        value = values[place[1]] if place else None
        if value is not None and not isinstance(value, str):
            lines += value
        elif line.startswith("#"):
            lines.append(line)
        else:
            lines.append(_PLACE.sub(lambda found: str(values[found[1]]), line))
    return "\n".join(lines).rstrip() + "\n"


def command_line(words: Sequence[str]) -> str:
    """A command for ``ExecStart=``."""
    # The program's name takes no `$$`: where a `$` is to mean itself, it is said once, for the whole line.
    literal = ":" if any("$" in word for word in words) else ""
    return literal + " ".join(map(quoted, words))


def quoted(word: str) -> str:
    """One word of a setting's value."""
    word = word.replace("%", "%%")
    if re.fullmatch(r"[\w@%+=,./$~-]+", word):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def is_below(path: Path, folders: Sequence[Path]) -> bool:
    """True if the path is one of the folders, or lies in one."""
    return any(path == folder or folder in path.parents for folder in folders)


def _needs_escapes(path: Path) -> bool:
    """Settings about other units know no escapes; the mount is then not waited for."""
    return any(letter in str(path) for letter in '\\"')


def _unnameable(word: str, why: str) -> InitializationError:
    return InitializationError(
        f"{word!r} cannot be named in a service's file: {why}",
        code="config_invalid",
        path=word.encode("utf-8", "backslashreplace").decode(),
        hint="Rename it.",
    )
