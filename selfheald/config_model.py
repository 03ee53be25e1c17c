"""The configuration's model: every section and key with its type, bounds, default and description.

Attributes are the keys of ``selfheald.toml``; only ``log.json`` is read as ``config.log.as_json``, since
pydantic has a method of that name. Durations are seconds (float), sizes are bytes (int), paths are absolute.
``None`` is written ``""``. All of it is frozen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from selfheald import config_values as values
from selfheald.config_places import (
    bundled_project_dir,
    default_log_file,
    default_state_dir,
    default_templates_dir,
    own_python,
)

Seconds = Annotated[float, BeforeValidator(values.number), Field(allow_inf_nan=False)]
Count = Annotated[int, BeforeValidator(values.number)]
Size = Annotated[
    int,
    BeforeValidator(values.size),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "examples": ["2 GiB"]}]}),
]
Text = Annotated[str, Field(min_length=1)]
Level = Literal["TRACE", "DEBUG", "INFO", "SUCCESS", "WARNING", "ERROR", "CRITICAL"]
Blank = BeforeValidator(values.blank_is_none)
AbsolutePath = Annotated[Path, BeforeValidator(values.absolute_path)]
TemplatedPath = Annotated[Path, BeforeValidator(values.templated_path)]

Command = Annotated[
    tuple[Text, ...],
    BeforeValidator(values.command),
    WithJsonSchema({"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "string"}]}),
]

#: Shared by all sections: no key beyond those declared, nothing assigned later.
_FROZEN = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class Sources:
    """Where a configuration came from. Never part of a comparison of two configurations.

    ``file`` is the file that was used, if any; ``notices`` tell of files that were passed over; ``origins``
    says for each dotted key that was set ``service``, ``file``, ``environment`` or ``command line``. Like all of a
    configuration it can be pickled, so that another process, or another host, can be given it.
    """

    file: Path | None = field(default=None, compare=False)
    notices: tuple[str, ...] = field(default=(), compare=False)
    origins: Mapping[str, str] = field(default_factory=dict, compare=False)


def _words(text: str) -> dict[str, Any]:
    """What documentation says instead of a default that differs between machines."""
    return {"x-default": text}


class WatchConfig(BaseModel):
    """[watch]: which databases are looked after, and how closely."""

    model_config = _FROZEN

    roots: tuple[AbsolutePath, ...] = Field(
        default=(),
        description="Folders to watch, recursively. Symlinks are not followed. They must exist when `selfheald run` "
        "starts.",
    )
    database: Annotated[str, BeforeValidator(values.file_name)] = Field(
        default="simulation.duckdb", description="File name to look for."
    )
    exclude: tuple[Annotated[str, BeforeValidator(values.folder_name)], ...] = Field(
        default=(".git", ".venv", "node_modules", "target", "dbt_packages"),
        description="Folder names passed over.",
    )
    heal: Literal["found", "requested", "never"] = Field(
        default="found",
        description="Which databases are made ready: `found` (all), `requested` (those that a simulator asks "
        "for), `never` (observe only).",
    )
    settle: Seconds = Field(default=0.2, ge=0.01, le=3600, description="Seconds of quiet before a check.")
    min_interval: Seconds = Field(
        default=1.0,
        gt=0,
        le=3600,
        description="Seconds between two checks of one database. The first check is never delayed by it.",
    )
    rescan: Seconds = Field(
        default=60.0,
        ge=0.1,
        le=86_400,
        description="Seconds between two scans that make lost events harmless. Unless it is set, scans of very many "
        "folders are rarer while events tell of everything: a thousandth of the time goes into them, and they come "
        "every 15 minutes at least.",
    )
    mode: Literal["auto", "native", "polling"] = Field(
        default="auto",
        description="How changes are seen: `native`, `polling`, or `auto` (polling on network file systems and "
        "when limits are hit).",
    )


class DbtConfig(BaseModel):
    """[dbt]: what builds the tables."""

    model_config = _FROZEN

    project_dir: Annotated[TemplatedPath, BeforeValidator(values.blank_is(bundled_project_dir))] = Field(
        default_factory=bundled_project_dir,
        description="The dbt project's folder. It may start with `{workspace}` if `dbt.trust_workspace_projects` is "
        "set.",
        json_schema_extra=_words("the bundled project"),
    )
    trust_workspace_projects: bool = Field(
        default=False,
        description="Allow `{workspace}` in `dbt.project_dir`, in `dbt.profiles_dir` and as the program of "
        "`dbt.vars_command`: code that was found in a workspace is then run.",
    )
    profiles_dir: Annotated[TemplatedPath | None, Blank] = Field(
        default=None,
        description="Folder of `profiles.yml`. The profile must read its path from `env_var('DATABASE_PATH')`.",
        json_schema_extra=_words("the project's own, else generated"),
    )
    target: Annotated[str | None, Blank] = Field(
        default=None,
        description="The profile's target. `DBT_TARGET` and `DBT_PROFILE` in the environment have no effect.",
        json_schema_extra=_words("the profile's own"),
    )
    python: Annotated[Path, BeforeValidator(values.program), BeforeValidator(values.blank_is(own_python))] = Field(
        default_factory=own_python,
        description="The interpreter whose dbt and DuckDB write the database: the simulator's own. A whole path, "
        "not a bare name.",
        json_schema_extra=_words("the daemon's own interpreter"),
    )
    vars: Annotated[dict[str, Any], BeforeValidator(values.dbt_variables)] = Field(
        default_factory=dict,
        description="dbt variables. Values may hold `{workspace}` and `{database}`. TOML's dates become text.",
    )
    vars_command: Command = Field(
        default=(),
        description="A command that prints dbt variables as a JSON object: a list, or text that is split as a shell "
        "would. No shell runs it. It may hold `{workspace}` and `{database}`.",
    )
    env: Annotated[dict[str, str], BeforeValidator(values.environment)] = Field(
        default_factory=dict,
        description="Extra environment for dbt, text only. Values may hold `{workspace}` and `{database}`. "
        "`DATABASE_PATH` is selfheald's own.",
    )
    pre_sql: Annotated[str | None, Blank] = Field(default=None, description="SQL that is run on staging before dbt.")
    threads: Count = Field(default=1, ge=1, le=64, description="dbt threads. One is the most stable.")
    timeout: Seconds = Field(
        default=60.0,
        gt=0,
        le=604_800,
        description="Hard limit of one initialization in seconds, from the start of its child process.",
    )
    storage_version: Annotated[str, BeforeValidator(values.storage_version)] = Field(
        default="v1.0.0",
        description="DuckDB storage format of the databases that selfheald makes, or `latest`.",
    )
    on_schema_mismatch: Literal["report", "rebuild-seeds"] = Field(
        default="report",
        description="What happens to a seed table whose columns are not those of its file: `report`, or "
        "`rebuild-seeds` (it is loaded anew; the old one is kept under another name).",
    )
    keep_warm: Seconds = Field(
        default=300.0,
        ge=0,
        le=86_400,
        description="Seconds for which the daemon keeps an idle dbt host: a process that has imported dbt, and forks "
        "for each job. 0: each job has an interpreter of its own, as it has where forking is not safe (macOS, or a "
        "host with several threads).",
    )

    @model_validator(mode="after")
    def _only_trusted_code(self) -> Self:
        if self.trust_workspace_projects:
            return self
        code = {
            "project_dir": str(self.project_dir),
            "profiles_dir": str(self.profiles_dir or ""),
            "vars_command": "".join(self.vars_command[:1]),
        }
        for key, text in code.items():
            if values.has_placeholder(text):
                raise fault(key, "names code in a workspace; dbt.trust_workspace_projects must allow it")
        return self


class RequiredTableConfig(BaseModel):
    """One entry of required.tables."""

    model_config = _FROZEN

    name: Text = Field(description="The table's name.")
    tier: Literal["seed", "foundation"] = Field(description="`seed` (loaded first) or `foundation` (built after).")
    select: Annotated[str | None, Blank] = Field(
        default=None,
        description="dbt selection of the node that makes it; it must match exactly one table.",
        json_schema_extra=_words("the name"),
    )


class RequiredConfig(BaseModel):
    """[required]: the tables that a simulation needs before it starts."""

    model_config = _FROZEN

    select: tuple[Text, ...] = Field(
        default=("resource_type:seed", "tag:foundation"),
        description="dbt selection that gives the required tables; `selector:NAME` is one of the project's own YAML "
        "selectors.",
    )
    tables: tuple[RequiredTableConfig, ...] = Field(
        default=(),
        description="Or an explicit list of `{name, tier, select}`, instead of `required.select`: the table's name, "
        "`seed` or `foundation`, and a dbt selection of the node that makes it that must match exactly one table (left "
        "out: the one with that name, or with that `schema.name`).",
    )

    @model_validator(mode="after")
    def _something_once(self) -> Self:
        if not self.select and not self.tables:
            raise fault("select", "selects nothing, and required.tables is empty too")
        names = [table.name.lower() for table in self.tables]
        for name in names:
            if names.count(name) > 1:
                raise fault("tables", f"names the table {name} more than once")
        return self


class TemplatesConfig(BaseModel):
    """[templates]: finished databases kept for reuse."""

    model_config = _FROZEN

    mode: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Whether finished databases are kept for reuse: `auto` (where it is safe), `on`, `off`.",
    )
    inputs: tuple[Annotated[str, BeforeValidator(values.templated_text_path)], ...] = Field(
        default=(),
        description="Files (or globs) besides the project that decide the result. They may start with `{workspace}`.",
    )
    dir: Annotated[AbsolutePath, BeforeValidator(values.blank_is(default_templates_dir))] = Field(
        default_factory=default_templates_dir,
        description="Folder of the templates.",
        json_schema_extra=_words("the platform's cache folder"),
    )
    max_bytes: Size = Field(default=2 << 30, description="Room for all templates together (size).")


class LimitsConfig(BaseModel):
    """[limits]: what is too much or too little."""

    model_config = _FROZEN

    min_free_bytes: Size = Field(default=100_000_000, description="Free disk (size) below which nothing starts.")
    max_input_bytes: Size = Field(
        default=2 << 30,
        description="Existing tables that missing ones are built from are copied to staging up to this size.",
    )


class RetryConfig(BaseModel):
    """[retry]: exponential backoff of failures that pass by themselves."""

    model_config = _FROZEN

    attempts: Count = Field(default=5, ge=1, le=1000, description="Attempts in all, the first included.")
    base: Seconds = Field(default=2.0, gt=0, le=3600, description="Seconds before the second attempt; then doubled.")
    max: Seconds = Field(
        default=300.0,
        gt=0,
        le=86_400,
        description="Longest pause between two attempts in seconds, at least `retry.base`.",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max < self.base:
            raise fault("max", f"should be at least retry.base ({self.base:g})")
        return self


class ShutdownConfig(BaseModel):
    """[shutdown]: how the daemon ends."""

    model_config = _FROZEN

    grace: Seconds = Field(
        default=20.0,
        ge=0,
        le=3600,
        description="Seconds that a running initialization gets at the first signal. The second ends it.",
    )


class HistoryConfig(BaseModel):
    """[history]: past attempts."""

    model_config = _FROZEN

    keep: Count = Field(default=50, ge=1, le=10_000, description="Attempts kept for each database.")


class LogConfig(BaseModel):
    """[log]: the log. ``json`` is the attribute ``as_json``."""

    model_config = _FROZEN

    level: Annotated[Level, BeforeValidator(values.upper)] = Field(
        default="INFO", description="The least level that is logged."
    )
    file: Annotated[AbsolutePath | None, Blank] = Field(
        default_factory=default_log_file,
        description='The log file. `""` or `none`: stderr alone.',
        json_schema_extra=_words("selfheald.log in the platform's log folder"),
    )
    as_json: bool = Field(default=False, alias="json", description="One JSON object a line, in the file and on stderr.")
    rotation: Annotated[int | str | None, BeforeValidator(values.rotation)] = Field(
        default=10_000_000,
        description='When a new file is begun: a size, a time of day (`"00:00"`), a period (`"1 day"`), or `""` for '
        "never.",
    )
    retention: Annotated[int | str | None, BeforeValidator(values.retention)] = Field(
        default=10, description='How many rotated files are kept, or for how long (`"30 days"`), or `""` for all.'
    )


class MetricsConfig(BaseModel):
    """[metrics]: figures for Prometheus, and a page that shows how it goes."""

    model_config = _FROZEN

    listen: Annotated[str | None, BeforeValidator(values.listen), Blank] = Field(
        default=None, description='Address and port for Prometheus and a status page, "127.0.0.1:PORT". "": none.'
    )


class Config(BaseModel):
    """The whole configuration of selfheald."""

    model_config = ConfigDict(frozen=True, extra="forbid", title="selfheald.toml")

    watch: WatchConfig = Field(default_factory=WatchConfig, description="Which databases are looked after.")
    dbt: DbtConfig = Field(default_factory=DbtConfig, description="What builds the tables.")
    required: RequiredConfig = Field(default_factory=RequiredConfig, description="The tables a simulation needs.")
    templates: TemplatesConfig = Field(
        default_factory=TemplatesConfig, description="Finished databases kept for reuse."
    )
    limits: LimitsConfig = Field(default_factory=LimitsConfig, description="What is too much or too little.")
    retry: RetryConfig = Field(default_factory=RetryConfig, description="Backoff of failures that pass.")
    shutdown: ShutdownConfig = Field(default_factory=ShutdownConfig, description="How the daemon ends.")
    history: HistoryConfig = Field(default_factory=HistoryConfig, description="Past attempts.")
    log: LogConfig = Field(default_factory=LogConfig, description="The log.")
    metrics: MetricsConfig = Field(default_factory=MetricsConfig, description="Figures for Prometheus.")
    state_dir: Annotated[AbsolutePath, BeforeValidator(values.blank_is(default_state_dir))] = Field(
        default_factory=default_state_dir,
        description="Folder of the plan cache and the crash guard.",
        json_schema_extra=_words("the platform's state folder"),
    )

    _sources: Sources = PrivateAttr(default_factory=Sources)

    @property
    def sources(self) -> Sources:
        """Where it came from; nothing is known of one that was made in code."""
        return self._sources

    def with_sources(self, sources: Sources) -> Self:
        """The same configuration, with word of where it came from."""
        copy = self.model_copy()
        copy._sources = sources
        return copy


def sections() -> dict[str, type[BaseModel]]:
    """The sections by name, in the order in which they are written."""
    return {
        name: info.annotation
        for name, info in Config.model_fields.items()
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel)
    }


def keys(model: type[BaseModel]) -> dict[str, Any]:
    """A model's fields (pydantic's ``FieldInfo``) by the key that users write."""
    return {info.alias or name: info for name, info in model.model_fields.items()}


def fault(key: str, message: str) -> PydanticCustomError:
    """An error about one key, found while its whole section is looked at."""
    return PydanticCustomError("config_fault", "{message}", {"message": message, "key": key})
