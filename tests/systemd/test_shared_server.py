"""A server that people share: their workspaces are healed, and stay theirs."""

from __future__ import annotations

import os
import shlex
import struct
from pathlib import PurePosixPath

from systemd.server import GROUP, GROUP_NUMBER, ROOT, Server

#: Entries of an access control list, as the kernel keeps it: owner, owning group, a group by number, mask, others.
_OWNER, _OWNING, _NAMED, _MASK, _OTHERS = 0x01, 0x04, 0x08, 0x10, 0x20
_NOBODY = 0xFFFFFFFF


def test_people_of_the_group_share_what_the_service_makes(server: Server) -> None:
    database = server.workspace("shared", "ada", 0o002)
    before = server.look(database)
    server.heals(database, "ben")
    assert server.look(database) == before == ("664", "ada", GROUP)
    private = database.parent / ".selfheald"
    assert server.look(private)[::2] == ("2775", GROUP)
    assert server.look(private / "logs")[::2] == ("2775", GROUP)
    assert server.look(f"{database}.ready") == ("644", "selfheald", GROUP)
    assert server.look(f"{ROOT}/.selfheald") == ("2775", "selfheald", GROUP)
    server.write(database, "ben")
    server.write(database, "ada")
    assert server.answer(database, "ada") == 44
    server.heals(database, "ada")


def test_a_database_that_the_service_makes_is_for_the_group_too(server: Server) -> None:
    """Of no bytes, as a simulator leaves it that has only asked for it."""
    database = server.workspace("fresh", "ben", 0o002, empty=True)
    server.heals(database, "ben")
    mode, _, group = server.look(database)
    assert (mode, group) == ("664", GROUP)
    server.change(database, "ben", "create table notes as select 7 as answer")
    assert server.answer(database, "ada") == 7


def test_where_the_service_may_not_go_the_person_is_told_what_to_say(server: Server) -> None:
    """Somebody with a umask of 077 follows what the errors say, until there are none."""
    database = server.workspace("closed", "ada", 0o077)
    said = []
    for _ in range(3):
        done = server.wait(database, "ada", 20)
        if done.returncode == 0:
            break
        assert "error[permission_denied]" in done.stderr, done.stderr
        command = done.stderr.rstrip().rpartition(": ")[2]
        said.append(command)
        for words in command.split("; "):
            server.machine.ok(*shlex.split(words), user="ada")
    assert done.returncode == 0, (said, done.stderr, server.service.told())
    assert said[0] == f"chmod g+rwxs {database.parent}"
    assert server.answer(database, "ada") == 42
    server.write(database, "ada")


def test_with_a_default_access_list_no_umask_matters(server: Server) -> None:
    folder = PurePosixPath(ROOT, "team")
    server.machine.ok("install", "-d", "-m", "2775", "-g", GROUP, folder)
    # setfacl -d -m group:workforce:rwx
    entries = [(_OWNER, 7, _NOBODY), (_OWNING, 7, _NOBODY), (_NAMED, 7, GROUP_NUMBER), (_MASK, 7, _NOBODY)]
    words = [struct.pack("<HHI", *entry) for entry in [*entries, (_OTHERS, 5, _NOBODY)]]
    os.setxattr(server.machine.path(folder), "system.posix_acl_default", struct.pack("<I", 2) + b"".join(words))
    database = server.workspace("team/private", "ben", 0o077)
    server.heals(database, "ben")
    assert server.look(database)[1] == "ben"
    server.write(database, "ada")
    assert server.answer(database, "ben") == 43
