"""The service on a real disk: units as systemd itself reads them, files written and removed, workspaces prepared."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from selfheald import watch
from selfheald.cli import app
from selfheald.client import make_private_folder
from selfheald.errors import InitializationError
from selfheald.service import installing, planning, systemd
from selfheald.service.account import Account
from selfheald.service.installing import install, standing, uninstall
from selfheald.service.order import Given, Order
from selfheald.service.programs import Done
from selfheald.service.rehearsal import rehearse
from selfheald.service.shipped import UNIT_OF_SYSTEM, UNIT_OF_USER, template
from selfheald.service.systemd import Systemd
from selfheald.service.unit_text import NAME, unit_text

ROOT = Path(__file__).parents[2]
ANALYZE = shutil.which("systemd-analyze")
needs_analyze = pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")
#: Names that have to be quoted, each in its own way.
HARD = ["a b", "50%h %%", "$HOME ${X}", "a:b;c", "-dash", "é 漢", "#@X@", "*?[]"]
#: systemd runs no program of such a name, however it is quoted.
QUOTES = ["it's", 'say "x"', "back\\slash\\"]


def new(folder: Path) -> Path:
    folder.mkdir()
    return folder


def quiet(_: str) -> None:
    """Nobody listens."""


def analyzed(folder: Path, text: str, *words: str) -> subprocess.CompletedProcess[str]:
    assert ANALYZE is not None
    unit = folder / NAME
    unit.write_text(text, encoding="utf-8")
    folder.chmod(0o700)
    return subprocess.run(
        [ANALYZE, "--man=no", "--no-pager", *words, str(unit)],
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "XDG_RUNTIME_DIR": str(folder), "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def unit(*roots: str, system: bool, python: str = sys.executable) -> str:
    paths = tuple(map(Path, roots))
    wanted = Order(Given(system, roots, user="root" if system else None), Path(python), paths, paths, 20.0, "1.2.3")
    return unit_text(template(UNIT_OF_SYSTEM if system else UNIT_OF_USER), wanted)


@needs_analyze
class TestAsSystemdReadsThem:
    @pytest.mark.parametrize("system", [False, True])
    @pytest.mark.parametrize("roots", [["/srv/sims"], [f"/srv/{name}" for name in HARD + QUOTES], ["/home/ana/sims"]])
    def test_a_unit_has_no_fault(self, tmp_path: Path, system: bool, roots: list[str]) -> None:
        scope = "--system" if system else "--user"
        done = analyzed(tmp_path, unit(*roots, system=system), scope, "--recursive-errors=yes", "verify")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    def test_a_fault_would_be_seen(self, tmp_path: Path) -> None:
        text = unit("/srv/sims", system=True).replace("KillMode=", "KilMode=")
        assert analyzed(tmp_path, text, "--recursive-errors=yes", "verify").returncode != 0

    @pytest.mark.parametrize("name", HARD)
    def test_the_program_is_the_one_that_was_meant(self, tmp_path: Path, name: str) -> None:
        """It is looked for, and found under its own name alone."""
        program = tmp_path / "bin" / name
        program.parent.mkdir()
        program.symlink_to("/bin/true")
        text = unit("/srv/sims", system=False, python=str(program))
        words = ("--user", "--recursive-errors=yes", "verify")
        done = analyzed(tmp_path, text, *words)
        assert (done.returncode, done.stderr) == (0, "")
        program.unlink()
        done = analyzed(tmp_path, text, *words)
        assert done.returncode != 0
        assert "is not executable" in done.stderr

    @pytest.mark.parametrize("root", ["/srv/sims", "/home/ana/sims"])
    def test_the_system_s_unit_is_hardly_exposed(self, tmp_path: Path, root: str) -> None:
        text = unit(root, system=True).replace("User=root", "User=selfheald")
        done = analyzed(tmp_path, text, "--offline=true", "--threshold=5", "security")
        assert done.returncode == 0, done.stdout
        opened = text.replace("ProtectSystem=strict", "ProtectSystem=no")
        assert analyzed(tmp_path, opened, "--offline=true", "--threshold=5", "security").returncode != 0


class Systemctl:
    """Stands for `systemctl`: a service that starts when it is told to."""

    def __init__(self) -> None:
        self.runs, self.enabled, self.restarts = False, False, 0
        self.broken = False

    def __call__(self, words: Sequence[str], environ: Mapping[str, str], seconds: float) -> Done:
        verb = next((word for word in words[1:] if not word.startswith("-")), "")
        if verb == "is-system-running":
            return Done(0, "running\n")
        if verb == "enable":
            self.enabled = True
        elif verb == "restart":
            self.runs, self.restarts = True, self.restarts + 1
        elif verb == "disable":
            self.runs = self.enabled = False
        elif verb == "show":
            state = "failed" if self.broken else "active" if self.runs else "inactive"
            enabled = "enabled" if self.enabled else "disabled"
            run = str(self.restarts or "")
            return Done(0, f"ActiveState={state}\nUnitFileState={enabled}\nInvocationID={run}\nStatusText=1 ready\n")
        return Done(0)


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Systemctl:
    monkeypatch.setattr(systemd, "BOOTED", tmp_path)
    monkeypatch.setattr(systemd, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(os, "geteuid", lambda: 4001)
    return Systemctl()


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"XDG_CONFIG_HOME": str(tmp_path / "config"), "XDG_RUNTIME_DIR": str(tmp_path)}


@pytest.fixture
def manager(runner: Systemctl, environ: dict[str, str]) -> Systemd:
    return Systemd(False, environ, runner)


@pytest.fixture
def given(tmp_path: Path) -> Iterator[Given]:
    root = tmp_path / "sims"
    root.mkdir()
    yield Given(roots=(str(root),))
    assert sorted(path.name for path in root.iterdir()) in ([], [".selfheald"])


def test_it_is_installed_left_alone_renewed_and_removed(
    manager: Systemd, runner: Systemctl, given: Given, environ: dict[str, str], tmp_path: Path
) -> None:
    assert standing(manager, environ).as_dict()["installed"] is False
    order, _ = planning.planned(given, environ)
    assert install(order, manager, quiet) == "installed"
    assert stat.S_IMODE(manager.file.stat().st_mode) == 0o644
    assert (tmp_path / "sims" / ".selfheald").is_dir()
    assert (runner.runs, runner.enabled, runner.restarts) == (True, True, 1)
    found = standing(manager, environ)
    assert found.as_dict() | {"file": "", "pid": 0} == {
        "format": 1, "manager": "systemd", "file": "", "installed": True, "enabled": True, "active": True,
        "detail": "active", "status": "1 ready", "pid": 0, "current": True, "outdated": None, "error": None,
    }  # fmt: skip
    assert found.install_command == f"selfheald service install {tmp_path}/sims"

    assert install(order, manager, quiet) == "unchanged"
    assert runner.restarts == 1
    runner.runs = False
    assert install(order, manager, quiet) == "started"
    assert install(replace(order, grace=60.0), manager, quiet) == "renewed"
    assert runner.restarts == 3
    outdated = standing(manager, environ)
    assert outdated.outdated == "it would say now: TimeoutStopSec=30"
    assert outdated.as_dict()["current"] is False

    assert uninstall(manager, given) is True
    assert list(manager.file.parent.iterdir()) == []
    assert (tmp_path / "sims" / ".selfheald").is_dir()
    assert (runner.runs, runner.enabled) == (False, False)
    assert uninstall(manager, given) is False


def test_a_service_that_can_no_longer_be_installed_is_out_of_date(
    manager: Systemd, given: Given, environ: dict[str, str], tmp_path: Path
) -> None:
    install(planning.planned(given, environ)[0], manager, quiet)
    (tmp_path / "sims" / ".selfheald").rmdir()
    (tmp_path / "sims").rename(tmp_path / "elsewhere")
    assert "does not exist" in str(standing(manager, environ).outdated)
    (tmp_path / "elsewhere").rename(tmp_path / "sims")


def test_one_of_another_interpreter_is_that_one_s_to_judge(
    manager: Systemd, given: Given, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(planning.planned(given, environ)[0], manager, quiet)
    mine = sys.executable
    monkeypatch.setattr(sys, "executable", "/opt/other/python")
    found = standing(manager, environ)
    assert (found.another, found.outdated, found.as_dict()["current"]) == (mine, None, None)


def test_a_unit_of_somebody_else_s_is_left_alone(manager: Systemd, given: Given, environ: dict[str, str]) -> None:
    manager.file.parent.mkdir(parents=True)
    manager.file.write_text("[Service]\nExecStart=/bin/true\n")
    deeds: list[Callable[[], object]] = [
        lambda: install(planning.planned(given, environ)[0], manager, quiet),
        lambda: uninstall(manager, given),
    ]
    for deed in deeds:
        with pytest.raises(InitializationError, match="was not written by selfheald") as caught:
            deed()
        assert caught.value.hint.startswith("Keep what is of use")
    assert manager.file.read_text() == "[Service]\nExecStart=/bin/true\n"
    assert standing(manager, environ).outdated == "it was not written by selfheald"


def test_a_start_that_fails_leaves_the_unit_to_be_looked_at(
    manager: Systemd, runner: Systemctl, given: Given, environ: dict[str, str]
) -> None:
    runner.broken = True
    with pytest.raises(InitializationError, match="did not become ready"):
        install(planning.planned(given, environ)[0], manager, quiet)
    assert manager.file.exists()


def test_nobody_installs_what_is_not_theirs(
    manager: Systemd, given: Given, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    order, _ = planning.planned(given, environ)
    of_system = replace(order, given=replace(given, system=True))
    with pytest.raises(InitializationError, match="only root") as caught:
        install(of_system, manager, quiet)
    assert caught.value.code == "permission_denied"
    assert "sudo" in caught.value.hint
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(InitializationError, match="would do everything as root") as caught:
        install(order, manager, quiet)
    assert "--system" in caught.value.hint
    assert not manager.file.exists()


def test_a_file_that_cannot_be_written_is_told(
    manager: Systemd, given: Given, environ: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "config").write_text("no folder")
    with pytest.raises(InitializationError, match=r"cannot (read|write)"):
        install(planning.planned(given, environ)[0], manager, quiet)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
class TestRehearsal:
    def order(self, root: Path, config: Path | None = None) -> Order:
        """For an interpreter that finds this very selfheald: what the tests' own environment says is not handed on."""
        python = root.parent / "this-python"
        python.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" "$@"\n')
        python.chmod(0o755)
        given = Given(True, (str(root),), None if config is None else str(config))
        return Order(given, python, (root,), (root,), 1.0, "1")

    def test_folders_are_made_as_the_service_would_make_them(self, tmp_path: Path) -> None:
        root = new(tmp_path / "sims")
        os.chown(root, 0, 4500)
        root.chmod(0o2770)
        rehearse(self.order(root), Account("root", 0, 4001, frozenset({4500})))
        made = (root / ".selfheald").stat()
        assert (made.st_gid, stat.S_IMODE(made.st_mode)) == (4500, 0o2770)

    def test_a_configuration_that_it_cannot_use_is_told(self, tmp_path: Path) -> None:
        config = tmp_path / "s.toml"
        config.write_text("[watch]\nsettle = -1\n")
        with pytest.raises(InitializationError, match=r"s\.toml:2: watch\.settle") as caught:
            rehearse(self.order(new(tmp_path / "sims"), config), Account("root", 0, 0, frozenset()))
        assert caught.value.code == "config_invalid"

    def test_an_interpreter_that_it_cannot_run_is_told(self, tmp_path: Path) -> None:
        python = tmp_path / "python"
        python.write_text("#!/bin/sh\necho 'No module named selfheald' >&2; exit 1\n")
        python.chmod(0o755)
        for interpreter, why in ((python, "No module named"), (tmp_path / "none", "No such file")):
            order = replace(self.order(new(tmp_path / f"{why}")), python=interpreter)
            with pytest.raises(InitializationError, match=f"cannot run .*{why}") as caught:
                rehearse(order, Account("sim", 0, 0, frozenset()))
            assert "/opt/selfheald" in caught.value.hint


