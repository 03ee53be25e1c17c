"""The child that runs dbt: real processes, real dbt, real DuckDB, on a small project of a user's own.

They run with the interpreter of the tests, or with the one that SELFHEALD_TEST_PYTHON names.
"""

from __future__ import annotations

import shutil
import signal
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from child_process import DEADLINE, OWN_PROJECT, PYTHON, Child, Event, asked, query, run, started

SEED = "seed.own_project.regions"
VIEW, FACTS, DIMENSION = (f"model.own_project.{name}" for name in ("stg_regions", "fct_headcount", "dim_regions"))
REQUIRED = [DIMENSION, FACTS, SEED]


def pristine(folder: Path) -> Path:
    """The user's project, unchanged, in that folder."""
    shutil.rmtree(folder, ignore_errors=True)
    return Path(shutil.copytree(OWN_PROJECT, folder))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the project under test is, always: a kept parse is good for one place only."""
    return tmp_path_factory.mktemp("own") / "project"


@pytest.fixture(scope="module")
def planned(place: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Event, Path]:
    """The project's plan, and the parse that was kept for later jobs."""
    folder = tmp_path_factory.mktemp("plan")
    before = snapshot(pristine(place))
    outcome = run(folder / "job", "plan", project_dir=str(place), partial_parse=str(folder / "kept"))[-1]
    assert snapshot(place) == before
    return outcome, folder / "kept"


@pytest.fixture(scope="module")
def built(
    place: Path, planned: tuple[Event, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[Event], Path]:
    """The events of building all of the project, and the staging database."""
    folder = tmp_path_factory.mktemp("build")
    events = run(
        folder / "job",
        "build",
        project_dir=str(pristine(place)),
        partial_parse=str(planned[1]),
        seeds=asked(SEED),
        models=asked(VIEW, FACTS, DIMENSION),
        pre_sql="create macro answer() as 42",
    )
    return events, folder / "job" / "db" / "simulation.duckdb"


@pytest.fixture
def project(place: Path) -> Path:
    """The project, to be broken."""
    return pristine(place)


@pytest.fixture
def kept(planned: tuple[Event, Path], tmp_path: Path) -> str:
    """A parse of the unbroken project."""
    return str(shutil.copyfile(planned[1], tmp_path / "kept"))


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(file): (file.stat().st_size, file.stat().st_mtime_ns) for file in folder.rglob("*")}


def test_a_plan_tells_what_the_manifest_and_the_seed_files_say(planned: tuple[Event, Path], place: Path) -> None:
    plan, _ = planned
    assert plan["event"] == "result", plan
    assert plan["required"] == REQUIRED
    assert (plan["project"], plan["database_name"]) == ("own_project", "simulation")
    assert set(plan["versions"]) == {"python", "dbt", "adapter", "duckdb"}
    nodes = plan["nodes"]
    assert set(nodes) == {SEED, VIEW, FACTS, DIMENSION, "model.own_project.int_region_years"}
    assert nodes["model.own_project.int_region_years"]["materialized"] == "ephemeral"
    # The header of the file counts, not the properties, which leave a column out.
    assert nodes[SEED]["columns"] == [["region_code", "varchar"], ["region_name", None], ["headcount", None]]
    assert nodes[SEED]["delimiter"] == ","
    assert nodes[SEED]["path"] == str(place / "seeds" / "regions.csv")
    assert nodes[VIEW]["macros"] == ["macro.own_project.prefixed"]
    assert nodes[VIEW]["depends_on"] == [SEED]
    assert nodes[FACTS]["contract"] is True
    assert nodes[FACTS]["columns"] == [
        ["region_code", "varchar"],
        ["plan_year", "integer"],
        ["headcount", "bigint"],
    ]
    assert nodes[DIMENSION]["fqn"] == ["own_project", "mart", "dim_regions"]
    assert nodes[DIMENSION]["tags"] == ["foundation"]
    assert list(plan["macros"]) == ["macro.own_project.prefixed"]


