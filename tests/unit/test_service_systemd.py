"""What is asked of systemd, and what is made of its answers; a stand-in for `systemctl` and `journalctl` answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from selfheald.errors import InitializationError
from selfheald.service import systemd
from selfheald.service.order import Given, Order
from selfheald.service.programs import Done, run
from selfheald.service.systemd import Systemd

ORDER = Order(Given(False, ("/srv/s",)), Path("/x/python"), (Path("/srv/s"),), (Path("/srv/s"),), 20.0, "1")


class Systemctl:
    """Remembers what it was asked; ``starts`` are the conditions that a restart goes through."""

    def __init__(self, *starts: Mapping[str, str], now: Mapping[str, str] | None = None) -> None:
        self.now = {"ActiveState": "inactive", "SubState": "dead", "InvocationID": "", **(now or {})}
        self.starts = list(starts)
        self.pending: list[Mapping[str, str]] = []
        self.asked: list[list[str]] = []
        self.environs: list[Mapping[str, str]] = []
        self.refuses = ""

    def __call__(self, words: Sequence[str], environ: Mapping[str, str], seconds: float) -> Done:
        self.environs.append(environ)
        if words[0] == "journalctl":
            self.asked.append(list(words))
            return Done(0, "first word\nlast word\n")
        verb, *rest = [word for word in words[1:] if word not in ("--user", "--no-pager")]
        if verb == self.refuses:
            return Done(1, error="Access denied\n")
        if verb == "show":
            if self.pending:
                self.now |= self.pending.pop(0)
            return Done(0, "".join(f"{key}={value}\n" for key, value in self.now.items()))
        self.asked.append([verb, *rest])
        if verb == "restart":
            self.pending = list(self.starts)
        if verb == "is-system-running":
            return Done(0, "running\n")
        return Done(0)

    @property
    def verbs(self) -> list[str]:
        return [words[0] for words in self.asked]


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "LOOK_SECONDS", 0.0)


def user_manager(runner: Systemctl, **environ: str) -> Systemd:
    return Systemd(False, {"XDG_RUNTIME_DIR": "/run/user/5", "XDG_CONFIG_HOME": "/cfg", **environ}, runner)


READY = {"ActiveState": "active", "SubState": "running", "StatusText": "2 ready", "MainPID": "77", "InvocationID": "b"}


def test_it_is_enabled_started_and_waited_for() -> None:
    runner = Systemctl({"ActiveState": "activating", "StatusText": "starting: 5 folders", "InvocationID": "b"}, READY)
    said: list[str] = []
    assert user_manager(runner).begin(ORDER, changed=True, say=said.append) is True
    assert runner.verbs == ["daemon-reload", "enable", "reset-failed", "restart"]
    assert runner.asked[-1] == ["restart", "--no-block", "selfheald.service"]
    assert said == ["starting: 5 folders"]


def test_the_run_before_is_not_taken_for_the_new_one() -> None:
    still = {"ActiveState": "active", "InvocationID": "a"}
    runner = Systemctl(still, {"ActiveState": "deactivating"}, {"ActiveState": "failed"}, READY, now=still)
    said: list[str] = []
    assert user_manager(runner).begin(ORDER, changed=True, say=said.append) is True
    assert len(said) == 3


def test_what_runs_and_stays_as_it_is_is_not_restarted() -> None:
    runner = Systemctl(now=READY)
    assert user_manager(runner).begin(ORDER, changed=False, say=lambda _: None) is False
    assert "restart" not in runner.verbs


@pytest.mark.parametrize(
    "end",
    [
        {"ActiveState": "failed", "SubState": "failed", "Result": "exit-code"},
        {"ActiveState": "activating", "SubState": "auto-restart", "Result": "signal"},
    ],
)
def test_a_start_that_fails_is_told_with_its_last_words(end: dict[str, str]) -> None:
    runner = Systemctl(end | {"InvocationID": "b", "StatusText": "config_invalid: no such key"})
    with pytest.raises(InitializationError) as caught:
        user_manager(runner).begin(ORDER, changed=True, say=lambda _: None)
    error = caught.value
    assert error.code == "no_daemon"
    assert error.message.splitlines() == [
        "the service did not become ready: config_invalid: no such key", "first word", "last word",
    ]  # fmt: skip
    assert "journalctl --user -u selfheald" in error.hint
    assert "_SYSTEMD_INVOCATION_ID=b" in runner.asked[-1]


def test_a_start_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "START_SECONDS", 0.05)
    runner = Systemctl({"ActiveState": "activating", "InvocationID": "b"})
    with pytest.raises(InitializationError, match="did not become ready"):
        user_manager(runner).begin(ORDER, changed=True, say=lambda _: None)


@pytest.mark.parametrize("verb", ["daemon-reload", "enable", "restart"])
def test_what_systemd_refuses_is_told_with_the_command(verb: str) -> None:
    runner = Systemctl(READY)
    runner.refuses = verb
    with pytest.raises(InitializationError, match="Access denied") as caught:
        user_manager(runner).begin(ORDER, changed=True, say=lambda _: None)
    assert f"systemctl --user {verb}" in caught.value.hint


def test_it_is_stopped_and_forgotten() -> None:
    runner = Systemctl(now=READY)
    manager = user_manager(runner)
    manager.end()
    manager.forget()
    assert runner.asked == [
        ["disable", "--now", "selfheald.service"], ["daemon-reload"], ["reset-failed", "selfheald.service"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("found", "active", "detail", "pid"),
    [
        (READY, True, "active (running)", 77),
        ({"ActiveState": "reloading", "SubState": "reload"}, True, "reloading (reload)", None),
        ({"ActiveState": "failed", "SubState": "failed", "Result": "watchdog"}, False, "failed (watchdog)", None),
        ({"ActiveState": "inactive", "SubState": "dead", "MainPID": "0"}, False, "inactive (dead)", None),
        ({"LoadState": "masked"}, False, "masked", None),
    ],
)
def test_how_it_stands(found: Mapping[str, str], active: bool, detail: str, pid: int | None) -> None:
    condition = user_manager(Systemctl(now={"UnitFileState": "enabled", **found})).condition()
    assert (condition.active, condition.detail, condition.pid, condition.enabled) == (active, detail, pid, True)


def test_where_nobody_answers_that_is_said() -> None:
    condition = Systemd(False, {}, lambda *_: Done(127, error="systemctl is not installed")).condition()
    assert condition.detail.startswith("unknown")
    assert not condition.active


def test_where_the_units_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_manager(Systemctl()).file == Path("/cfg/systemd/user/selfheald.service")
    for config in ("", "relative"):
        manager = user_manager(Systemctl(), XDG_CONFIG_HOME=config)
        assert manager.file == tmp_path / ".config/systemd/user/selfheald.service"
    system = Systemd(True, {}, Systemctl())
    assert system.file == Path("/etc/systemd/system/selfheald.service")
    assert system.log_command == "journalctl -u selfheald"
    assert system.start_command == "sudo systemctl start selfheald"
    assert user_manager(Systemctl()).start_command == "systemctl --user start selfheald"


def test_a_machine_without_systemd_has_a_next_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(systemd, "BOOTED", tmp_path / "none")
    for system in (False, True):
        with pytest.raises(InitializationError, match="not run by systemd") as caught:
            Systemd(system, {}, Systemctl()).require()
        assert "selfheald run" in caught.value.hint


def test_a_user_without_a_manager_has_a_next_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(systemd, "BOOTED", tmp_path)
    user_manager(Systemctl()).require()
    manager = Systemd(False, {"XDG_RUNTIME_DIR": "/x"}, lambda *_: Done(1, error="Failed to connect to bus\n"))
    with pytest.raises(InitializationError, match="cannot be reached: Failed to connect to bus") as caught:
        manager.require()
    assert "loginctl enable-linger" in caught.value.hint


def test_the_runtime_folder_is_found_where_no_variable_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "_runtime_folder", lambda environ: Path("/run/user/9"))
    runner = Systemctl()
    Systemd(False, {}, runner).condition()
    assert runner.environs[-1]["XDG_RUNTIME_DIR"] == "/run/user/9"


def test_programs_that_fail_end_as_in_a_shell() -> None:
    assert run(["/bin/sh", "-c", "echo out; echo err >&2; exit 3"], {}, 10) == Done(3, "out\n", "err\n")
    assert run(["no-such-program-here"], {"PATH": "/nowhere"}, 10).code == 127
    assert run(["/bin/sleep", "30"], {}, 0.1).code == 124
    assert Done(1, "a\nb", "").said == "a b"