def test_a_setgid_that_a_sandbox_refuses_is_inherited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As under RestrictSUIDSGID=, where no mode with setgid may be given."""
    tmp_path.chmod(0o2777)
    real = os.fchmod

    def refusing(handle: int, mode: int) -> None:
        if mode & stat.S_ISGID:
            raise PermissionError(1, "Operation not permitted")
        real(handle, mode)

    monkeypatch.setattr(os, "fchmod", refusing)
    before = os.umask(0o022)
    try:
        make_private_folder(tmp_path / ".selfheald")
    finally:
        os.umask(before)
    assert (tmp_path / ".selfheald").stat().st_mode & stat.S_ISGID


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone makes files of others")
def test_a_watch_probe_of_another_user_s_daemon_is_replaced() -> None:
    with tempfile.TemporaryDirectory() as folder:  # that of pytest is closed to others
        Path(folder).chmod(0o777)
        probe = Path(folder) / watch.PROBE
        probe.touch(0o644)
        os.seteuid(65534)
        try:
            watch._touch(probe)
        finally:
            os.seteuid(0)
        assert probe.stat().st_uid == 65534


class TestOnTheCommandLine:
    def invoke(self, *words: str) -> tuple[int, str, str]:
        done = CliRunner().invoke(app, ["service", *words])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.exit_code, done.stdout, done.stderr

    @pytest.fixture(autouse=True)
    def _manager(self, manager: Systemd, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(installing, "manager_for", lambda system, environ: manager)
        for name in [name for name in os.environ if name.startswith("SELFHEALD_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
        monkeypatch.chdir(tmp_path)

    def test_a_dry_run_prints_the_file_alone(
        self, given: Given, manager: Systemd, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SELFHEALD_WATCH__RESCAN", "5")
        code, output, error = self.invoke("install", "--dry-run", *given.roots)
        assert code == 0
        assert "note: SELFHEALD_WATCH__RESCAN is set here" in error
        order, _ = planning.planned(given, os.environ)
        assert output == manager.text_for(order)
        assert not manager.file.exists()

    def test_its_whole_life(self, given: Given, manager: Systemd, runner: Systemctl) -> None:
        code, output, _ = self.invoke("install", *given.roots)
        assert (code, output.splitlines()[0]) == (0, f"Installed: {manager.file}")
        assert "up to date" in output
        assert self.invoke("install", *given.roots)[1].startswith("Unchanged: ")
        assert self.invoke("show")[0] == 0
        assert json.loads(self.invoke("show", "--json")[1])["current"] is True
        code, output, _ = self.invoke("show", str(Path(given.roots[0]).parent))
        assert "out of date: it would say now: RequiresMountsFor=" in output
        runner.runs = False
        assert self.invoke("show")[0] == 1
        assert self.invoke("uninstall", "--dry-run")[1] == f"{manager.file}\n"
        assert self.invoke("uninstall")[1] == f"Removed: {manager.file}\n"
        assert self.invoke("uninstall")[1].startswith("Not installed: ")
        assert self.invoke("show")[:2] == (1, f"Not installed: there is no {manager.file}\n")

    def test_a_start_that_fails_ends_with_1(self, given: Given, runner: Systemctl) -> None:
        runner.broken = True
        code, _, error = self.invoke("install", *given.roots)
        assert code == 1
        assert "error[no_daemon]: the service did not become ready: 1 ready" in error

    def test_a_user_is_for_the_system_s_alone(self, given: Given) -> None:
        assert self.invoke("install", "--user-name", "x", *given.roots)[0] == 2
