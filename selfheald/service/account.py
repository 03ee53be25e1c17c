"""As whom a system's service runs, and whether that user may do what it has to. Judged by owner, group and mode."""

from __future__ import annotations

import grp
import os
import pwd
import shlex
import stat
from dataclasses import dataclass
from pathlib import Path

from selfheald.errors import InitializationError
from selfheald.service.order import Order
from selfheald.service.unit_text import HOMES, is_below


@dataclass(frozen=True, slots=True)
class Account:
    """A user with the group that the service has, and all others it belongs to; ``home`` is its home folder."""

    name: str
    uid: int
    gid: int
    groups: frozenset[int]
    home: str = "/"

    @property
    def all_groups(self) -> frozenset[int]:
        return self.groups | {self.gid}


def account_of(order: Order) -> Account:
    """The user and group of the order. Raises ``config_invalid`` with the commands that make them."""
    group = order.given.group
    gid = None
    if group is not None:
        try:
            gid = grp.getgrnam(group).gr_gid
        except KeyError:
            raise InitializationError(
                f"there is no group {group}",
                code="config_invalid",
                hint=f"sudo groupadd --system {shlex.quote(group)}, then install again.",
            ) from None
    try:
        entry = pwd.getpwnam(order.user)
    except KeyError:
        raise InitializationError(
            f"there is no user {order.user}",
            code="config_invalid",
            hint=f"{_useradd(order.user, group)}, then install again.",
        ) from None
    groups = frozenset(os.getgrouplist(entry.pw_name, entry.pw_gid))
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid if gid is None else gid, groups, entry.pw_dir)


def require_access(order: Order, account: Account) -> None:
    """Raise ``permission_denied`` for a workspace that the account may not write, with the commands that let it."""
    for root in order.roots:
        # The service comes to a workspace in a home folder by a way of its own.
        above = [] if is_below(root, HOMES) else [*reversed(root.parents)]
        for folder in [*above, root]:
            cure = cure_of(folder, folder.stat(), account, group=order.given.group, passing=folder != root)
            if cure is not None:
                what = "pass" if folder != root else "read and write"
                raise InitializationError(
                    f"user {account.name} may not {what} {folder}", code="permission_denied", path=folder, hint=cure
                )


def cure_of(path: Path, found: os.stat_result, account: Account, *, group: str | None, passing: bool) -> str | None:
    """The commands that let an account use a folder with everybody else of its group; ``None`` if it may already."""
    letters = "x" if passing else "rwx"
    wanted = 1 if passing else 7
    mode = stat.S_IMODE(found.st_mode)
    shift = 6 if found.st_uid == account.uid else 3 if found.st_gid in account.all_groups else 0
    if account.uid == 0 or (mode >> shift) & wanted == wanted or _has_acl(path):
        return None
    folder = shlex.quote(str(path))
    if shift == 6:
        return f"sudo chmod u+{letters} {folder}, then install again."
    if passing:
        return f"sudo chmod o+x {folder}, or move the workspaces; then install again."
    owner = _group_name(found.st_gid)
    if (mode >> 3) & wanted == wanted and found.st_gid != 0:
        commands = [f"sudo usermod --append --groups {shlex.quote(owner)} {shlex.quote(account.name)}"]
        if not mode & stat.S_ISGID:
            commands.append(_setgid(folder))
    else:
        shared = group or (owner if shift == 3 else _group_name(account.gid))
        commands = [] if shared == owner else [f"sudo chgrp -R {shlex.quote(shared)} {folder}"]
        commands += [f"sudo chmod -R g+rwX {folder}", _setgid(folder)]
    return f"{' && '.join(commands)}, then install again."


def _setgid(folder: str) -> str:
    return f"sudo find {folder} -type d -exec chmod g+s {{}} +"


def _useradd(user: str, group: str | None) -> str:
    groups = [] if group is None else ["--gid", shlex.quote(group)]
    home = f"/var/lib/{shlex.quote(user)}"
    words = ["sudo useradd --system", *groups, f"--home-dir {home} --shell /usr/sbin/nologin", shlex.quote(user)]
    return " ".join(words)


def _group_name(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def _has_acl(path: Path) -> bool:
    try:
        return "system.posix_acl_access" in os.listxattr(path)
    except (AttributeError, OSError):
        return False
