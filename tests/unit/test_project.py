"""Fingerprints: they change with every input of a plan, and with nothing else."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fixtures.databases import PROJECT
from fixtures.processes import run_python

from selfheald.errors import InitializationError
from selfheald.project import ANY, Fingerprints

PYTHON = "/usr/bin/python3"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the bundled project."""
    ignore = shutil.ignore_patterns("target", "logs")
    return Path(shutil.copytree(PROJECT, tmp_path / "project", ignore=ignore))


@pytest.fixture
def profiles(tmp_path: Path) -> Path:
    folder = tmp_path / "profiles"
    folder.mkdir()
    (folder / "profiles.yml").write_text("a: 1\n")
    return folder


def fingerprint(project: Path, fingerprints: Fingerprints | None = None, **changes: object) -> str:
    options: dict[str, object] = {"profiles_dir": None, "python": PYTHON, "settings": {"vars": {"year": 2026}}}
    return (fingerprints or Fingerprints()).of(project, **{**options, **changes})  # type: ignore[arg-type]


def edit(name: str) -> Callable[[Path], None]:
    def change(project: Path) -> None:
        with (project / name).open("a") as stream:
            stream.write("\n")

    return change


def add(name: str, text: str = "") -> Callable[[Path], None]:
    def change(project: Path) -> None:
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(text)

    return change


def rename(old: str, new: str) -> Callable[[Path], None]:
    def change(project: Path) -> None:
        (project / old).rename(project / new)

    return change


def remove(name: str) -> Callable[[Path], None]:
    return lambda project: (project / name).unlink()


COUNTS = {
    "a model": edit("models/foundation/int_employee_benefits.sql"),
    "a seed": edit("seeds/comp_levers.csv"),
    "a macro": edit("macros/year.sql"),
    "the project file": edit("dbt_project.yml"),
    "properties": edit("models/foundation/foundation.yml"),
    "a new model": add("models/new.sql"),
    "a new model in Python": add("models/new.py"),
    "a new seed": add("seeds/deep/new.csv"),
    "properties with the other ending": add("models/new.yaml"),
    "a package": add("dbt_packages/p/macros/m.sql"),
    "a list of packages": add("packages.yml"),
    "what dbt is to ignore": add(".dbtignore", "models/foundation"),
    "a model that is gone": remove("models/foundation/int_employee_benefits.sql"),
    "a model of another name": rename(
        "models/foundation/int_employee_benefits.sql", "models/foundation/int_employee_benefit.sql"
    ),
}
DOES_NOT_COUNT = {
    "what was compiled": add("target/compiled/models/x.sql", "select 1"),
    "logs": add("logs/dbt.log"),
    "logs of another ending": add("logs/dbt.md"),
    "a database": add("simulation.duckdb"),
    "a WAL": add("simulation.duckdb.wal"),
    "data": add("census.parquet"),
    "git": add(".git/hooks/x.py"),
    "bytecode": add("models/__pycache__/x.py"),
    "who ran dbt by hand": add(".user.yml"),
    "a folder": lambda project: (project / "models" / "empty").mkdir(),
}


@pytest.mark.parametrize("change", COUNTS.values(), ids=COUNTS.keys())
@pytest.mark.parametrize("remembered", [True, False])
def test_what_counts(project: Path, change: Callable[[Path], None], remembered: bool) -> None:
    fingerprints = Fingerprints() if remembered else None
    before = fingerprint(project, fingerprints)
    assert before.startswith("sha256:")
    change(project)
    assert fingerprint(project, fingerprints) != before


@pytest.mark.parametrize("change", DOES_NOT_COUNT.values(), ids=DOES_NOT_COUNT.keys())
def test_what_does_not_count(project: Path, change: Callable[[Path], None]) -> None:
    before = fingerprint(project)
    change(project)
    assert fingerprint(project) == before


def test_the_place_of_the_project_does_not_count(project: Path, tmp_path: Path) -> None:
    before = fingerprint(project)
    assert fingerprint(project.rename(tmp_path / "elsewhere")) == before


def test_settings_count_but_not_their_order(project: Path) -> None:
    before = fingerprint(project, settings={"vars": {"a": 1, "b": 2}, "target": None})
    assert fingerprint(project, settings={"target": None, "vars": {"b": 2, "a": 1}}) == before
    others: tuple[dict[str, object], ...] = (
        {"vars": {"a": 1, "b": 3}, "target": None},
        {"vars": {"a": 1, "b": 2}, "target": "dev"},
        {},
    )
    assert len({before, *(fingerprint(project, settings=each) for each in others)}) == 4


