"""The text of the units: what is in them, and that every value comes out of systemd's reading as it went in."""

from __future__ import annotations

import configparser
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfheald.config_model import Config
from selfheald.errors import InitializationError
from selfheald.service.order import Given, Order, Reach
from selfheald.service.shipped import UNIT_OF_SYSTEM, UNIT_OF_USER, template
from selfheald.service.unit_text import command_line, fill, given_in, quoted, unit_text

#: All that a path may hold and a unit can name.
NAMES = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=12)


def order(*writable: str, system: bool = False, grace: float = 20.0, **given_values: str) -> Order:
    roots = writable or ("/srv/simulations",)
    paths = tuple(map(Path, roots))
    return Order(Given(system, roots, **given_values), Path("/opt/selfheald/bin/python"), paths, paths, grace, "1.2.3")


def file_for(wanted: Order) -> str:
    return unit_text(template(UNIT_OF_SYSTEM if wanted.given.system else UNIT_OF_USER), wanted)


def read(text: str) -> configparser.RawConfigParser:
    unit = configparser.RawConfigParser(strict=False, delimiters="=", comment_prefixes="#", interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(text)
    return unit


def all_values(text: str, key: str) -> list[str]:
    return [line.partition("=")[2] for line in text.splitlines() if line.startswith(f"{key}=")]


def words_of(value: str, *, command: bool = False) -> list[str]:
    """A value as systemd reads it: words, quotes, backslashes, then specifiers, then (in commands) variables."""
    literal = command and value.startswith(":")
    rest = value[1:] if literal else value
    words: list[str] = []
    word, quote, inside, at = "", "", False, 0
    while at < len(rest):
        letter = rest[at]
        if letter == "\\":
            at += 1
            assert rest[at] in '\\"', "any other escape means another letter in some settings"
            word += rest[at]
        elif quote:
            quote, word = ("", word) if letter == quote else (quote, word + letter)
        elif letter in "\"'":
            quote, inside = letter, True
        elif letter in " \t\n\r":
            if inside or word:
                words.append(word)
            word, inside = "", False
        else:
            word += letter
        at += 1
    assert not quote
    if inside or word:
        words.append(word)
    assert all("%" not in each.replace("%%", "") for each in words), "a specifier"
    assert literal or not command or not any("$" in each for each in words), "a variable"
    return [each.replace("%%", "%") for each in words]


@settings(max_examples=500)
@given(st.lists(NAMES, min_size=1, max_size=4))
def test_a_command_is_read_as_it_was_meant(words: list[str]) -> None:
    assert words_of(command_line(["/bin/x", *words]), command=True) == ["/bin/x", *words]


@settings(max_examples=500)
@given(NAMES)
def test_a_word_is_read_as_it_was_meant(word: str) -> None:
    assert words_of(quoted(word)) == [word]
    # Of two paths, separated by a colon, none has one outside of quotes.
    assert ":" not in quoted(word).split('"')[0]


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("/srv/simulations", "/srv/simulations"),
        ("/srv/my sims", '"/srv/my sims"'),
        ("/srv/50%", "/srv/50%%"),
        ("%h", "%%h"),
        ('a"b', r'"a\"b"'),
        ("a\\b", r'"a\\b"'),
        ("it's", '"it\'s"'),
        (";", '";"'),
        ("", '""'),
        ("a:b", '"a:b"'),
    ],
)
def test_quoting(word: str, text: str) -> None:
    assert quoted(word) == text


def test_a_dollar_means_itself_in_a_command_and_in_its_program() -> None:
    assert command_line(["/opt/$x/python", "$HOME"]) == ":/opt/$x/python $HOME"
    assert command_line(["/opt/x/python"]) == "/opt/x/python"


@pytest.mark.parametrize("name", ["/srv/a\nb", "/srv/a\tb", "/srv/a\x7f", "/srv/\udcff"])
def test_a_path_that_no_unit_can_name_is_refused(name: str) -> None:
    with pytest.raises(InitializationError, match="cannot be named") as caught:
        file_for(order(name))
    assert caught.value.code == "config_invalid"
    assert caught.value.path is not None
    caught.value.path.encode()


@pytest.mark.parametrize("name", ["it's", 'a"b', "a\\b"])
def test_a_program_that_systemd_would_not_run_is_refused(name: str) -> None:
    with pytest.raises(InitializationError, match="quote or a backslash"):
        file_for(replace(order(), python=Path("/opt") / name / "python"))