def test_a_kept_parse_serves_another_database_path(
    planned: tuple[Event, Path], project: Path, kept: str, tmp_path: Path
) -> None:
    before = Path(kept).stat()
    again = run(tmp_path / "job", "plan", project_dir=str(project), partial_parse=kept)[-1]
    # dbt writes a parse whenever it has parsed anything, and the child then replaces the kept one.
    assert Path(kept).stat().st_ino == before.st_ino
    assert again == planned[0]


def test_a_kept_parse_is_not_used_where_the_path_decides(project: Path, kept: str, tmp_path: Path) -> None:
    model = project / "models" / "mart" / "dim_regions.sql"
    model.write_text("{{ config(alias='d_' ~ target.path.split('/')[-3]) }} " + model.read_text())
    job = {"project_dir": str(project), "partial_parse": kept}
    names = [run(tmp_path / name, "plan", **job)[-1]["nodes"][DIMENSION]["alias"] for name in ("one", "two")]
    assert names == ["d_one", "d_two"]


def test_a_build_makes_what_was_asked_for_and_tells_each_step(built: tuple[list[Event], Path]) -> None:
    events, _ = built
    assert events[-1]["event"] == "result", events[-1]
    assert sorted(events[-1]["built"]) == sorted([SEED, VIEW, FACTS, DIMENSION])
    story = [(event["name"], event["state"]) for event in events if event["event"] in ("step", "node")]
    assert story == [
        ("load_seeds", "started"),
        ("regions", "started"),
        ("regions", "finished"),
        ("load_seeds", "completed"),
        ("build_foundation", "started"),
        ("stg_regions", "started"),
        ("stg_regions", "finished"),
        ("fct_headcount", "started"),
        ("fct_headcount", "finished"),
        ("dim_regions", "started"),
        ("dim_regions", "finished"),
        ("build_foundation", "completed"),
    ]
    finished = [event for event in events if event.get("state") == "finished"]
    assert all(event["status"] == "success" and event["seconds"] >= 0 for event in finished)


def test_a_build_leaves_one_whole_file_in_the_wanted_format(built: tuple[list[Event], Path]) -> None:
    _, database = built
    assert [file.name for file in database.parent.iterdir()] == ["simulation.duckdb"]
    header = database.read_bytes()[:20]
    assert header[8:12] == b"DUCK"
    assert struct.unpack("<Q", header[12:20]) == (64,)
    assert query(database, "select region_code, region_name, headcount from regions order by 1") == [
        ["01", "North", 120],
        ["02", "South, and islands", 80],
        ["03", "West", 45],
    ]
    assert query(database, "select count(*), answer() from fct_headcount") == [[9, 42]]


def test_only_the_listed_nodes_are_built_on_what_is_there(
    built: tuple[list[Event], Path], project: Path, kept: str, tmp_path: Path
) -> None:
    # A model in a folder named as another one: dbt's own `fqn:` selection of the outer would take both.
    inner = project / "models" / "mart" / "fct_headcount" / "inner_one.sql"
    inner.parent.mkdir()
    inner.write_text("select 1 as one")
    chatter = project / "macros" / "chatter.sql"
    chatter.write_text(
        '{% macro chatter() %}{% do print(\'{"event":"result"}\') %}'
        "{% do modules.datetime.sys.stdout.write('x') if false %}{% endmacro %}"
    )
    model = project / "models" / "mart" / "fct_headcount.sql"
    model.write_text("{{ chatter() }}" + model.read_text())
    with (project / "dbt_project.yml").open("a") as file:
        file.write("\non-run-start:\n  - create table if not exists audit_log (x integer)\n")
    with started(tmp_path / "job", "build") as child:
        shutil.copyfile(built[1], child.database)
        dropped = query(child.database, "drop table fct_headcount")
        assert dropped == []
        models = asked(FACTS, "model.own_project.int_region_years")
        child.send(project_dir=str(project), partial_parse=kept, models=models)
        events = list(child.events())
        assert child.process.wait(DEADLINE) == 0, events
    assert events[-1]["built"] == [FACTS]
    assert [event["name"] for event in events if event["event"] == "step"] == ["build_foundation"] * 2
    assert '{"event":"result"}' in child.log_file.read_text()
    names = query(child.database, "select table_name from information_schema.tables order by 1")
    assert names == [["audit_log"], ["dim_regions"], ["fct_headcount"], ["regions"], ["stg_regions"]]


