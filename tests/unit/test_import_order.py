"""The house's floors: modules import downward only, and heavy libraries only where they belong."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "selfheald"

#: From the top floor to the bottom. A line is one floor: a module imports from lower floors only.
FLOORS = [
    line.split()
    for line in """
        __main__
        cli
        cli.run cli.wait cli.check cli.status cli.config_commands cli.demo cli.repair cli.logs cli.doctor cli.service
        cli.history
        cli.ensure
        cli.status_of_one cli.status_watch
        cli.progress cli.standings
        cli.output
        daemon
        diagnosis.bundle
        diagnosis.examination
        diagnosis.probe_setup diagnosis.probe_places diagnosis.probe_machine
        diagnosis.judge_traces
        diagnosis.judge_setup diagnosis.judge_places diagnosis.judge_machine
        diagnosis.findings diagnosis.archive diagnosis.discretion
        diagnosis
        service
        service.judgement
        service.installing
        service.planning service.rehearsal
        service.account service.systemd service.launchd
        service.manager
        service.unit_text service.launchd_text service.programs
        service.order service.shipped service.launchd_keys
        auto_initializer caretaker lookout heartbeat metrics.endpoint
        metrics.answers metrics.server
        metrics.exposition metrics.page metrics.request
        metrics.rows
        case
        initialization guarded_reader
        from_template
        inspection
        reuse_outlook
        template_key
        attempt planner templates quarantine reproduction warm_host
        observer
        variables reloading forking overview
        watch dbt_host staging presence log decision table_checker outlook
        marker check_child
        table_copier
        catalog_reader
        catalog duckdb_errors read_only_files
        watched_file
        file_header
        crash_guard mounts inotify
        scan
        sight quick_wait
        plan project workspace backlog recent inert_variables agenda retry config obstacle
        config_text config_layers jinja_code
        config_model
        config_file config_values config_places
        locks column_types explanation node_times figures
        log_reading
        client threads file_copy spare notify standing terminal timeline journal names metrics
        initialization_state
        errors printable
    """.strip().splitlines()
]
#: What of the child is selfheald's own too. It names nothing from outside, so it is below all floors.
SHARED = "child.placing."
FLOOR_OF = {module: number for number, line in enumerate(FLOORS) for module in line}

#: Which modules may import a library. The child's own modules are named ``child/…``.
ONLY_IN = {
    "watchfiles": {"watch"},
    "duckdb": {"catalog_reader", "table_copier", "child"},
    "dbt": {"child"},
    "fsspec": {"read_only_files"},
    "loguru": {"log"},
    "prometheus_client": {"metrics.exposition"},
}


def modules() -> dict[str, Path]:
    """All modules but the package's own and the child's, by their name within the package."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[0] == "child" or parts == ("__init__",):
            continue
        found[".".join(part for part in parts if part != "__init__")] = path
    return found


def child_modules() -> dict[str, Path]:
    """The child's own modules, by the names that they have where it runs."""
    folder = PACKAGE / "child"
    return {".".join(path.relative_to(folder).with_suffix("").parts): path for path in sorted(folder.rglob("*.py"))}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> Iterator[str]:
    """The absolute names that a module imports, wherever in it: ``a.b`` for ``from a import b`` too."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level <= 1, path
            folder = path.relative_to(PACKAGE).parent.parts
            within = folder[1:] if folder[:1] == ("child",) else ("selfheald", *folder)
            above = ".".join(within) if node.level else ""
            base = ".".join(part for part in (above, node.module) if part)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def own_imports(path: Path) -> set[str]:
    """The modules of the package that a module imports; an empty name is the package itself."""
    known = modules()
    found = set()
    for name in imports(path):
        first, _, rest = name.partition(".")
        if first == "selfheald" and not f"{rest}.".startswith(SHARED):
            while rest and rest not in known:
                rest = rest.rpartition(".")[0]
            found.add(rest)
    return found


def test_every_module_has_its_floor() -> None:
    assert set(modules()) == set(FLOOR_OF)
    assert sum(map(len, FLOORS)) == len(FLOOR_OF)


@pytest.mark.parametrize("module", modules())
def test_imports_go_downward(module: str) -> None:
    upward = {other for other in own_imports(modules()[module]) if FLOOR_OF.get(other, -1) <= FLOOR_OF[module]}
    assert not upward, f"{module} imports {upward}"


def test_the_package_itself_imports_nothing_of_its_own() -> None:
    def top_level(node: ast.AST) -> Iterator[ast.ImportFrom]:
        for each in ast.iter_child_nodes(node):
            if isinstance(each, ast.ImportFrom):
                yield each

    loaded = {node.module for node in top_level(tree(PACKAGE / "__init__.py"))}
    own = {name for name in loaded if name is not None and name.startswith("selfheald")}
    assert own == set()


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_library_is_imported_only_where_it_belongs(library: str) -> None:
    importing = {
        name for name, path in modules().items() if any(each.split(".")[0] == library for each in imports(path))
    }
    importing |= {
        "child" for path in child_modules().values() if any(each.split(".")[0] == library for each in imports(path))
    }
    assert importing == ONLY_IN[library]


def test_the_child_stands_alone() -> None:
    own = {name.partition(".")[0] for name in child_modules()}
    for name, path in child_modules().items():
        assert not own_imports(path), path
        if name.startswith("placing."):
            assert not {each.split(".")[0] for each in imports(path)} & (own - {"placing"}), path
    for path in modules().values():
        assert not {name.split(".")[0] for name in imports(path)} & (own - {"__main__"}), path
        shared = f"selfheald.{SHARED}"
        assert not any(each.startswith("selfheald.child") and not each.startswith(shared) for each in imports(path))


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_module_has_a_docstring(path: Path) -> None:
    docstring = ast.get_docstring(tree(path))
    assert docstring
    assert docstring.splitlines()[0].endswith((".", ":"))


def test_the_bundled_project_is_no_python_package() -> None:
    assert (ROOT / "dbt" / "dbt_project.yml").exists()
    assert not list((ROOT / "dbt").rglob("__init__.py")), "it would shadow dbt itself"


@pytest.mark.parametrize("path", child_modules().values(), ids=child_modules())
def test_the_child_is_written_in_an_old_python(path: Path) -> None:
    """The grammar of the oldest interpreter that may run it; what it imports is looked at above."""
    ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 9))
