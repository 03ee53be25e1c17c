"""The configuration: precedence, errors that name their place, trust in files, secrets, the commented file."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from selfheald import config_file, config_values
from selfheald.config import (
    Config,
    DbtConfig,
    LogConfig,
    bundled_project_dir,
    child_environment,
    config_sources,
    load_config,
    render,
    show,
    show_toml,
    template,
    warnings,
)
from selfheald.config_model import keys, sections
from selfheald.config_text import default_of
from selfheald.errors import InitializationError
from selfheald.terminal import colour_allowed

REPOSITORY = Path(__file__).parents[2]
#: Section 6 of the contract: every key with its default; None where it depends on the machine.
DEFAULTS: Mapping[str, Any] = {
    "watch.roots": (),
    "watch.database": "simulation.duckdb",
    "watch.exclude": (".git", ".venv", "node_modules", "target", "dbt_packages"),
    "watch.heal": "found",
    "watch.settle": 0.2,
    "watch.min_interval": 1.0,
    "watch.rescan": 60.0,
    "watch.mode": "auto",
    "dbt.project_dir": None,
    "dbt.trust_workspace_projects": False,
    "dbt.profiles_dir": None,
    "dbt.target": None,
    "dbt.python": None,
    "dbt.vars": {},
    "dbt.vars_command": (),
    "dbt.env": {},
    "dbt.pre_sql": None,
    "dbt.threads": 1,
    "dbt.timeout": 60.0,
    "dbt.storage_version": "v1.0.0",
    "dbt.on_schema_mismatch": "report",
    "dbt.keep_warm": 300.0,
    "required.select": ("resource_type:seed", "tag:foundation"),
    "required.tables": (),
    "templates.mode": "auto",
    "templates.inputs": (),
    "templates.dir": None,
    "templates.max_bytes": 2 * 1024**3,
    "limits.min_free_bytes": 100 * 1000**2,
    "limits.max_input_bytes": 2 * 1024**3,
    "retry.attempts": 5,
    "retry.base": 2.0,
    "retry.max": 300.0,
    "shutdown.grace": 20.0,
    "history.keep": 50,
    "log.level": "INFO",
    "log.file": None,
    "log.json": False,
    "log.rotation": 10 * 1000**2,
    "log.retention": 10,
    "metrics.listen": None,
    "state_dir": None,
}
ALONE = {"SELFHEALD_CONFIG": os.devnull}


def all_keys() -> dict[str, tuple[str, Any]]:
    """Each dotted key with its section and its field."""
    found = {
        f"{section}.{key}": (section, info)
        for section, model in sections().items()
        for key, info in keys(model).items()
    }
    return found | {"state_dir": ("", Config.model_fields["state_dir"])}


def problems(text: str, folder: Path, **more: Any) -> list[str]:
    """The lines that a file with this text is refused with, without the file's path."""
    file = folder / "some.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InitializationError) as raised:
        load_config(file, more.get("overrides"), more.get("environ", {}))
    assert raised.value.code == "config_invalid"
    assert raised.value.hint
    return raised.value.message.replace(f"{file}:", "").splitlines()


def loaded(text: str, folder: Path, environ: Mapping[str, str] | None = None) -> Config:
    file = folder / "some.toml"
    file.write_text(text, encoding="utf-8")
    return load_config(file, environ=environ or {})


# --- keys and defaults


def test_keys_and_defaults_are_those_of_the_contract() -> None:
    fields = all_keys()
    assert set(fields) == set(DEFAULTS)
    for name, expected in DEFAULTS.items():
        default = fields[name][1].get_default(call_default_factory=True)
        if expected is not None:
            assert default == expected, name
            assert type(default) is type(expected), name


def test_every_key_is_described() -> None:
    for name, (_, info) in all_keys().items():
        assert info.description, name
        assert info.description.endswith("."), name


def test_machine_dependent_defaults() -> None:
    config = Config()
    assert config.dbt.project_dir == bundled_project_dir() == REPOSITORY / "dbt"
    assert config.dbt.python == Path(sys.executable)
    assert config.log.file is not None
    assert config.log.file.name == "selfheald.log"
    assert config.templates.dir.is_absolute()
    assert config.state_dir.is_absolute()


