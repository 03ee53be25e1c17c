"""Fixtures of the unit tests."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import hypothesis
import pytest
from fixtures import databases
from fixtures.waiting import wait_for

# What a slow machine needs for one example says nothing about the code.
hypothesis.settings.register_profile("selfheald", deadline=None, database=None)
hypothesis.settings.load_profile("selfheald")

#: Seconds after which what was waited for will not come any more.
DEADLINE = 20.0


@pytest.fixture
def anyio_backend() -> str:
    """Asynchronous tests run on asyncio, as the daemon does."""
    return "asyncio"


@pytest.fixture
def eventually() -> Callable[[Callable[[], object]], object]:
    """Wait until a condition holds that no event tells of (in the kernel, in another process)."""

    return partial(wait_for, deadline=DEADLINE)


@pytest.fixture
def empty_database(tmp_path: Path) -> Path:
    """A database without tables."""
    return databases.empty_database(tmp_path / "empty" / "simulation.duckdb")


@pytest.fixture
def partial_database(tmp_path: Path) -> Path:
    """A database that holds the seeds alone."""
    return databases.partial_database(tmp_path / "partial" / "simulation.duckdb")


@pytest.fixture
def ready_database(tmp_path: Path) -> Path:
    """A database that holds all required tables."""
    return databases.ready_database(tmp_path / "ready" / "simulation.duckdb")


@pytest.fixture
def corrupt_database(tmp_path: Path) -> Path:
    """A database that has lost its end."""
    return databases.corrupt_database(tmp_path / "corrupt" / "simulation.duckdb")
