"""Plans of real projects, made by real dbt: when dbt is asked, what it answers, and what is shared."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from child_process import run
from fixtures.files import write
from fixtures.processes import pinned_python

from selfheald.config import load_config
from selfheald.errors import InitializationError
from selfheald.plan import Plan
from selfheald.planner import KEPT_PLANS, Planner
from selfheald.project import Source
from selfheald.workspace import Database

PROJECT_FILE = """
name: varied
version: "1.0"
profile: varied
models:
  varied:
    +materialized: table
    +tags: ["all"]
    late:
      +enabled: "{{ var('late', false) }}"
seeds:
  varied:
    +enabled: true
"""
FILES = {
    "dbt_project.yml": PROJECT_FILE,
    "models/named.sql": "{{ config(alias='t_' ~ var('alias', 'plain')) }} select '{{ var('place', '') }}' as place",
    "models/kind.sql": "{{ config(materialized=var('kind', 'table')) }} select 1 as id",
    "models/late/extra.sql": "select 1 as id from {{ ref('named') }}",
    "models/base.sql": "select 1 as id from {{ ref('codes') }}",
    "models/lower/base_2.sql": "{{ config(tags=['deep down']) }} select 1 as id from {{ ref('base') }}",
    "seeds/codes.csv": "code,name\n1,one\n",
    "seeds/sleeper.csv": "code\n1\n",
    "seeds/properties.yml": "seeds: [{name: sleeper, config: {enabled: false, tags: [sleeping]}}]",
}


@pytest.fixture(scope="module", params=["own", pytest.param("pinned", marks=pytest.mark.pinned)])
def python(request: pytest.FixtureRequest) -> str:
    """The interpreter whose dbt reads the project."""
    return sys.executable if request.param == "own" else pinned_python()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("varied"), FILES)


class Site:
    """A planner, and how often it has let dbt read a project."""

    def __init__(self, project: Path, state: Path, **settings: Any) -> None:
        self.parses = 0
        overrides = {"dbt.project_dir": str(project), "state_dir": str(state), **settings}
        self.planner = Planner(load_config(overrides=overrides, environ={}), announce=self._count)

    def _count(self, message: str) -> None:
        self.parses += 1

    async def plan(self, workspace: Path, *, fresh: bool = False) -> Plan:
        return await self.planner.plan_for(Database(workspace / "simulation.duckdb"), fresh=fresh)


def tables(plan: Plan) -> list[str]:
    return sorted(table.name for table in plan.required)


@pytest.mark.anyio
async def test_variables_that_only_the_sql_shows_share_a_parse_and_others_do_not(
    project: Path, python: str, tmp_path: Path
) -> None:
    variables = {"place": "{workspace}"}
    settings = {"dbt.python": python, "required.select": ["tag:all"]}
    site = Site(project, tmp_path / "state", **settings, **{"dbt.vars": variables})
    one, two = await site.plan(tmp_path / "one"), await site.plan(tmp_path / "two")
    assert site.parses == 1
    assert tables(one) == tables(two) == ["base", "base_2", "kind", "t_plain"]
    assert one.fingerprint != two.fingerprint
    assert site.planner.saved_parse(one) == site.planner.saved_parse(two)

    others = {**variables, "alias": "own", "kind": "view", "late": True}
    changed = Site(project, tmp_path / "state", **settings, **{"dbt.vars": others})
    assert (tables(await changed.plan(tmp_path / "one")), changed.parses) == (["base", "base_2", "extra", "t_own"], 1)

    again = Site(project, tmp_path / "state", **settings, **{"dbt.vars": variables})
    assert await again.plan(tmp_path / "three") is not None
    assert again.parses == 0


EXPLICIT = [
    {"name": "deep", "tier": "foundation", "select": "path:models/lower,tag:all"},
    {"name": "before it", "tier": "foundation", "select": "1+base_2,resource_type:model,base"},
    {"name": "t_plain", "tier": "seed"},
]


@pytest.mark.anyio
async def test_explicit_tables_are_found_by_dbt_s_selection_or_by_name(
    project: Path, python: str, tmp_path: Path
) -> None:
    site = Site(project, tmp_path / "state", **{"dbt.python": python, "required.tables": EXPLICIT})
    plan = await site.plan(tmp_path)
    assert [(table.name, table.tier.value) for table in plan.required] == [
        ("t_plain", "seed"),
        ("base", "foundation"),
        ("base_2", "foundation"),
    ]
    for select, code, words in (
        ("+base_2", "config_invalid", "model.varied.base (main.base), model.varied.base_2 (main.base_2)"),
        ("tag:nothing", "selection_empty", "the selection tag:nothing of it in required.tables gives no table"),
    ):
        tables = [{"name": "it", "tier": "seed", "select": select}]
        other = Site(project, tmp_path / "state", **{"dbt.python": python, "required.tables": tables})
        with pytest.raises(InitializationError) as caught:
            await other.plan(tmp_path)
        assert caught.value.code == code
        assert words in caught.value.message


@pytest.mark.anyio
async def test_a_selection_that_gives_nothing_lists_what_there_is(project: Path, python: str, tmp_path: Path) -> None:
    site = Site(project, tmp_path / "state", **{"dbt.python": python, "required.select": ["tag:none", "base,codes"]})
    with pytest.raises(InitializationError) as caught:
        await site.plan(tmp_path)
    assert caught.value.code == "selection_empty"
    assert "its seeds: codes, sleeper (disabled)" in caught.value.message
    assert "its tags: all, deep down, sleeping (disabled)" in caught.value.message


SELECTIONS = {
    "a union": (["codes", "base"], "base codes"),
    "a union in one entry": (["codes base"], "base codes"),
    "an intersection": (["tag:all,path:models/lower"], "base_2"),
    "all parents": (["+base_2"], "base base_2 codes"),
    "parents at a distance": (["1+base_2"], "base base_2"),
    "children": (["codes+1"], "base codes"),
    "children's parents": (["@codes"], "base base_2 codes"),
    "a configuration": (["config.materialized:seed"], "codes"),
    "a package": (["package:varied,resource_type:seed"], "codes"),
    "a name with a star": (["base*"], "base base_2"),
}


def test_selections_are_dbt_s_own(project: Path, tmp_path: Path) -> None:
    entries = [" ".join(select) for select, _ in SELECTIONS.values()]
    answer = run(tmp_path / "job", "plan", project_dir=str(project), select=[], tables=entries)[-1]
    found = [" ".join(uid.rpartition(".")[2] for uid in sorted(matched, key=_last)) for matched in answer["tables"]]
    assert dict(zip(SELECTIONS, found, strict=True)) == {name: expected for name, (_, expected) in SELECTIONS.items()}


def _last(unique_id: str) -> str:
    return unique_id.rpartition(".")[2]


@pytest.mark.anyio
async def test_neither_a_profile_s_other_outputs_nor_dbt_s_own_variables_lead_elsewhere(
    project: Path, tmp_path: Path
) -> None:
    """The target is that of the configuration; one that writes elsewhere is refused."""
    profiles = write(tmp_path / "profiles", {"profiles.yml": PROFILES})
    common = {"dbt.profiles_dir": str(profiles), "dbt.env": {"DBT_TARGET": "far", "DBT_PROFILE": "no_such"}}
    plan = await Site(project, tmp_path / "state", **common).plan(tmp_path)
    assert tables(plan) == ["codes"]
    for target in ("far", "cloud"):
        with pytest.raises(InitializationError) as caught:
            await Site(project, tmp_path / "state", **common, **{"dbt.target": target}).plan(tmp_path)
        assert caught.value.code == "profile_invalid"
    assert not (tmp_path / "far.duckdb").exists()


PROFILES = """
varied:
  target: near
  outputs:
    near: {type: duckdb, path: "{{ env_var('DATABASE_PATH', 'other.duckdb') }}"}
    far: {type: duckdb, path: far.duckdb}
    cloud: {type: duckdb, path: "md:{{ env_var('DATABASE_PATH') }}"}