def test_an_installed_package_prefers_its_own_project(tmp_path: Path) -> None:
    package = tmp_path / "site" / "selfheald"
    package.mkdir(parents=True)
    shutil.copy(REPOSITORY / "selfheald" / "config_places.py", package)
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); import config_places; print(config_places.bundled_project_dir())"
    )
    command = [sys.executable, "-c", script, str(package)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == str(
        tmp_path / "site" / "dbt"
    )
    (package / "_dbt").mkdir()
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == str(package / "_dbt")


def test_the_whole_is_frozen() -> None:
    config = Config()
    with pytest.raises(ValidationError):
        config.watch.settle = 1.0
    with pytest.raises(ValidationError):
        config.watch = config.watch
    assert isinstance(config.watch.roots, tuple)


# --- precedence


def test_flags_over_environment_over_file_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("[watch]\nsettle = 2\nrescan = 2\nmin_interval = 2\n")
    environ = {"SELFHEALD_WATCH__RESCAN": "3", "SELFHEALD_WATCH__MIN_INTERVAL": "3"}
    config = load_config(file, {"watch.min_interval": 4}, environ)
    assert (config.watch.settle, config.watch.rescan, config.watch.min_interval) == (2, 3, 4)
    assert config.watch.mode == "auto"
    sources = config_sources(config)
    assert sources.file == file
    assert sources.origins == {
        "watch.settle": "file",
        "watch.rescan": "environment",
        "watch.min_interval": "command line",
    }


def test_overrides_nested_or_dotted_and_none_is_not_given() -> None:
    config = load_config(
        None, {"log": {"level": "debug", "json": None}, "watch.heal": "never", "watch.mode": None}, ALONE
    )
    assert (config.log.level, config.log.as_json, config.watch.heal, config.watch.mode) == (
        "DEBUG",
        False,
        "never",
        "auto",
    )


def test_vars_and_env_merge_entry_by_entry(tmp_path: Path) -> None:
    environ = {
        "SELFHEALD_DBT__VARS": '{"a": 3, "Nested": {"x": [1]}}',
        "SELFHEALD_DBT__VARS__START_YEAR": "2026",
        "SELFHEALD_DBT__VARS__LABEL": "plan a",
        "SELFHEALD_DBT__ENV__MixedCase": "5",
    }
    text = "[dbt]\nvars = {a = 1, b = 2}\nenv.KEPT = 'x'\n"
    config = loaded(text, tmp_path, environ)
    assert config.dbt.vars == {"a": 3, "b": 2, "Nested": {"x": [1]}, "start_year": 2026, "label": "plan a"}
    assert config.dbt.env == {"KEPT": "x", "MixedCase": "5"}


def test_lists_in_the_environment(tmp_path: Path) -> None:
    environ = ALONE | {
        "SELFHEALD_WATCH__ROOTS": f"{tmp_path}/a, {tmp_path}/b,",
        "SELFHEALD_REQUIRED__SELECT": '["tag:a,tag:b"]',
        "SELFHEALD_REQUIRED__TABLES": '[{"name": "t", "tier": "seed"}]',
        "SELFHEALD_DBT__VARS_COMMAND": "/opt/vars 'two words' {workspace}",
        "SELFHEALD_WATCH__EXCLUDE": "",
    }
    config = load_config(environ=environ)
    assert config.watch.roots == (tmp_path / "a", tmp_path / "b")
    assert config.required.select == ("tag:a,tag:b",)
    assert config.required.tables[0].name == "t"
    assert config.dbt.vars_command == ("/opt/vars", "two words", "{workspace}")
    assert config.watch.exclude == ()


def test_variables_of_others_are_ignored(tmp_path: Path) -> None:
    environ = ALONE | {
        "SELFHEALD_SOMETHING": "1",
        "SELFHEALD_": "1",
        "OTHER__WATCH": "1",
        "SELFHEALD_STATE_DIR": str(tmp_path),
    }
    config = load_config(environ=environ)
    assert config.state_dir == tmp_path


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("SELFHEALD_WATCH__SETLE", "1", "unknown variable; did you mean SELFHEALD_WATCH__SETTLE?"),
        ("SELFHEALD_WACH__SETTLE", "1", "unknown variable; did you mean SELFHEALD_WATCH__SETTLE?"),
        ("SELFHEALD_WATCH__ROOTS__0", "1", "unknown variable; did you mean SELFHEALD_WATCH__ROOTS?"),
        ("SELFHEALD_WATCH__SETTLE", "soon", 'watch.settle should be a valid number (it is "soon")'),
        ("SELFHEALD_LOG__JSON", "perhaps", 'log.json should be a valid boolean (it is "perhaps")'),
        ("SELFHEALD_DBT__VARS", "[1]", "should be a JSON object"),
        ("SELFHEALD_DBT__VARS", "{", "should be a JSON object, and is not JSON"),
        ("SELFHEALD_REQUIRED__TABLES", "[{]", "should be a JSON list, and is not JSON"),
        ("SELFHEALD_REQUIRED__TABLES", "a", 'required.tables[0] should be a table (it is "a")'),
        ("SELFHEALD_DBT__VARS_COMMAND", "'open", "dbt.vars_command is not a command: no closing quotation"),
    ],
)
def test_wrong_variables_are_named(variable: str, value: str, said: str) -> None:
    with pytest.raises(InitializationError) as raised:
        load_config(environ=ALONE | {variable: value})
    assert raised.value.message == f"{variable}: {said}"


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("[history]\nkeep = 7\n")
    monkeypatch.setenv("SELFHEALD_CONFIG", str(file))
    monkeypatch.setenv("SELFHEALD_LOG__LEVEL", "warning")
    config = load_config()
    assert (config.history.keep, config.log.level) == (7, "WARNING")


