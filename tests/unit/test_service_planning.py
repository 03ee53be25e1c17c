"""What a person says, and what a service is to run because of that; how an installed one is judged."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from selfheald.errors import InitializationError
from selfheald.service import planning
from selfheald.service.installing import Standing
from selfheald.service.judgement import judged, none_installed
from selfheald.service.manager import Condition
from selfheald.service.order import Given
from selfheald.service.planning import planned, unheard
from selfheald.service.systemd import Systemd


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No configuration of this machine is found, and nothing here is in a temporary folder or in a home."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    monkeypatch.setattr(planning, "HOMES", (tmp_path / "home",))
    monkeypatch.setattr(planning, "TEMPORARY", (tmp_path / "temporary",))
    monkeypatch.chdir(tmp_path)


def folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def test_roots_that_are_given(tmp_path: Path) -> None:
    root = folder(tmp_path / "sims")
    order, config = planned(Given(roots=(str(root), str(folder(root / "below")))), {})
    assert order.roots == order.writable == (root,)
    assert config.watch.roots == (root, root / "below")
    assert order.command == [sys.executable, "-m", "selfheald", "run", str(root), str(root / "below")]
    assert order.grace == 20.0


def test_roots_of_the_configuration(tmp_path: Path) -> None:
    root, file = folder(tmp_path / "sims"), tmp_path / "s.toml"
    file.write_text(f'[watch]\nroots = ["{root}"]\n[shutdown]\ngrace = 45\n')
    order, _ = planned(Given(config=str(file)), {})
    assert order.command == [sys.executable, "-m", "selfheald", "run", "--config", str(file)]
    assert (order.roots, order.grace) == ((root,), 45.0)
    order, _ = planned(Given(), {"SELFHEALD_CONFIG": str(file)})
    assert order.given.config == str(file)


@pytest.mark.parametrize(
    ("listen", "reach"),
    [
        ("", "nobody"),
        ("127.0.0.1:9187", "this machine"),
        ("localhost:9187", "this machine"),
        ("[::1]:9187", "this machine"),
        ("0.0.0.0:9187", "others"),
        ("planning.example:9187", "others"),
    ],
)
def test_who_reaches_the_port_is_read_from_the_configuration(tmp_path: Path, listen: str, reach: str) -> None:
    root, file = folder(tmp_path / "sims"), tmp_path / "s.toml"
    file.write_text(f'[watch]\nroots = ["{root}"]\n[metrics]\nlisten = "{listen}"\n')
    assert planned(Given(config=str(file)), {})[0].reach == reach


def test_a_link_is_followed_to_what_may_be_written(tmp_path: Path) -> None:
    root = folder(tmp_path / "sims")
    (tmp_path / "link").symlink_to(root)
    order, _ = planned(Given(roots=(str(tmp_path / "link"),)), {})
    assert order.writable == (root,)
    assert order.command[-1] == str(tmp_path / "link")


def test_folders_of_its_own_that_the_file_names_may_be_written(tmp_path: Path) -> None:
    root, file = folder(tmp_path / "sims"), tmp_path / "s.toml"
    file.write_text(
        f'state_dir = "{tmp_path}/state"\n[watch]\nroots = ["{root}"]\n[log]\nfile = "{root}/logs/selfheald.log"\n'
    )
    order, _ = planned(Given(config=str(file)), {})
    assert order.writable == (root, tmp_path / "state")


def test_settings_of_this_shell_are_not_the_service_s(tmp_path: Path) -> None:
    root = folder(tmp_path / "sims")
    environ = {"SELFHEALD_SHUTDOWN__GRACE": "99", "SELFHEALD_WATCH__MODE": "nonsense", "SELFHEALD_STATE_DIR": "/x"}
    order, _ = planned(Given(roots=(str(root),)), environ)
    assert order.grace == 20.0
    told = unheard({**environ, "SELFHEALD_CONFIG": "/x", "SELFHEALD_MINE": "1", "PATH": "/bin"})
    assert [line.split()[0] for line in told] == sorted(environ)


def test_what_is_wrong_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InitializationError, match="no folder to watch"):
        planned(Given(), {})
    with pytest.raises(InitializationError, match="does not exist") as caught:
        planned(Given(roots=(str(tmp_path / "a b"),)), {})
    assert caught.value.hint.startswith(f"mkdir -p '{tmp_path}/a b'")
    (tmp_path / "file").touch()
    with pytest.raises(InitializationError, match="is not a folder"):
        planned(Given(roots=(str(tmp_path / "file"),)), {})
    (tmp_path / "s.toml").write_text("[watch]\nrots = []\n")
    with pytest.raises(InitializationError, match=r"s\.toml:2: watch\.rots: unknown key") as caught:
        planned(Given(config=str(tmp_path / "s.toml")), {})
    assert caught.value.code == "config_invalid"


@pytest.mark.skipif(sys.platform == "darwin", reason="nothing is hidden there")
class TestOfTheSystem:
    def test_a_workspace_in_a_home_folder_is_shown_in_it(self, tmp_path: Path) -> None:
        root = folder(tmp_path / "home" / "ana" / "sims")
        order, _ = planned(Given(True, (str(root),)), {})
        assert order.writable == (root,)

    def test_all_homes_together_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InitializationError, match="all home folders together"):
            planned(Given(True, (str(folder(tmp_path / "home")),)), {})

    def test_a_workspace_in_a_temporary_folder_is_refused(self, tmp_path: Path) -> None:
        root = folder(tmp_path / "temporary" / "sims")
        with pytest.raises(InitializationError, match="has its own") as caught:
            planned(Given(True, (str(root),)), {})
        assert caught.value.path == str(root)
        assert planned(Given(False, (str(root),)), {})[0].roots == (root,)

    @pytest.mark.parametrize("key", ["python", "project_dir", "profiles_dir"])
    def test_what_the_sandbox_hides_is_named_by_its_key(self, tmp_path: Path, key: str) -> None:
        root, file = folder(tmp_path / "sims"), tmp_path / "s.toml"
        hidden = folder(tmp_path / "home" / "ana") / "thing"
        file.write_text(f'[watch]\nroots = ["{root}"]\n[dbt]\n{key} = "{hidden}"\n')
        with pytest.raises(InitializationError, match=rf"^dbt\.{key} ") as caught:
            planned(Given(True, config=str(file)), {})
        assert caught.value.path == str(hidden)
        planned(Given(False, config=str(file)), {})

    def test_a_configuration_in_a_home_folder_is_refused(self, tmp_path: Path) -> None:
        root, file = folder(tmp_path / "sims"), folder(tmp_path / "home") / "s.toml"
        file.write_text(f'[watch]\nroots = ["{root}"]\n')
        with pytest.raises(InitializationError, match="the configuration") as caught:
            planned(Given(True, config=str(file)), {})
        assert "/etc/selfheald" in caught.value.hint

    @pytest.mark.parametrize("place", ["executable", "prefix", "base_prefix"])
    def test_an_interpreter_in_a_home_folder_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
    ) -> None:
        root = folder(tmp_path / "sims")
        monkeypatch.setattr(sys, place, str(tmp_path / "home" / "ana" / ".venv"))
        with pytest.raises(InitializationError, match="interpreter") as caught:
            planned(Given(True, (str(root),)), {})
        assert "/opt/selfheald" in caught.value.hint

    def test_a_link_into_a_home_folder_is_found_out(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """As a virtual environment's interpreter is one."""
        real = folder(tmp_path / "home" / "ana") / "python3"
        real.touch()
        (tmp_path / "python").symlink_to(real)
        monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
        with pytest.raises(InitializationError, match="interpreter"):
            planned(Given(True, (str(folder(tmp_path / "sims")),)), {})