"""


@pytest.mark.anyio
async def test_a_refusal_by_one_database_s_variables_is_not_the_others(tmp_path: Path) -> None:
    """The variable is inert, so they share a plan; dbt refuses what one of them makes of it."""
    asking = "{{ exceptions.raise_compiler_error('no such place') if 'bad' in var('place') }} select 1 as id"
    project = write(tmp_path / "project", {**FILES, "models/asking.sql": asking})
    site = Site(project, tmp_path / "state", **{"dbt.vars": {"place": "{workspace}"}})
    with pytest.raises(InitializationError, match="no such place"):
        await site.plan(tmp_path / "bad")
    assert tables(await site.plan(tmp_path / "good")) == ["codes"]
    assert site.parses == 2


@pytest.mark.anyio
async def test_an_environment_variable_that_the_project_names_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one of the daemon's own, which no configuration names."""
    model = "{{ config(alias='t_' ~ env_var('SUFFIX_OF_IT', 'none'), tags=['all']) }} select 1 as id"
    project = write(tmp_path / "project", {**FILES, "models/named.sql": model, "models/late/extra.sql": "select 1"})
    site = Site(project, tmp_path / "state", **{"required.select": ["named"]})
    assert tables(await site.plan(tmp_path)) == ["t_none"]
    monkeypatch.setenv("SUFFIX_OF_IT", "one")
    monkeypatch.setenv("SUFFIX_OF_ANOTHER", "one")
    assert tables(await site.plan(tmp_path)) == ["t_one"]
    monkeypatch.setenv("SUFFIX_OF_ANOTHER", "two")
    assert tables(await site.plan(tmp_path)) == ["t_one"]
    assert site.parses == 2