def test_a_services_folders(tmp_path: Path) -> None:
    environ = ALONE | {
        "STATE_DIRECTORY": f"{tmp_path}/state:{tmp_path}/other",
        "LOGS_DIRECTORY": f"{tmp_path}/logs",
        "CACHE_DIRECTORY": f"{tmp_path}/cache",
    }
    config = load_config(environ=environ)
    assert config.state_dir == tmp_path / "state"
    assert config.log.file == tmp_path / "logs" / "selfheald.log"
    assert config.templates.dir == tmp_path / "cache" / "templates"
    assert load_config(environ=environ | {"SELFHEALD_STATE_DIR": "/elsewhere"}).state_dir == Path("/elsewhere")


def test_two_configurations_are_equal_wherever_they_came_from(tmp_path: Path) -> None:
    assert loaded("[history]\nkeep = 50\n", tmp_path) == Config()


# --- paths


def test_relative_paths_count_from_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    text = """
    state_dir = "state"
    watch.roots = ["ws", "../other", "/abs", "~/home"]
    [dbt]
    project_dir = "dbt"
    profiles_dir = "p"
    python = "venv/bin/python"
    vars_command = ["./vars", "rel/arg"]
    [templates]
    inputs = ["data/*.csv", "{workspace}/census.parquet"]
    dir = "tpl"
    [log]
    file = "log/x.log"
    """
    config = loaded(text, tmp_path)
    assert config.watch.roots == (tmp_path / "ws", tmp_path / "../other", Path("/abs"), Path("/home/somebody/home"))
    assert config.state_dir == tmp_path / "state"
    assert (config.dbt.project_dir, config.dbt.profiles_dir) == (tmp_path / "dbt", tmp_path / "p")
    assert config.dbt.python == tmp_path / "venv/bin/python"
    assert config.dbt.vars_command == (str(tmp_path / "vars"), "rel/arg")
    assert config.templates.inputs == (str(tmp_path / "data/*.csv"), "{workspace}/census.parquet")
    assert config.templates.dir == tmp_path / "tpl"
    assert config.log.file == tmp_path / "log/x.log"


def test_relative_paths_elsewhere_count_from_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_config(None, {"watch.roots": ["a"]}, ALONE | {"SELFHEALD_LOG__FILE": "x.log"})
    assert config.watch.roots == (tmp_path / "a",)
    assert config.log.file == tmp_path / "x.log"


def test_a_command_as_text_counts_from_the_file_too(tmp_path: Path) -> None:
    folder = tmp_path / "with space"
    folder.mkdir()
    config = loaded("dbt.vars_command = './vars \"a b\" {workspace}'", folder)
    assert config.dbt.vars_command == (str(folder / "vars"), "a b", "{workspace}")
    assert loaded("dbt.vars_command = 'vars x'", folder).dbt.vars_command == ("vars", "x")


@pytest.mark.parametrize("text", ["", "none", "None"])
def test_no_log_file(text: str, tmp_path: Path) -> None:
    assert loaded(f"log.file = '{text}'", tmp_path).log.file is None


def test_blank_means_the_default_where_there_must_be_a_value(tmp_path: Path) -> None:
    config = loaded(
        'state_dir = ""\ndbt = {project_dir = "", python = "", target = ""}\ntemplates.dir = ""\n', tmp_path
    )
    assert config == Config()


def test_workspace_projects_need_trust(tmp_path: Path) -> None:
    assert problems('[dbt]\nthreads = 2\nproject_dir = "{workspace}/dbt"\n', tmp_path) == [
        "3: dbt.project_dir names code in a workspace; dbt.trust_workspace_projects must allow it"
    ]
    for key, value in {"profiles_dir": '"{workspace}"', "vars_command": '["{workspace}/vars"]'}.items():
        assert problems(f"dbt.{key} = {value}\n", tmp_path)[0].startswith(f"1: dbt.{key} names code")
    trusted = loaded('[dbt]\ntrust_workspace_projects = true\nproject_dir = "{workspace}/dbt"\n', tmp_path)
    assert trusted.dbt.project_dir == Path("{workspace}/dbt")
    assert render(trusted.dbt.project_dir, "/ws", "/ws/d") == Path("/ws/dbt")


@pytest.mark.parametrize(
    "path", ["{workspace}/../x", "x/{workspace}", "{database}", "{workspace}/{database}", "{workspace}x"]
)
def test_placeholders_only_where_they_make_sense(path: str, tmp_path: Path) -> None:
    assert len(problems(f'dbt = {{trust_workspace_projects = true, project_dir = "{path}"}}', tmp_path)) == 1