def standing(
    condition: Condition, *, outdated: str | None = None, another: str | None = None, system: bool = False
) -> Standing:
    return Standing(Systemd(system, {}), Given(system, ("/srv/s",)), condition, outdated, another)


RUNS = Condition(True, True, "active (running)", "2 ready", 5)


def test_a_service_as_it_should_be_is_green() -> None:
    assert [status for status, _, _ in judged(standing(RUNS), system=False)] == ["green", "green"]


@pytest.mark.parametrize(
    ("found", "statuses", "hint"),
    [
        (standing(RUNS, outdated="x"), ["green", "yellow"], "selfheald service install /srv/s"),
        (standing(RUNS, outdated="x", system=True), ["green", "yellow"], "install --system /srv/s"),
        (standing(Condition(False, True, "active")), ["green", "yellow", "green"], "selfheald service install"),
        (standing(Condition(True, False, "failed (exit-code)", "config_invalid")), ["red", "green"], "journalctl"),
        (standing(Condition(True, False, "activating (auto-restart)")), ["red", "green"], "journalctl"),
        (standing(Condition(True, False, "inactive (dead)")), ["yellow", "green"], "journalctl"),
        (standing(RUNS, another="/opt/x/python"), ["green", "green"], None),
    ],
)
def test_a_service_that_needs_a_hand(found: Standing, statuses: list[str], hint: str | None) -> None:
    told = judged(found, system=found.manager.file.parts[1] == "etc")
    assert [status for status, _, _ in told] == statuses
    hints = [each for _, _, each in told if each]
    assert (hint is None and not hints) or any(str(hint) in each for each in hints)
    assert all(each for status, _, each in told if status == "red")


def test_where_none_is_installed_that_is_worth_a_look() -> None:
    assert [status for status, _, _ in none_installed()] == ["yellow"]