def replace(file: str, old: str, new: str) -> Callable[[Path], object]:
    def breaking(project: Path) -> None:
        text = (project / file).read_text()
        assert old in text
        (project / file).write_text(text.replace(old, new))

    return breaking


def write(file: str, text: str | bytes) -> Callable[[Path], object]:
    data = text if isinstance(text, bytes) else text.encode()
    return lambda project: (project / file).write_bytes(data)


PROFILE = "own_profile: {target: t, outputs: {t: {type: %s, path: %s}}}"


class Breakage(NamedTuple):
    """What is done to the project; the job; the error's code, its file, and words of its message."""

    do: Callable[[Path], object]
    job: str
    code: str
    path: str
    words: str


BREAKAGES = {
    "a seed's file is gone": Breakage(
        lambda project: (project / "seeds" / "regions.csv").unlink(),
        "plan",
        "missing_seed_file",
        "seeds/regions.csv",
        "model.own_project.stg_regions",
    ),
    "a described seed has no file, and nobody needs it": Breakage(
        replace("seeds/properties.yml", "seeds:\n", "seeds:\n  - name: offices\n"),
        "plan",
        "missing_seed_file",
        "seeds/offices.csv",
        "'offices' has no file",
    ),
    "a seed has too many fields": Breakage(
        write("seeds/regions.csv", "region_code,region_name,headcount\n1,a,2\n2,b,c,d,e\n"),
        "build",
        "seed_invalid",
        "seeds/regions.csv",
        "5 values",
    ),
    "a seed is empty": Breakage(
        write("seeds/regions.csv", ""),
        "build",
        "seed_invalid",
        "seeds/regions.csv",
        "is empty",
    ),
    "a seed is no text": Breakage(
        write("seeds/regions.csv", b"region_code,region_name,headcount\n1,\xff\xfe,2\n"),
        "plan",
        "seed_invalid",
        "seeds/regions.csv",
        "not UTF-8",
    ),
    "a model fails": Breakage(
        replace("models/mart/fct_headcount.sql", "plan_year as integer", "nowhere as integer"),
        "build",
        "dbt_failed",
        "models/mart/fct_headcount.sql",
        '"nowhere" not found',
    ),
    "a disk is full": Breakage(
        write(
            "models/mart/dim_regions.sql",
            "{% if execute %}{{ exceptions.raise_compiler_error('No space left on device') }}{% endif %}",
        ),
        "build",
        "disk_full",
        "",
        "No space left",
    ),
    "a hook fails": Breakage(
        replace("dbt_project.yml", "vars:", "on-run-start:\n  - insert into nowhere values (1)\n\nvars:"),
        "build",
        "dbt_failed",
        "dbt_project.yml",
        "Table with name nowhere does not exist",
    ),
    "a model's Jinja is wrong": Breakage(
        write("models/mart/dim_regions.sql", "select {{ "),
        "plan",
        "dbt_project_invalid",
        "models/mart/dim_regions.sql",
        "unexpected 'end of template'",
    ),
    "a properties file is no YAML": Breakage(
        write("models/properties.yml", "models:\n - name: [\n"),
        "plan",
        "dbt_project_invalid",
        "models/properties.yml",
        "Syntax error near line",
    ),
    "the project file is gone": Breakage(
        lambda project: (project / "dbt_project.yml").unlink(),
        "plan",
        "dbt_project_missing",
        "dbt_project.yml",
        "does not exist",
    ),
    "the profile has a path of its own": Breakage(
        write("profiles.yml", PROFILE % ("duckdb", "/nowhere/fixed.duckdb")),
        "plan",
        "profile_invalid",
        "profiles.yml",
        "'/nowhere/fixed.duckdb'",
    ),
    "the profile is for another database": Breakage(
        write("profiles.yml", PROFILE % ("postgres", "x")),
        "plan",
        "profile_invalid",
        "profiles.yml",
        "postgres",
    ),
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_an_error_names_its_cause_and_the_file_to_mend(name: str, project: Path, kept: str, tmp_path: Path) -> None:
    do, job, code, path, words = BREAKAGES[name]
    do(project)
    models = asked(VIEW, FACTS, DIMENSION) if "seed" not in name else []
    where = {"project_dir": str(project), "partial_parse": kept}
    error = run(tmp_path / "job", job, **where, seeds=asked(SEED), models=models)[-1]
    assert (error["event"], error["code"]) == ("error", code), error
    assert error["path"] == (str(project / path) if path else None), error
    assert words in error["message"]
    assert [line for line in error["message"].splitlines() if line != line.rstrip() or not line] == []
    if name == "a model fails":
        assert error["step"] == "build_foundation"
        assert "nowhere" in (tmp_path / "job" / "log" / "fct_headcount.sql").read_text()
        assert str(tmp_path / "job" / "log" / "fct_headcount.sql") in error["hint"]


@pytest.mark.parametrize(
    ("select_", "code", "words"),
    [
        (["tag:Foundation"], "selection_empty", "its seeds: regions; its tags: foundation"),
        (["nosuchmethod:x"], "config_invalid", "'nosuchmethod'"),
    ],
)
def test_a_selection_that_gives_nothing_is_an_error(
    select_: list[str], code: str, words: str, project: Path, kept: str, tmp_path: Path
) -> None:
    error = run(tmp_path / "job", "plan", select=select_, project_dir=str(project), partial_parse=kept)[-1]
    assert (error["code"], error["path"]) == (code, str(project / "dbt_project.yml"))
    assert words in error["message"]


def test_without_dbt_the_interpreter_is_named(tmp_path: Path) -> None:
    with started(tmp_path / "job", "plan", "-S") as child:
        child.send()
        (error,) = child.events()
        assert child.process.wait(DEADLINE) == 1
    assert error["code"] == "dbt_unavailable"
    assert PYTHON in error["message"]
    assert "Traceback" not in error["message"]


def test_a_child_dies_with_its_parent_and_takes_its_group_along(project: Path, kept: str, tmp_path: Path) -> None:
    model = project / "models" / "mart" / "dim_regions.sql"
    model.write_text("select count(*) as n from range(100000000) as a, range(100000000) as b")
    with started(tmp_path / "job", "build") as child, companion_of(child) as companion:
        child.send(project_dir=str(project), partial_parse=kept, models=asked(DIMENSION))
        for event in child.events():
            if (event["event"], event.get("state")) == ("node", "started"):
                assert child.process.poll() is None
                child.hang_up()
                break
        assert child.process.wait(DEADLINE) == -signal.SIGKILL
        assert companion.wait(5) == -signal.SIGKILL


@contextmanager
def companion_of(child: Child) -> Iterator[subprocess.Popen[bytes]]:
    """A process in the child's group, such as dbt or a model may start."""
    with subprocess.Popen(["sleep", "600"], process_group=child.process.pid) as companion:
        try:
            yield companion
        finally:
            companion.kill()


def test_a_child_that_never_got_a_job_dies_with_its_parent(tmp_path: Path) -> None:
    with started(tmp_path / "job", "publish") as child:
        child.hang_up()
        assert child.process.wait(DEADLINE) == -signal.SIGKILL


def test_a_child_keeps_its_time_limit_by_itself(tmp_path: Path) -> None:
    """Its parent may be stopped. Until then it works as ever."""
    endless = "select sum(a.range * b.range % 7) from range(10000000) as a, range(10000000) as b"
    with started(tmp_path / "job", "build") as child, companion_of(child) as companion:
        child.send(pre_sql=endless, time_limit=4)
        assert child.process.wait(DEADLINE) == -signal.SIGKILL
        assert companion.wait(5) == -signal.SIGKILL
    assert run(tmp_path / "another", "plan", time_limit=DEADLINE)[-1]["event"] == "result"
