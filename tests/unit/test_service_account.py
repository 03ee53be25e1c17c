"""Whether the service's user may use a workspace, and the commands that let it: decided by owner, group and mode."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from selfheald.errors import InitializationError
from selfheald.service import account as accounts
from selfheald.service.account import Account, account_of, cure_of
from selfheald.service.order import Given, Order

#: A user nobody here is, in a group of its own and one that it shares.
OURS = Account("sim", 4001, 4001, frozenset({4001, 4500}))
NAMES = {4001: "sim", 4500: "analysts", 4600: "others", 0: "root"}


@pytest.fixture(autouse=True)
def _names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "_group_name", lambda number: NAMES[number])


def cure(
    mode: int, uid: int, gid: int, *, passing: bool = False, group: str | None = None, account: Account = OURS
) -> str | None:
    found = os.stat_result((0o40000 | mode, 1, 1, 2, uid, gid, 0, 0, 0, 0))
    return cure_of(Path("/srv/my sims"), found, account, group=group, passing=passing)


@pytest.mark.parametrize(
    ("mode", "uid", "gid"),
    [(0o700, 4001, 0), (0o070, 0, 4500), (0o2775, 0, 4500), (0o2770, 9, 4001), (0o007, 0, 0), (0o1777, 0, 0)],
)
def test_what_it_may_use_needs_no_cure(mode: int, uid: int, gid: int) -> None:
    assert cure(mode, uid, gid) is None


@pytest.mark.parametrize(
    ("mode", "uid", "gid", "commands"),
    [
        (0o500, 4001, 0, ["sudo chmod u+rwx '/srv/my sims'"]),
        (0o2775, 0, 4600, ["sudo usermod --append --groups others sim"]),
        (
            0o775,
            0,
            4600,
            ["sudo usermod --append --groups others sim", "sudo find '/srv/my sims' -type d -exec chmod g+s {} +"],
        ),
        (
            0o755,
            0,
            0,
            [
                "sudo chgrp -R sim '/srv/my sims'",
                "sudo chmod -R g+rwX '/srv/my sims'",
                "sudo find '/srv/my sims' -type d -exec chmod g+s {} +",
            ],
        ),
        (
            0o755,
            0,
            4500,
            ["sudo chmod -R g+rwX '/srv/my sims'", "sudo find '/srv/my sims' -type d -exec chmod g+s {} +"],
        ),
        # Nobody is put into root's group.
        (
            0o770,
            0,
            0,
            [
                "sudo chgrp -R sim '/srv/my sims'",
                "sudo chmod -R g+rwX '/srv/my sims'",
                "sudo find '/srv/my sims' -type d -exec chmod g+s {} +",
            ],
        ),
    ],
)
def test_the_cure(mode: int, uid: int, gid: int, commands: list[str]) -> None:
    assert cure(mode, uid, gid) == f"{' && '.join(commands)}, then install again."


def test_the_service_s_own_group_is_the_one_that_shares() -> None:
    told = cure(0o755, 0, 0, group="analysts")
    assert told is not None
    assert told.startswith("sudo chgrp -R analysts '/srv/my sims' && ")


def test_a_folder_on_the_way_is_passed_only() -> None:
    assert cure(0o711, 0, 0, passing=True) is None
    assert cure(0o710, 0, 4500, passing=True) is None
    told = cure(0o700, 0, 0, passing=True)
    assert told is not None
    assert told.startswith("sudo chmod o+x '/srv/my sims'")


def test_root_may_all() -> None:
    assert cure(0, 9, 9, account=Account("root", 0, 0, frozenset({0}))) is None


def order(user: str | None, group: str | None = None, *roots: Path) -> Order:
    return Order(Given(True, (), None, user, group), Path("/x"), roots, roots, 1.0, "1")


def test_an_account_that_is_there() -> None:
    found = account_of(order("root"))
    assert (found.name, found.uid) == ("root", 0)
    assert account_of(order("root", "daemon")).gid != found.gid


def test_one_that_is_not_there_comes_with_the_command_that_makes_it() -> None:
    with pytest.raises(InitializationError, match="there is no user no-such-user") as caught:
        account_of(order("no-such-user"))
    assert caught.value.code == "config_invalid"
    assert caught.value.hint.startswith("sudo useradd --system --home-dir /var/lib/no-such-user --shell ")
    with pytest.raises(InitializationError, match="there is no group no-such-group") as caught:
        account_of(order("root", "no-such-group"))
    assert caught.value.hint.startswith("sudo groupadd --system no-such-group")
    with pytest.raises(InitializationError) as caught:
        account_of(order("no-such-user", "daemon"))
    assert "--gid daemon" in caught.value.hint


def test_a_root_that_it_may_not_write_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "_group_name", str)
    root = tmp_path / "closed" / "sims"
    root.mkdir(parents=True)
    root.parent.chmod(0o700)
    root.chmod(0o777)
    with pytest.raises(InitializationError, match="user sim may not pass") as caught:
        accounts.require_access(order(None, None, root), OURS)
    assert caught.value.code == "permission_denied"
    # As in a home folder, to which the service comes by a way of its own.
    monkeypatch.setattr(accounts, "HOMES", (tmp_path,))
    accounts.require_access(order(None, None, root), OURS)
    root.chmod(0o755)
    with pytest.raises(InitializationError, match="user sim may not read and write") as caught:
        accounts.require_access(order(None, None, root), OURS)
    assert caught.value.path == str(root)
