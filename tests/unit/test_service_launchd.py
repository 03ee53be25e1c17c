"""launchd's jobs: what is in them, that broken ones are caught, and what `launchctl` is asked for."""

from __future__ import annotations

import plistlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from selfheald.errors import InitializationError
from selfheald.service import launchd
from selfheald.service.launchd import Launchd
from selfheald.service.launchd_keys import faults
from selfheald.service.launchd_text import given_in, job_text
from selfheald.service.order import Given, Order
from selfheald.service.programs import Done
from selfheald.service.shipped import AGENT, DAEMON, template

HOME, LOG = Path("/Volumes/home"), Path("/Volumes/home/Library/Logs/selfheald/launchd.log")


def order(*, system: bool = False, root: str = "/srv/sims", grace: float = 20.0, **given: str) -> Order:
    return Order(
        Given(system, (root,), **given), Path("/opt/s/bin/python"), (Path(root),), (Path(root),), grace, "1.2.3"
    )


def text(wanted: Order) -> str:
    return job_text(template(DAEMON if wanted.given.system else AGENT), wanted, home=HOME, log=LOG)


def job(wanted: Order) -> dict[str, Any]:
    return dict(plistlib.loads(text(wanted).encode()))


@pytest.mark.parametrize("system", [False, True])
def test_a_job_is_sound_and_whole(system: bool) -> None:
    made = job(order(system=system, grace=33.5))
    assert faults(made, daemon=system) == []
    assert made["ProgramArguments"] == ["/opt/s/bin/python", "-m", "selfheald", "run", "/srv/sims"]
    assert made["KeepAlive"] == {"SuccessfulExit": False}
    assert made["RunAtLoad"] is True
    assert made["ThrottleInterval"] >= 10
    assert made["ExitTimeOut"] == 44
    assert made["ProcessType"] == "Standard"
    assert made["WorkingDirectory"] == str(HOME)
    assert made["StandardOutPath"] == made["StandardErrorPath"] == str(LOG)
    assert made["EnvironmentVariables"]["HOME"] == str(HOME)
    assert made["EnvironmentVariables"]["PATH"].split(":")[0] == "/opt/s/bin"
    assert "/usr/bin" in made["EnvironmentVariables"]["PATH"].split(":")
    assert "@" not in text(order(system=system))


def test_a_daemon_runs_as_its_user_and_an_agent_as_oneself() -> None:
    daemon, agent = job(order(system=True)), job(order())
    assert (daemon["UserName"], daemon["InitGroups"], daemon["Umask"]) == ("selfheald", True, 0o002)
    assert "GroupName" not in daemon
    assert job(order(system=True, user="sim", group="analysts"))["GroupName"] == "analysts"
    assert not {"UserName", "GroupName", "InitGroups", "Umask"} & set(agent)


@pytest.mark.parametrize("root", ["/srv/<&> \"'%$@X@ é\\", "/srv/]]>", "/srv/ a "])
def test_a_path_is_read_as_it_was_meant(root: str) -> None:
    assert job(order(root=root))["ProgramArguments"][-1] == root
    said = given_in(text(order(root=root, config="/etc/x", user="u")), system=False)
    assert said == Given(False, (root,), "/etc/x", "u")


@pytest.mark.parametrize("root", ["/srv/a\x01b", "/srv/\udcff"])
def test_a_path_that_no_job_can_name_is_refused(root: str) -> None:
    with pytest.raises(InitializationError) as caught:
        text(order(root=root))
    assert caught.value.code == "config_invalid"


@pytest.mark.parametrize(
    "other", ["", "<plist>", "not xml", plistlib.dumps({"Label": "x"}).decode(), plistlib.dumps([1]).decode()]
)
def test_another_job_is_none_of_ours(other: str) -> None:
    assert given_in(other, system=False) is None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"KeepALive": True}, "KeepALive is no key"),
        ({"KeepAlive": "yes"}, "KeepAlive cannot be 'yes'"),
        ({"KeepAlive": {"SuccesfulExit": False}}, "KeepAlive cannot"),
        ({"KeepAlive": {"SuccessfulExit": 0}}, "KeepAlive cannot"),
        ({"KeepAlive": {}}, "KeepAlive cannot"),
        ({"RunAtLoad": 1}, "RunAtLoad cannot"),
        ({"ThrottleInterval": "30"}, "ThrottleInterval cannot"),
        ({"ThrottleInterval": True}, "ThrottleInterval cannot"),
        ({"ExitTimeOut": -1}, "ExitTimeOut cannot"),
        ({"ProgramArguments": "python -m selfheald"}, "ProgramArguments cannot"),
        ({"ProgramArguments": []}, "ProgramArguments cannot"),
        ({"ProgramArguments": ["python", "-m"]}, "ProgramArguments cannot"),
        ({"StandardErrorPath": "~/Library/x.log"}, "StandardErrorPath cannot"),
        ({"WorkingDirectory": "$HOME"}, "WorkingDirectory cannot"),
        ({"EnvironmentVariables": {"PATH": 5}}, "EnvironmentVariables cannot"),
        ({"EnvironmentVariables": ["PATH=x"]}, "EnvironmentVariables cannot"),
        ({"ProcessType": "background"}, "ProcessType cannot"),
        ({"SoftResourceLimits": {"NumberOfFile": 5}}, "SoftResourceLimits cannot"),
        ({"Umask": "0002"}, "Umask cannot"),
        ({"Nice": 40}, "Nice cannot"),
        ({"UserName": "ana"}, "UserName is for daemons"),
        ({"Label": ""}, "Label cannot"),
        ({"Label": None}, "Label cannot"),
    ],
)
def test_a_broken_job_is_caught(change: dict[str, object], told: str) -> None:
    found = faults(job(order()) | change, daemon=False)
    assert len(found) == 1
    assert found[0].startswith(told)


