"""What dbt says when it fails, as errors with a code, a file and a next step."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple

import yaml
from dbt.exceptions import DbtProfileError

import dbt_hints
from dbt_words import as_said, one_line
from protocol import JobError, job_error, shortage
from saved_parse import sources

_NOT_FOUND = re.compile(
    r"(?P<who>\w+ '[^']+' \([^)]*\)) depends on a node named '(?P<name>[^']+)'.* which was not found",
    re.DOTALL,
)
_FILE = re.compile(r"[^\s'\"():]+\.(?:sql|ya?ml|csv|py|md)\b")
_SEEDS_SECTION = re.compile(r"^seeds\s*:", re.MULTILINE)
_YAML_PATHS = {"seed-paths": "seeds", "model-paths": "models", "snapshot-paths": "snapshots"}


def profile_error(error: BaseException, file: Path) -> JobError:
    """The profile could not be resolved."""
    said = as_said(error)
    return JobError("profile_invalid", f"the profile cannot be used: {said}", dbt_hints.of_profile(said), file)


def parse_error(error: Optional[BaseException], project_dir: Path, raw_project: Mapping[str, Any]) -> JobError:
    """The project could not be parsed; a reference to a seed whose file is gone is told as such."""
    project_file = project_dir / "dbt_project.yml"
    if isinstance(error, OSError) or error is None:
        return job_error(error or RuntimeError("dbt gave no reason"))
    if isinstance(error, UnicodeDecodeError):
        return _not_text(error, project_dir) or JobError("dbt_project_invalid", str(error), path=project_file)
    if isinstance(error, DbtProfileError):
        return profile_error(error, project_file)
    message = as_said(error)
    lacking = shortage(one_line(message))
    if lacking is not None:
        return lacking
    lost = _NOT_FOUND.search(message)
    if lost is not None:
        seed = missing_seed(project_dir, raw_project, lost["name"], f"{lost['who']} needs it")
        if seed is not None:
            return seed
    advice = dbt_hints.of_project(message, project_dir, _named_file(message, project_dir))
    return JobError("dbt_project_invalid", message, advice.hint, advice.file or project_file)


def missing_seed(
    project_dir: Path, raw_project: Mapping[str, Any], only: Optional[str] = None, why: str = ""
) -> Optional[JobError]:
    """The error for a seed that a properties file describes, but that has no CSV file; None if all have one.

    ``only`` asks about one seed by name; ``why`` says who needs it.
    """
    missing = {
        name: (expected, file)
        for name, expected, file in _described_seeds(project_dir, raw_project)
        if only in (None, name) and not _has_file(project_dir, raw_project, name)
    }
    if not missing:
        return None
    name, (expected, file) = next(iter(missing.items()))
    described = file.relative_to(project_dir)
    message = f"the seed {name!r} has no file: {expected} does not exist; {why or f'{described} describes it'}"
    if len(missing) > 1:
        message += f"; missing too: {', '.join(sorted(set(missing) - {name}))}"
    hint = f"Put {expected.name} back into {expected.parent}, or take the seed out of {described}."
    return JobError("missing_seed_file", message, hint, expected)


def selection_error(error: Optional[BaseException], select: List[str], project_file: Path) -> JobError:
    """dbt did not understand the selection itself, or found that the project's models go round in a circle."""
    if isinstance(error, OSError):
        return job_error(error)
    said = as_said(error)
    if said.startswith("Found a cycle"):
        advice = dbt_hints.of_project(said, project_file.parent, None)
        return JobError("dbt_project_invalid", said, advice.hint, project_file)
    message = f"dbt cannot read the selection {select!r}: {said}"
    return JobError("config_invalid", message, "Correct required.select.", project_file)


def build_error(
    results: Any, error: Optional[BaseException], path_of: Mapping[str, str], project_dir: Path, log_dir: Path
) -> Optional[JobError]:
    """The first node that failed, with dbt's own words; None if no node did and dbt raised nothing.

    The SQL of a failed model is put beside dbt's log, since the folder it was compiled in does not last.
    """
    failed = [result for result in results or () if str(result.status) in ("error", "fail", "runtime error")]
    if not failed:
        if error is None:
            return None
        message = as_said(error)
        if isinstance(error, OSError):
            return job_error(error)
        return shortage(one_line(message)) or JobError("dbt_failed", message)
    said = message = as_said(failed[0].message or "dbt gave no reason")
    others = [node.name for node in (getattr(result, "node", None) for result in failed[1:]) if node]
    if others:
        message += f"\n(and {len(others)} more failed: {', '.join(others)})"
    lacking = shortage(one_line(message))
    if lacking is not None:
        return lacking
    node = getattr(failed[0], "node", None)
    if node is None or node.resource_type == "operation":  # dbt 1.8 has no node for a hook
        return JobError("dbt_failed", message, "Mend the hook.", project_dir / "dbt_project.yml")
    if node.name not in message.partition("\n")[0]:
        message = f"{node.name}: {message}"
    path = path_of.get(node.unique_id)
    if node.resource_type == "seed" and path is not None:
        return _seed_error(message, node, Path(path))
    return JobError("dbt_failed", message, dbt_hints.of_model(said, node, path, _kept_sql(node, log_dir)), path)