@pytest.mark.anyio
async def test_an_environment_variable_that_a_value_names_counts(tmp_path: Path) -> None:
    """dbt renders the values of variables; the environment may differ from one workspace to the next."""
    files = {**FILES, "models/named.sql": "{{ config(alias='t_' ~ var('kept')) }} select 1 as id"}
    project = write(tmp_path / "project", {**files, "models/late/extra.sql": "select 1"})
    settings = {"dbt.env": {"PLACE": "{workspace}"}, "dbt.vars": {"kept": "{{ env_var('PLACE').split('/')[-1] }}"}}
    site = Site(project, tmp_path / "state", **settings, **{"required.select": ["named"]})
    assert tables(await site.plan(tmp_path / "one")) == ["t_one"]
    assert tables(await site.plan(tmp_path / "two")) == ["t_two"]


@pytest.mark.anyio
@pytest.mark.parametrize("restarted", [False, True])
async def test_a_project_that_changes_while_dbt_reads_it(tmp_path: Path, restarted: bool) -> None:
    """What is known of it afterwards is what it is then; and when it is again what it was before, of that."""
    project = write(tmp_path / "project", {**FILES, "models/late/extra.sql": "select 1"})
    model = project / "models/named.sql"
    before = model.read_text()
    site = Site(project, tmp_path / "state", **{"required.select": ["named"]})

    def edit(message: str) -> None:
        site.parses += 1
        model.write_text("{{ config(alias='edited') }} select 1 as id")

    site.planner.announce = edit
    assert tables(await site.plan(tmp_path)) == ["edited"]
    assert site.parses == 2
    site.planner.announce = site._count
    model.write_text(before)
    if restarted:
        site = Site(project, tmp_path / "state", **{"required.select": ["named"]})
    assert tables(await site.plan(tmp_path, fresh=True)) == ["t_plain"]


@pytest.mark.anyio
async def test_a_project_that_changes_while_its_variables_are_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a moment its tables' names don't depend on the variable: that says nothing of what it was, and is again."""
    project = write(tmp_path / "project", {**FILES, "models/late/extra.sql": "select 1"})
    model = project / "models/named.sql"
    before, read = model.read_text(), Source.texts
    settings = {"required.select": ["named"], "dbt.vars": {"alias": "{workspace}"}}
    site = Site(project, tmp_path / "state", **settings)

    def texts(source: Source) -> dict[str, str]:
        monkeypatch.setattr(Source, "texts", read)
        model.write_text("select '{{ var('alias') }}' as place")
        return read(source)

    monkeypatch.setattr(Source, "texts", texts)
    await site.plan(tmp_path / "one")
    model.write_text(before)
    for name in ("one", "two"):
        assert tables(await site.plan(tmp_path / name, fresh=True)) == [f"t_{tmp_path / name}"]


@pytest.mark.anyio
async def test_parses_that_gave_no_plan_do_not_pile_up(project: Path, tmp_path: Path) -> None:
    """Each edit that dbt reads, and that selects nothing, leaves a parse."""
    plans = tmp_path / "state" / "plans"
    plans.mkdir(parents=True)
    for age in range(KEPT_PLANS + 5):
        left = plans / f"other-{age}.msgpack"
        left.touch()
        os.utime(left, (1_000_000 - age, 1_000_000 - age))
    site = Site(project, tmp_path / "state", **{"required.select": ["tag:nothing"]})
    with pytest.raises(InitializationError, match="matches nothing"):
        await site.plan(tmp_path)
    own = set(plans.glob("*.msgpack")) - set(plans.glob("other-*"))
    assert len(own) == 1
    assert {path.name for path in plans.glob("other-*")} == {f"other-{age}.msgpack" for age in range(KEPT_PLANS)}


@pytest.mark.anyio
@pytest.mark.parametrize("place", ["state", "state/plans"])
async def test_a_file_in_the_place_of_the_plan_cache(project: Path, tmp_path: Path, place: str) -> None:
    """It only spares time: the project is read elsewhere, and the file stays."""
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text("in the way")
    site = Site(project, tmp_path / "state", **{"required.select": ["tag:all"]})
    assert tables(await site.plan(tmp_path))
    assert (tmp_path / place).read_text() == "in the way"