# --- errors


def test_all_problems_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = """\
sate_dir = "x"
settle = 1
[watch]
rootes = ["a"]
  "settle" = -1
exclude = [
 "a",
 "b/c",
]
[[required.tables]]
name = "a"
[[required.tables]]
name = "b"
tier = "sed"
[retry]
max=1
[limits]
min_free_bytes = "many"
[templats]
mode = "on"
"""
    assert problems(text, tmp_path) == [
        "1: sate_dir: unknown key; did you mean state_dir?",
        "2: settle: unknown key; did you mean watch.settle?",
        "4: watch.rootes: unknown key; did you mean watch.roots?",
        "5: watch.settle should be greater than or equal to 0.01 (it is -1)",
        '6: watch.exclude[1] should be the name of a folder, not a path (it is "b/c")',
        "10: required.tables[0].tier is missing",
        "14: required.tables[1].tier should be 'seed' or 'foundation' (it is \"sed\")",
        "16: retry.max should be at least retry.base (2)",
        '18: limits.min_free_bytes should be a size such as "100 MB" or "2 GiB", or a number of bytes (it is "many")',
        "19: templats: unknown key; did you mean templates?",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("watch = 5", "1: watch should be a section, [watch]"),
        ("\n\nwatch.setle = 1", "3: watch.setle: unknown key; did you mean watch.settle?"),
        ("dbt = {threads = 1, thread = 2}", "1: dbt.thread: unknown key; did you mean dbt.threads?"),
        ("[dbt.env]\nA = 1", "2: dbt.env.A should be a valid string"),
        ("dbt.env.DATABASE_PATH = 'x'", "1: dbt.env sets DATABASE_PATH, which selfheald itself sets"),
        ("[retry]\nattempts = true", "2: retry.attempts should be a number (it is true)"),
        ("[retry]\nbase = nan", "2: retry.base should be a finite number (it is NaN)"),
        ("[dbt]\ntimeout = 0", "2: dbt.timeout should be greater than 0 (it is 0)"),
        ("[dbt]\npython = 'python3'", "2: dbt.python should be the whole path of an interpreter"),
        ("[watch]\nroots = '/a'", '2: watch.roots should be a list (it is "/a")'),
        ("[watch]\nroots = ['']", "2: watch.roots[0] should be a path, and is empty"),
        ("[watch]\nroots = ['~nobody-of-that-name/x']", "2: watch.roots[0] starts with ~, but"),
        ("[watch]\ndatabase = 'a/b.duckdb'", "2: watch.database should be a file name"),
        ("[metrics]\nlisten = '9187'", "2: metrics.listen should be an address and a port"),
        ("[required]\nselect = []", "2: required.select selects nothing, and required.tables is empty too"),
        ("[log]\nlevel = 'LOUD'", "2: log.level should be 'TRACE', "),
        ("[dbt]\nvars = {x = inf}", "2: dbt.vars holds a number that is not finite"),
        ("x = ", "1: not TOML: Invalid value"),
        ("[watch]\nsettle = 1\nsettle = 2", "3: not TOML: Cannot overwrite a value"),
        ("[watch]\nroots = [\n'a'", "3: not TOML: "),
    ],
)
def test_one_problem(text: str, said: str, tmp_path: Path) -> None:
    (line,) = problems(text, tmp_path)
    assert line.startswith(said)


def test_errors_never_quote_what_may_be_secret(tmp_path: Path) -> None:
    text = "[dbt]\nenv = {TOKEN = 918273}\nvars_command = ['', 918273]\npre_sql = 918273\n"
    lines = problems(text, tmp_path)
    assert len(lines) == 4
    assert "918273" not in " ".join(lines)


def test_a_flag_is_named_as_a_flag() -> None:
    with pytest.raises(InitializationError, match=r"^command line: watch\.heal should be 'found', "):
        load_config(None, {"watch.heal": "x"}, ALONE)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path, said in {tmp_path / "no.toml": "No such file", tmp_path: "Is a directory"}.items():
        with pytest.raises(InitializationError, match=said) as raised:
            load_config(path, environ={})
        assert raised.value.path == str(path)
    (tmp_path / "latin.toml").write_bytes(b"a = 1\n# caf\xe9\n")
    with pytest.raises(InitializationError, match=r"latin\.toml:2: is not UTF-8"):
        load_config(tmp_path / "latin.toml", environ={})
    (tmp_path / "large.toml").write_bytes(b"#" * (config_file.MAX_BYTES + 1))
    with pytest.raises(InitializationError, match="is larger than"):
        load_config(tmp_path / "large.toml", environ={})
    (tmp_path / "deep.toml").write_bytes(b"a = " + b"[" * 100_000)
    with pytest.raises(InitializationError, match="not TOML"):
        load_config(tmp_path / "deep.toml", environ={})