def test_the_profile_counts(project: Path, profiles: Path) -> None:
    before = fingerprint(project, profiles_dir=profiles)
    assert before != fingerprint(project)
    (profiles / "unrelated.yml").touch()
    assert fingerprint(project, profiles_dir=profiles) == before
    (profiles / "profiles.yml").write_text("a: 2\n")
    assert fingerprint(project, profiles_dir=profiles) != before
    (profiles / "profiles.yml").unlink()
    assert fingerprint(project, profiles_dir=profiles) == fingerprint(project)


def test_the_interpreter_and_its_packages_count(project: Path, tmp_path: Path) -> None:
    python = str(tmp_path / "venv" / "bin" / "python")
    library = tmp_path / "venv" / "lib" / "python3.11" / "site-packages"
    seen = [fingerprint(project), fingerprint(project, python=python)]
    for package in ("dbt_core-1.11.0", "dbt_duckdb-1.11.1", "duckdb-2.0.0"):
        (library / f"{package}.dist-info").mkdir(parents=True)
        seen.append(fingerprint(project, python=python))
    (library / "dbt_core-1.11.0.dist-info").rename(library / "dbt_core-1.11.1.dist-info")
    seen.append(fingerprint(project, python=python))
    assert len(set(seen)) == len(seen)
    (library / "rich-14.0.dist-info").mkdir()
    assert fingerprint(project, python=python) == seen[-1]