@pytest.mark.parametrize("system", [False, True])
def test_what_both_units_have(system: bool) -> None:
    text = file_for(order(system=system, grace=33.2))
    unit = read(text)
    assert unit.sections() == ["Unit", "Service", "Install", "X-Selfheald"]
    service = dict(unit["Service"])
    expected = {
        "Type": "notify",
        "NotifyAccess": "main",
        "Restart": "on-failure",
        "RestartPreventExitStatus": "2",
        "ExecReload": "/bin/kill -HUP $MAINPID",
        "KillMode": "mixed",
        "ExecStart": "/opt/selfheald/bin/python -m selfheald run /srv/simulations",
        "NoNewPrivileges": "yes",
    }
    assert {key: service.get(key) for key in expected} == expected
    assert float(service["WatchdogSec"]) > 0
    for folder in ("State", "Logs", "Cache"):
        assert service[f"{folder}Directory"] == "selfheald"
    # systemd makes the folder with the service's user as its owner, who would then write what names commands.
    assert service.get("ConfigurationDirectory") == (None if system else "selfheald")
    assert {"MemoryMax", "TasksMax", "LimitNOFILE"} <= set(service)
    assert float(service["TimeoutStopSec"]) >= 33.2 + 5
    assert int(unit["Unit"]["StartLimitBurst"]) * float(service["RestartSec"]) < float(
        unit["Unit"]["StartLimitIntervalSec"]
    ), "or the limit is never reached"
    assert unit["Unit"]["RequiresMountsFor"] == "/srv/simulations"
    assert unit["Install"]["WantedBy"] == ("multi-user.target" if system else "default.target")
    assert "@" not in "".join(line for line in text.splitlines() if not line.startswith(("#", "SystemCallFilter=")))


@pytest.mark.parametrize("grace", [0.0, 0.4, 20.0, 3600.0])
def test_a_stop_may_take_longer_than_the_grace(grace: float) -> None:
    for system in (False, True):
        service = read(file_for(order(system=system, grace=grace)))["Service"]
        assert int(service["TimeoutStopSec"]) >= math.ceil(grace) + 10
    assert Config().shutdown.grace == 20.0


def test_the_system_unit_may_write_the_workspaces_alone() -> None:
    text = file_for(order("/srv/a b", "/data/sims", system=True))
    service = read(text)["Service"]
    assert service["ProtectSystem"] == "strict"
    assert service["ProtectHome"] == "yes"
    assert all_values(text, "ReadWritePaths") == ['"/srv/a b"', "/data/sims"]
    assert "BindPaths" not in service
    assert all_values(text, "RequiresMountsFor") == ['"/srv/a b"', "/data/sims"]


def test_a_workspace_in_a_home_folder_is_all_that_the_system_unit_sees_of_it() -> None:
    text = file_for(order("/home/ana/sims", "/srv/sims", system=True))
    assert all_values(text, "ProtectHome") == ["tmpfs"]
    assert all_values(text, "BindPaths") == ["/home/ana/sims"]
    assert all_values(text, "ReadWritePaths") == ["/srv/sims"]


def test_a_mount_is_not_waited_for_where_its_name_cannot_be_told() -> None:
    text = file_for(order('/srv/a"b', system=True))
    assert all_values(text, "RequiresMountsFor") == []
    assert all_values(text, "ReadWritePaths") == [r'"/srv/a\"b"']


def test_it_never_runs_as_root_by_itself() -> None:
    service = read(file_for(order(system=True)))["Service"]
    assert service["User"] == "selfheald"
    assert "Group" not in service
    service = read(file_for(order(system=True, user="sim", group="analysts")))["Service"]
    assert (service["User"], service["Group"]) == ("sim", "analysts")
    assert "User" not in read(file_for(order()))["Service"]


@given(st.lists(NAMES, max_size=3), st.none() | NAMES, st.none() | NAMES, st.booleans())
def test_what_was_said_can_be_read_back(roots: list[str], config: str | None, user: str | None, system: bool) -> None:
    said = Given(system, tuple(f"/{root}" for root in roots), config, user)
    text = file_for(Order(said, Path("/x"), (), (), 1.0, "1"))
    assert given_in(text, system=system) == said
    assert text.count("\nGiven=") == 1


@pytest.mark.parametrize(
    "text", ["", "[Service]\n", "Given=\n", "Given=[]\n", 'Given={"roots": 5}\n', 'Given={"user": 1}']
)
def test_another_unit_is_none_of_ours(text: str) -> None:
    assert given_in(text, system=False) is None


def test_places_are_filled_once_and_only_where_they_are() -> None:
    filled = fill("# @A@ stays\nx=@A@\n@B@\n@C@\nf=@group\n", {"A": "@B@", "B": [], "C": ["@A@", "z"]})
    assert filled == "# @A@ stays\nx=@B@\n@A@\nz\nf=@group\n"


@pytest.mark.parametrize("name", [UNIT_OF_USER, UNIT_OF_SYSTEM])
def test_no_line_of_a_template_is_longer_than_ours(name: str) -> None:
    assert max(map(len, template(name).splitlines())) <= 120


@pytest.mark.parametrize(
    ("reach", "families", "private", "denied", "allowed"),
    [
        ("nobody", "AF_UNIX", ["yes"], ["any"], []),
        ("this machine", "AF_UNIX AF_INET AF_INET6", [], ["any"], ["localhost"]),
        ("others", "AF_UNIX AF_INET AF_INET6", [], [], []),
    ],
)
def test_the_network_is_as_wide_as_the_port_needs(
    reach: Reach, families: str, private: list[str], denied: list[str], allowed: list[str]
) -> None:
    text = file_for(replace(order(system=True), reach=reach))
    assert all_values(text, "RestrictAddressFamilies") == [families]
    assert all_values(text, "PrivateNetwork") == private
    assert all_values(text, "IPAddressDeny") == denied
    assert all_values(text, "IPAddressAllow") == allowed