def test_a_byte_order_mark_and_windows_lines_are_fine(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_bytes(b"\xef\xbb\xbf[history]\r\nkeep = 3\r\n")
    assert load_config(tmp_path / "c.toml", environ={}).history.keep == 3


# --- lines


@pytest.mark.parametrize(
    ("text", "key", "line"),
    [
        ("a = 1\nb = 2\n", ("b",), 2),
        ("[a]\n# c = 0\nc = 1\n", ("a", "c"), 3),
        ("a.b.c = 1\na.b.d = 2", ("a", "b", "d"), 2),
        ("x = 1\na = {b = 1, c = 2}", ("a", "c"), 2),
        ("[a]\nx = [\n 1,\n 2,\n]\ny = 1", ("a", "y"), 6),
        ("[a]\nx = [\n 1,\n 2,\n]\ny = 1", ("a", "x", 1), 2),
        ('[a]\nx = """\n[b]\ny = 5\n"""\n[b]\ny = 1', ("b", "y"), 7),
        ('"a b"."c.d" = 1\n', ("a b", "c.d"), 1),
        ("[[t]]\nn = 1\n[[t]]\nn = 2", ("t", 1, "n"), 4),
        ("[a.b]\nc = 1\n[a]\nd = 2\n", ("a", "d"), 4),
        ("a = 1 # \u2028 not a line\nb = 2", ("b",), 2),
        ("a = 1\r\n\r\nb = 2\r\n", ("b",), 3),
    ],
)
def test_the_line_of_a_key(text: str, key: tuple[str | int, ...], line: int) -> None:
    assert config_file.lines_of(text, [key]) == {key: line}


def test_no_line_is_better_than_a_wrong_one() -> None:
    assert config_file.lines_of("a = 1", [("b",), ("a", "c"), ("a", 0)]) == {}
    assert config_file.lines_of("\n" * config_file.MAX_LINES + "a = 1", [("a",)]) == {}


names = st.text("abc_", min_size=1, max_size=4)


@given(st.lists(st.tuples(names, names), unique=True, max_size=8), st.data())
def test_every_key_is_found_on_its_line(pairs: list[tuple[str, str]], data: st.DataObject) -> None:
    lines: list[str] = []
    expected: dict[tuple[str | int, ...], int] = {}
    written = set()
    for section, key in sorted(pairs):
        lines += data.draw(st.lists(st.sampled_from(["", "# x = 1", "  # [a]"]), max_size=2))
        if section not in written:
            lines.append(f"[{section}]")
            written.add(section)
        expected[(section, key)] = len(lines) + 1
        lines += data.draw(st.sampled_from([[f"{key} = 1"], [f" '{key}'=[", "1,]"], [f"{key} = '''", "[q]", "'''"]]))
    assert config_file.lines_of("\n".join(lines), expected) == expected


# --- values


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (5, 5),
        ("5", 5),
        ("5 B", 5),
        ("1kb", 1000),
        ("1.5 KiB", 1536),
        ("100 MB", 100_000_000),
        (" 2 GiB ", 2 << 30),
        ("2gib", 2 << 30),
        ("1 TB", 10**12),
    ],
)
def test_sizes(text: object, size: int) -> None:
    assert config_values.size(text) == size


@pytest.mark.parametrize(
    "text", ["", "GB", "-1 MB", "1 M", "1e3 kB", "1 XB", -1, True, 1.5, None, "٣ MB", "9999999 PB"]
)
def test_no_sizes(text: object) -> None:
    with pytest.raises(ValueError, match="should be a size"):
        config_values.size(text)


@given(st.integers(min_value=0, max_value=1 << 62))
def test_a_shown_size_is_the_size(value: int) -> None:
    config = Config.model_validate({"limits": {"min_free_bytes": value}})
    assert tomllib.loads(show_toml(config))["limits"]["min_free_bytes"] is not None
    assert Config.model_validate(tomllib.loads(show_toml(config))) == config


@pytest.mark.parametrize(
    ("key", "good"),
    [
        ("rotation", {"10 MB": 10_000_000, 5000: 5000, "1 day": "1 day", "00:00": "00:00", "": None, "none": None}),
        ("retention", {3: 3, "3": 3, "30 days": "30 days", "": None}),
        ("level", {"debug": "DEBUG"}),
    ],
)
def test_log_values(key: str, good: Mapping[Any, Any]) -> None:
    for value, expected in good.items():
        assert getattr(LogConfig.model_validate({key: value}), key) == expected


@pytest.mark.parametrize(
    ("key", "bad"), [("rotation", ["25:00", "soon", 10, True, -1]), ("retention", [0, -1, "x", True])]
)
def test_wrong_log_values(key: str, bad: list[Any]) -> None:
    for value in bad:
        with pytest.raises(ValidationError):
            LogConfig.model_validate({key: value})