def test_a_job_that_lacks_something_is_caught() -> None:
    assert faults({}, daemon=False) == ["Label is missing", "ProgramArguments is missing"]
    bare = {"Label": "x", "ProgramArguments": ["/x"]}
    assert faults(bare, daemon=False) == []
    assert faults(bare, daemon=True) == ["UserName is missing: it would run as root"]


def test_a_broken_template_makes_no_job() -> None:
    broken = template(AGENT).replace("RunAtLoad", "RunAtLogin")
    with pytest.raises(InitializationError, match="RunAtLogin is no key"):
        job_text(broken, order(), home=HOME, log=LOG)


class Launchctl:
    """Stands for ``launchctl``: remembers what it was asked, and whether the job is loaded and runs."""

    def __init__(self, *, loaded: bool = False, dies: bool = False) -> None:
        self.asked: list[str] = []
        self.loaded, self.dies = loaded, dies
        self.refuses = ""

    def __call__(self, words: Sequence[str], environ: Mapping[str, str], seconds: float) -> Done:
        assert words[0] == "launchctl"
        verb = words[1]
        self.asked.append(verb)
        if verb == self.refuses:
            return Done(5, error="Bootstrap failed: 5: Input/output error")
        if verb == "bootstrap":
            self.loaded = True
        elif verb == "bootout":
            self.loaded = False
        elif verb == "print" and words[2].endswith("/selfheald"):
            if not self.loaded:
                return Done(113, error="Could not find service")
            if self.dies:
                return Done(0, "\tstate = spawn scheduled\n\tlast exit code = 1\n")
            return Done(0, "\tstate = running\n\tpid = 4242\n\tlast exit code = (never exited)\n")
        return Done(0)

    @property
    def deeds(self) -> list[str]:
        return [verb for verb in self.asked if verb != "print"]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Launchctl], Launchd]:
    monkeypatch.setattr(launchd, "LOOK_SECONDS", 0.001)
    monkeypatch.setattr(launchd, "daemon_record", lambda root: {"state": "ready", "pid": 4242})
    return lambda runner: Launchd(False, {}, runner, home=tmp_path)


def quiet(_: str) -> None:
    """Nobody listens."""


def test_a_job_is_loaded_and_waited_for(make: Callable[[Launchctl], Launchd], tmp_path: Path) -> None:
    runner = Launchctl()
    manager = make(runner)
    assert manager.begin(order(), changed=True, say=quiet) is True
    assert runner.deeds == ["enable", "bootstrap"]
    assert (tmp_path / "Library/Logs/selfheald").is_dir()
    assert manager.condition().active
    assert manager.condition().pid == 4242
    assert manager.file == tmp_path / "Library/LaunchAgents/selfheald.plist"


def test_one_that_runs_is_left_alone_or_loaded_anew(make: Callable[[Launchctl], Launchd]) -> None:
    runner = Launchctl(loaded=True)
    manager = make(runner)
    assert manager.begin(order(), changed=False, say=quiet) is False
    assert runner.deeds == []
    assert manager.begin(order(), changed=True, say=quiet) is True
    assert runner.deeds == ["bootout", "enable", "bootstrap"]
    manager.end()
    assert not manager.condition().enabled


def test_the_daemon_before_is_not_taken_for_the_new_one(
    make: Callable[[Launchctl], Launchd], monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [{"state": "ready", "pid": 1}, {"state": "starting", "pid": 4242}, {"state": "ready", "pid": 4242}]
    monkeypatch.setattr(launchd, "daemon_record", lambda root: records.pop(0))
    assert make(Launchctl()).begin(order(), changed=True, say=quiet) is True
    assert records == []


def test_one_that_dies_is_told_with_its_last_words(make: Callable[[Launchctl], Launchd], tmp_path: Path) -> None:
    log = tmp_path / "Library/Logs/selfheald/launchd.log"
    log.parent.mkdir(parents=True)
    log.write_text("old\n" * 20 + "error[config_invalid]: no\n")
    with pytest.raises(InitializationError, match="did not become ready: spawn scheduled") as caught:
        make(Launchctl(dies=True)).begin(order(), changed=True, say=quiet)
    assert caught.value.code == "no_daemon"
    assert caught.value.message.endswith("error[config_invalid]: no")
    assert str(log) in caught.value.hint


@pytest.mark.parametrize(
    ("verb", "told"), [("bootstrap", "launchctl bootstrap gui/"), ("bootout", "launchctl bootout gui/")]
)
def test_what_launchctl_refuses_is_told(make: Callable[[Launchctl], Launchd], verb: str, told: str) -> None:
    runner = Launchctl(loaded=True)
    runner.refuses = verb
    with pytest.raises(InitializationError, match=told) as caught:
        make(runner).begin(order(), changed=True, say=quiet)
    assert "Input/output error" in caught.value.message


def test_without_a_session_there_is_a_next_step(make: Callable[[Launchctl], Launchd]) -> None:
    runner = Launchctl()
    runner.refuses = "print"
    with pytest.raises(InitializationError, match="launchd cannot be reached") as caught:
        make(runner).require()
    assert "--system" in caught.value.hint