def test_a_content_is_not_read_again_where_the_stat_is_the_same(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fingerprints = Fingerprints()
    before = fingerprint(project, fingerprints)
    reads: list[str] = []
    read_bytes = Path.read_bytes

    def counted(path: Path) -> bytes:
        reads.append(path.name)
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", counted)
    assert fingerprint(project, fingerprints) == before
    assert reads == []
    edit("macros/year.sql")(project)
    fingerprint(project, fingerprints)
    assert reads == ["year.sql"]


@pytest.mark.parametrize("difference", ["size", "time", "inode"])
def test_a_content_is_read_again_where_the_stat_differs(project: Path, difference: str) -> None:
    fingerprints = Fingerprints()
    path = project / "macros" / "year.sql"
    path.write_bytes(b"one")
    os.utime(path, ns=(0, 0))
    before = fingerprint(project, fingerprints)
    if difference == "inode":
        other = project / "other"
        other.write_bytes(b"two")
        os.utime(other, ns=(0, 0))
        other.rename(path)
    else:
        path.write_bytes(b"two" if difference == "time" else b"three")
        os.utime(path, ns=(0, 1 if difference == "time" else 0))
    assert fingerprint(project, fingerprints) != before


def test_a_link_in_a_project_may_lead_nowhere_or_in_a_circle(project: Path) -> None:
    before = fingerprint(project)
    (project / "models" / "gone.sql").symlink_to("nowhere.sql")
    (project / "models" / "circle").symlink_to(project)
    assert fingerprint(project) == before


@pytest.mark.parametrize("place", ["no", "file"])
def test_no_project(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InitializationError) as caught:
        fingerprint(tmp_path / place)
    assert caught.value.code == "dbt_project_missing"
    assert caught.value.path == str(tmp_path / place / "dbt_project.yml")


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_file_that_may_not_be_read(open_path: Path, kind: str) -> None:
    (open_path / "dbt_project.yml").write_text("name: p\n")
    secret = open_path / "models"
    secret.mkdir()
    (secret / "m.sql").touch()
    if kind == "file":
        secret = secret / "m.sql"
    secret.chmod(0)
    code = (
        "import sys, pathlib\n"
        "from selfheald.errors import InitializationError\n"
        "from selfheald.project import ANY, Fingerprints\n"
        "become_nobody()\n"
        "try: Fingerprints().of(pathlib.Path(sys.argv[1]), profiles_dir=None, python='x', settings={})\n"
        "except InitializationError as error: print(error.code, error.path)\n"
    )
    if os.geteuid() != 0:
        pytest.skip("files that one owns one can read again")
    assert run_python(code, open_path).split() == ["permission_denied", str(secret)]
    secret.chmod(0o755)


OUTSIDE = {
    "a folder that its paths lead to": ('model-paths: ["models", "../shared"]\n', "shared/m.sql"),
    "an absolute one": ("packages-install-path: {folder}/installed\n", "installed/p/macros/m.sql"),
}


@pytest.mark.parametrize(("line", "file"), OUTSIDE.values(), ids=OUTSIDE.keys())
def test_what_is_outside_the_project_counts(project: Path, tmp_path: Path, line: str, file: str) -> None:
    edit_of = (tmp_path / file).write_text
    (tmp_path / file).parent.mkdir(parents=True)
    edit_of("select 1")
    with (project / "dbt_project.yml").open("a") as stream:
        stream.write(line.format(folder=tmp_path))
    before = fingerprint(project)
    edit_of("select 2")
    assert fingerprint(project) != before


def test_a_package_that_is_a_link_counts(project: Path, tmp_path: Path) -> None:
    add("package/macros/m.sql", "one")(tmp_path)
    (project / "dbt_packages").mkdir()
    (project / "dbt_packages" / "package").symlink_to(tmp_path / "package")
    before = fingerprint(project)
    add("package/macros/m.sql", "two")(tmp_path)
    assert fingerprint(project) != before


@pytest.mark.parametrize("folder", ["target", "logs", ".hidden"])
def test_a_folder_of_models_may_be_named_as_what_runs_leave(project: Path, folder: str) -> None:
    before = fingerprint(project)
    add(f"models/{folder}/m.sql", "select 1")(project)
    assert fingerprint(project) != before


def test_an_environment_within_the_project_does_not_count(project: Path) -> None:
    before = fingerprint(project)
    add("tools/env/pyvenv.cfg")(project)
    add("tools/env/lib/x.py")(project)
    assert fingerprint(project) == before


@pytest.mark.parametrize(
    "place",
    [
        "lib/python3.11/site-packages",
        "lib64/python3.12/site-packages",
        "lib/python3/dist-packages",
        "local/lib/python3.11/dist-packages",
    ],
)
@pytest.mark.parametrize("ending", ["dist-info", "egg-info"])
def test_packages_are_found_where_interpreters_have_them(
    project: Path, tmp_path: Path, place: str, ending: str
) -> None:
    python = tmp_path / "prefix" / "bin" / "python"
    add("prefix/bin/python")(tmp_path)
    link = tmp_path / "elsewhere" / "bin" / "python"
    link.parent.mkdir(parents=True)
    link.symlink_to(python)
    before = fingerprint(project, python=str(link))
    (tmp_path / "prefix" / place / f"dbt_core-1.11.0.{ending}").mkdir(parents=True)
    assert fingerprint(project, python=str(link)) != before


def test_packages_in_the_search_path_count(project: Path, tmp_path: Path) -> None:
    (tmp_path / "extra" / "duckdb-2.0.0.dist-info").mkdir(parents=True)
    known = Fingerprints()
    options: dict[str, Any] = {"profiles_dir": None, "python": PYTHON}
    before = known.read(project, **options)
    assert known.read(project, **options, search_path=f"relative:{tmp_path / 'extra'}").digest != before.digest


def test_the_environment_variables_that_a_project_asks_for_are_known(project: Path, profiles: Path) -> None:
    (profiles / "profiles.yml").write_text("path: \"{{ env_var('DATABASE_PATH') }}\"\nkey: \"{{ env_var('KEY') }}\"")
    add("models/m.sql", "{{ env_var( \"ONE\", 'x') }}")(project)
    known = Fingerprints()
    options: dict[str, Any] = {"profiles_dir": profiles, "python": PYTHON}
    assert known.read(project, **options).environment == {"ONE", "KEY"}
    add("macros/m.sql", "{% macro x(y) %}{{ env_var(y) }}{% endmacro %}")(project)
    assert known.read(project, **options).environment == {"ONE", "KEY", ANY}


def test_a_project_and_a_search_path_that_may_not_be_looked_at(open_path: Path) -> None:
    """The one is told with its code, the other counts for nothing: it cannot be imported from either."""
    if os.geteuid() != 0:
        pytest.skip("folders that one owns one can look into")
    closed = open_path / "closed"
    shutil.copytree(PROJECT, closed / "project", ignore=shutil.ignore_patterns("target", "logs"))
    shutil.copytree(PROJECT, open_path / "project", ignore=shutil.ignore_patterns("target", "logs"))
    closed.chmod(0o700)
    told = run_python(
        """
from pathlib import Path
from selfheald.errors import InitializationError
from selfheald.project import Fingerprints
become_nobody()
closed, project = map(Path, sys.argv[1:])
read = Fingerprints().read
path = f"{closed}/packages:{project}"
assert read(project, profiles_dir=None, python="/usr/bin/python3", search_path=path).digest
try:
    read(closed / "project", profiles_dir=None, python="/usr/bin/python3")
except InitializationError as error:
    print(error.code)
""",
        closed,
        open_path / "project",
    )
    assert told.split() == ["permission_denied"]