@pytest.mark.parametrize("value", ["127.0.0.1:9187", "[::1]:0", "localhost:80", "0.0.0.0:65535"])
def test_addresses(value: str) -> None:
    assert config_values.listen(value) == value


@pytest.mark.parametrize("value", ["x", ":80", "::1:80", "a:", "a:b", "a:65536", "a b:1", "[]:1"])
def test_no_addresses(value: str) -> None:
    with pytest.raises(ValueError, match="address and a port"):
        config_values.listen(value)


@pytest.mark.parametrize(("value", "kept"), [("1.2.0", "v1.2.0"), ("v1.0.0", "v1.0.0"), ("LATEST", "latest")])
def test_storage_versions(value: str, kept: str) -> None:
    assert DbtConfig.model_validate({"storage_version": value}).storage_version == kept


def test_dates_in_variables_become_text(tmp_path: Path) -> None:
    config = loaded("[dbt.vars]\nday = 2025-01-31\nat = 2025-01-31T10:00:00Z\nlist = [10:00:00]\n", tmp_path)
    assert json.loads(json.dumps(config.dbt.vars)) == {
        "day": "2025-01-31",
        "at": "2025-01-31T10:00:00+00:00",
        "list": ["10:00:00"],
    }


def test_render_replaces_two_words_and_nothing_else() -> None:
    value = {"{workspace}": ["{workspace}/a", {"x": "{database}{other}{0}{{workspace}}"}], "n": 1, "t": ("{database}",)}
    assert render(value, "/{database}", Path("/d")) == {
        "{workspace}": ["/{database}/a", {"x": "/d{other}{0}{/{database}}"}],
        "n": 1,
        "t": ("/d",),
    }


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_render_leaves_all_else_alone(value: Any) -> None:
    if "{workspace}" not in str(value) and "{database}" not in str(value):
        assert render(value, "/w", "/d") == value


# --- which file


NOBODY = 65534