def _seed_error(message: str, node: Any, file: Path) -> JobError:
    if not file.is_file():
        return JobError("missing_seed_file", message, path=file)
    if file.stat().st_size == 0:
        return JobError("seed_invalid", f"{file.stem}: {file} is empty; it needs a header line", path=file)
    return JobError("seed_invalid", message, dbt_hints.of_seed(message, node, file), file)


def _kept_sql(node: Any, log_dir: Path) -> Optional[Path]:
    """Where the SQL of a model that failed has been put; None if it was not compiled."""
    code = getattr(node, "compiled_code", None)
    if not code:
        return None
    file = log_dir / f"{node.name}.sql"
    try:
        file.write_text(code, encoding="utf-8")
    except OSError:
        return None
    return file


def _named_file(message: str, project_dir: Path) -> Optional[Path]:
    """The first file of the project that the message names; dbt may leave out the folder of a YAML file."""
    for match in _FILE.finditer(message):
        for place in (project_dir / match[0], Path(match[0])):
            if place.is_file():
                return place
        endings = (".sql", ".yml", ".yaml", ".md", ".py")
        namesakes = [file for file in sources(project_dir, *endings) if str(file).endswith(f"/{match[0]}")]
        broken = [file for file in namesakes if file.suffix in (".yml", ".yaml") and not _is_yaml(file)]
        if len(namesakes) == 1 or broken:
            return [*broken, *namesakes][0]
    return None


def _not_text(error: UnicodeDecodeError, project_dir: Path) -> Optional[JobError]:
    """dbt does not say which file is not UTF-8."""
    for file in sources(project_dir, ".csv", ".sql", ".yml", ".yaml", ".md"):
        try:
            file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            code = "seed_invalid" if file.suffix == ".csv" else "dbt_project_invalid"
            return JobError(code, f"{file} is not UTF-8 text: {error}", path=file)
        except OSError:
            pass
    return None


def _is_yaml(file: Path) -> bool:
    try:
        yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return False
    return True


def _described_seeds(project_dir: Path, raw_project: Mapping[str, Any]) -> Iterator[Tuple[str, Path, Path]]:
    """Each seed of the project's properties files: its name, where its CSV file belongs, who describes it."""
    seed_paths = _paths(raw_project, "seed-paths")
    folders = dict.fromkeys(folder for key in _YAML_PATHS for folder in _paths(raw_project, key))
    for folder in folders:
        for file in sorted((project_dir / folder).rglob("*.y*ml")):
            home = file.parent if folder in seed_paths else project_dir / seed_paths[0]
            for seed in _seed_entries(file):
                yield str(seed["name"]), home / f"{seed['name']}.csv", file


def _seed_entries(file: Path) -> List[Dict[str, Any]]:
    try:
        text = file.read_text(encoding="utf-8")
        content = yaml.safe_load(text) if _SEEDS_SECTION.search(text) else None
    except (OSError, ValueError, yaml.YAMLError):
        return []  # dbt itself has the better words for it
    seeds = content.get("seeds") if isinstance(content, dict) else None
    return [
        seed
        for seed in (seeds if isinstance(seeds, list) else [])
        if isinstance(seed, dict) and seed.get("name") and (seed.get("config") or {}).get("enabled") is not False
    ]


def _has_file(project_dir: Path, raw_project: Mapping[str, Any], name: str) -> bool:
    file = f"{name}.csv"
    return any(
        found.name == file
        for folder in _paths(raw_project, "seed-paths")
        for found in (project_dir / folder).rglob("*.csv")
    )


def _paths(raw_project: Mapping[str, Any], key: str) -> List[str]:
    paths = raw_project.get(key) or [_YAML_PATHS[key]]
    return [str(path) for path in paths] if isinstance(paths, list) else [str(paths)]
