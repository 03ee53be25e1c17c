"""An initialization that is handed to another process, as an engine that distributes work hands it to another host."""

from __future__ import annotations

import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from fixtures.databases import PROJECT, ready_database

from selfheald import AutoInitializer
from selfheald.client import is_ready
from selfheald.config import config_sources, load_config
from selfheald.initialization_state import InitializationResult


@pytest.fixture
def initializer(tmp_path: Path) -> AutoInitializer:
    """One with a configuration of its own."""
    overrides = {
        "dbt.project_dir": str(PROJECT),
        "state_dir": str(tmp_path / "state"),
        "dbt.vars": {"start_year": 2024},
    }
    return AutoInitializer(ready_database(tmp_path / "w" / "simulation.duckdb"), load_config(None, overrides))


def test_it_arrives_as_it_was_sent(initializer: AutoInitializer) -> None:
    arrived = pickle.loads(pickle.dumps(initializer))
    assert arrived.database == initializer.database
    assert arrived.config == initializer.config
    assert config_sources(arrived.config).origins == config_sources(initializer.config).origins
    assert config_sources(arrived.config).origins["dbt.vars.start_year"] == "command line"


def test_it_is_run_by_another_process(initializer: AutoInitializer) -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        result = pool.submit(initializer.ensure_initialized).result()
    assert isinstance(result, InitializationResult)
    assert (result.outcome, result.error) == ("adopted", None)
    assert is_ready(initializer.database.path)