def as_user(user: int, script: str, folder: Path | str) -> subprocess.CompletedProcess[str]:
    """Run Python code that may import the package as another user, without an environment, in ``folder``."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root and setpriv to become another user")
    become = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--", sys.executable, "-W", "error"]
    begin = f"import sys; sys.path.insert(0, {str(REPOSITORY)!r})\n"
    able = subprocess.run([*become, "-c", f"{begin}import selfheald.config"], cwd="/", capture_output=True, check=False)
    if able.returncode:
        pytest.skip("another user cannot read the package or its interpreter here")
    return subprocess.run(
        [*become, "-c", begin + script], cwd=folder, env={}, capture_output=True, text=True, check=False
    )


LOAD = """
from selfheald.config import load_config, config_sources
config = load_config()
print(config.history.keep)
print(*config_sources(config).notices, sep="\\n")
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder with a configuration, where others can reach it (pytest's own folders are private)."""
    with tempfile.TemporaryDirectory(prefix="selfheald-test-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "selfheald.toml").write_text("[history]\nkeep = 7\n")
        (folder / "selfheald.toml").chmod(0o644)
        yield folder


def test_the_working_folders_file(open_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(open_folder)
    config = load_config(environ={})
    assert config.history.keep == 7
    assert config_sources(config).file == open_folder / "selfheald.toml"
    assert config_sources(config).notices == ()


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_a_file_that_others_can_write_is_passed_over(
    mode: int, open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(open_folder)
    file = open_folder / "selfheald.toml"
    file.chmod(mode)
    config = load_config(environ={})
    assert config.history.keep == 50
    (notice,) = config_sources(config).notices
    assert notice == f"passed over {file}: others can write to it; to use it all the same, name it with --config"
    assert warnings(config)[0] == notice
    assert load_config(file, environ={}).history.keep == 7


@pytest.mark.parametrize(("mode", "keep"), [(0o775, 50), (0o777, 50), (0o1777, 7), (0o700, 7)])
def test_a_folder_that_others_can_write(
    mode: int, keep: int, open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(open_folder)
    open_folder.chmod(mode)
    config = load_config(environ={})
    assert config.history.keep == keep
    assert len(config_sources(config).notices) == (keep == 50)


def test_roots_file_counts_for_everybody(open_folder: Path) -> None:
    result = as_user(NOBODY, LOAD, open_folder)
    assert result.stdout.splitlines()[0] == "7", result.stderr


def test_ones_own_file_counts(open_folder: Path) -> None:
    if os.geteuid() == 0:
        os.chown(open_folder, NOBODY, NOBODY)
        os.chown(open_folder / "selfheald.toml", NOBODY, NOBODY)
    result = as_user(NOBODY, LOAD, open_folder)
    assert result.stdout.splitlines()[0] == "7", result.stderr


@pytest.mark.parametrize("what", ["selfheald.toml", ".", "link"])
def test_a_strangers_file_folder_or_link_is_passed_over(what: str, open_folder: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to give files away")
    if what == "link":
        (open_folder / "selfheald.toml").rename(open_folder / "real.toml")
        (open_folder / "selfheald.toml").symlink_to("real.toml")
        os.chown(open_folder / "selfheald.toml", 1234, 1234, follow_symlinks=False)
    else:
        os.chown(open_folder / what, 1234, 1234)
    result = as_user(NOBODY, LOAD, open_folder)
    keep, notice = result.stdout.splitlines()[:2]
    assert keep == "50", result.stderr
    assert "belongs to user 1234, who is neither you nor root" in notice


def test_a_strangers_file_is_passed_over_by_root_too(open_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to give files away")
    os.chown(open_folder / "selfheald.toml", 1234, 1234)
    monkeypatch.chdir(open_folder)
    assert load_config(environ={}).history.keep == 50


def test_a_pipe_is_no_configuration_and_blocks_nothing(open_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (open_folder / "selfheald.toml").unlink()
    os.mkfifo(open_folder / "selfheald.toml", 0o600)
    monkeypatch.chdir(open_folder)
    (notice,) = config_sources(load_config(environ={})).notices
    assert "not a plain file" in notice


def test_an_unreadable_file_is_passed_over(open_folder: Path) -> None:
    (open_folder / "selfheald.toml").chmod(0o600)
    result = as_user(NOBODY, LOAD, open_folder)
    assert result.stdout.splitlines()[:2] == ["50", f"passed over {open_folder}/selfheald.toml: Permission denied"], (
        result.stderr
    )


def test_the_platforms_folder_and_a_services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    user = tmp_path / "home/.config/selfheald"
    service = tmp_path / "etc"
    for folder, keep in ((user, 3), (service, 4)):
        folder.mkdir(parents=True)
        (folder / "selfheald.toml").write_text(f"[history]\nkeep = {keep}\n")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home/.config"))
    if sys.platform == "linux":
        assert load_config(environ={}).history.keep == 3
    assert load_config(environ={"CONFIGURATION_DIRECTORY": str(service)}).history.keep == 4


def test_a_removed_working_folder_is_no_crash(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    script = (
        f"import os, sys; sys.path.insert(0, {str(REPOSITORY)!r}); os.rmdir(os.getcwd())\n"
        "from selfheald.config import load_config; print(load_config().history.keep)"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path / "gone", capture_output=True, text=True, check=False
    )
    assert result.stdout.strip() == "50", result.stderr


def test_without_a_home_there_are_still_places() -> None:
    script = """
from selfheald.config import load_config
config = load_config()
print(config.state_dir, config.log.file, config.templates.dir)
"""
    result = as_user(54321, script, "/")
    expected = "/var/lib/selfheald /var/log/selfheald/selfheald.log /var/cache/selfheald/templates"
    assert result.stdout.strip() == expected, result.stderr


# --- as text


def uncommented(text: str) -> str:
    return re.sub(r"^#(?=\S)", "", text, flags=re.MULTILINE)


def test_the_commented_file_means_the_defaults_either_way(tmp_path: Path) -> None:
    assert Config.model_validate(tomllib.loads(template())) == Config()
    assert Config.model_validate(tomllib.loads(uncommented(template()))) == Config()
    assert loaded(uncommented(template()), tmp_path) == Config()


def test_the_commented_file_has_every_key_and_its_description() -> None:
    plain = " ".join(line.removeprefix("# ") for line in template().splitlines())
    set_keys = tomllib.loads(uncommented(template()))
    for name, (section, info) in all_keys().items():
        assert info.description in plain, name
        assert name.rpartition(".")[2] in (set_keys[section] if section else set_keys), name


def test_the_commented_file_with_roots() -> None:
    assert tomllib.loads(template(["/srv/a b", '/srv/"q"']))["watch"] == {"roots": ["/srv/a b", '/srv/"q"']}


def test_what_is_shown_is_what_is_in_force(tmp_path: Path) -> None:
    text = "[dbt]\nvars = {a = {b = [1, 'x']}, 'odd name' = true}\n[watch]\nroots = ['/a']\n[log]\nrotation = '1 day'\n"
    config = loaded(text, tmp_path, {"SELFHEALD_RETRY__BASE": "3"})
    shown = show_toml(config)
    assert Config.model_validate(tomllib.loads(shown)) == config
    assert 'roots = ["/a"]  # file' in shown
    assert "base = 3.0  # environment" in shown
    assert "settle = 0.2\n" in shown
    assert Config.model_validate(json.loads(json.dumps(show(config)))) == config


def test_secrets_are_hidden(tmp_path: Path) -> None:
    text = """
    [dbt]
    env = {PLAIN = "s3cret1"}
    vars.api_token = "s3cret2"
    vars.deep = {list = [{Password = "s3cret3"}]}
    vars.url = "https://me:s3cret4@host/x"
    vars.year = 2025
    vars_command = ["/opt/vars", "--token", "s3cret5", "--key=s3cret6", "PASSWORD=s3cret7", "plain"]
    pre_sql = "CREATE SECRET x (TYPE s3, SECRET 's3cret8')"
    """
    config = loaded(text, tmp_path)
    for shown in (json.dumps(show(config)), show_toml(config)):
        assert "s3cret" not in shown
        assert "PLAIN" in shown
        assert "2025" in shown
        assert "plain" in shown
        assert "host/x" in shown
    tomllib.loads(show_toml(config))


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
variables = st.recursive(
    st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(texts, variables, max_size=4))
def test_shown_toml_is_toml_whatever_the_variables(value: dict[str, Any]) -> None:
    config = Config.model_validate({"dbt": {"vars": value}})
    assert tomllib.loads(show_toml(config))["dbt"]["vars"] == show(config)["dbt"]["vars"]


def test_paths_that_are_no_utf8_can_be_shown() -> None:
    config = Config.model_validate({"watch": {"roots": [os.fsdecode(b"/srv/\xff")]}})
    assert show(config)["watch"]["roots"] == ["/srv/\\udcff"]
    show_toml(config).encode("utf-8")


def test_schema_is_json_and_takes_the_file_forms() -> None:
    schema = Config.model_json_schema()
    assert json.loads(json.dumps(schema)) == schema
    assert set(schema["properties"]) == {*sections(), "state_dir"}
    assert set(schema["$defs"]["LogConfig"]["properties"]) == set(keys(LogConfig))
    assert schema["additionalProperties"] is False


# --- the rest


def test_warnings_look_at_the_disk(tmp_path: Path) -> None:
    assert warnings(Config()) == ["watch.roots: no folder to watch is configured; `selfheald run` needs ROOT arguments"]
    text = f"""
    watch.roots = ["{tmp_path}", "missing"]
    [dbt]
    project_dir = "missing"
    python = "missing/python"
    env.TOKEN = "x"
    [metrics]
    listen = "0.0.0.0:9187"
    """
    config = loaded(text, tmp_path)
    (tmp_path / "some.toml").chmod(0o644)
    assert [line.partition(":")[0] for line in warnings(config)] == [
        "watch.roots",
        "dbt.project_dir",
        "dbt.python",
        "metrics.listen",
        "dbt.env",
    ]


def test_a_childs_environment() -> None:
    given_environment = {
        "PATH": "/bin",
        "SELFHEALD_DBT__ENV__TOKEN": "x",
        "NOTIFY_SOCKET": "/s",
        "PYTHONHOME": "/p",
        "A": "1",
    }
    assert child_environment({"A": "2", "B": "3"}, given_environment) == {"PATH": "/bin", "A": "2", "B": "3"}


@pytest.mark.parametrize(
    ("environ", "allowed"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
)
def test_colours(environ: dict[str, str], allowed: bool) -> None:
    assert colour_allowed(environ) is allowed


def test_the_example_is_valid() -> None:
    config = load_config(REPOSITORY / "examples" / "selfheald.toml", environ={})
    assert config.watch.roots[0] == Path("/srv/simulations")
    assert render(config.dbt.vars, "/ws", "/ws/d")["census_parquet_path"] == "/ws/data/census.parquet"


def test_the_documentation_names_every_key_with_its_default() -> None:
    text = (REPOSITORY / "docs" / "configuration.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([a-z_.]+)` \| (.+? \| .+?) \|", text, re.MULTILINE))
    fields = all_keys()
    assert set(rows) == set(fields)
    for name, (section, info) in fields.items():
        default, variable = rows[name].split(" | ")
        assert variable == f"`SELFHEALD_{name.replace('.', '__').upper()}`"
        words = (info.json_schema_extra or {}).get("x-default")
        if words:
            assert default == words, name
            continue
        key = name.rpartition(".")[2]
        expected = tomllib.loads(f"v = {default_of(section, key, info)}")["v"]
        assert tomllib.loads(f"v = {default.strip('`')}")["v"] == expected, name


def test_the_documentations_file_and_variables_work(tmp_path: Path) -> None:
    text = (REPOSITORY / "docs" / "configuration.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    assert loaded(block, tmp_path).dbt.timeout == 120
    examples = re.findall(r"`(SELFHEALD_[A-Za-z_]+)=('?)(.*?)\2`", text)
    assert len(examples) >= 10
    for variable, _, value in examples:
        load_config(environ=ALONE | {variable: value})


def test_nothing_here_is_not_finite() -> None:
    for name, default in DEFAULTS.items():
        assert not isinstance(default, float) or math.isfinite(default), name
