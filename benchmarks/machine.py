"""What of the machine matters to the figures. Nothing that tells which machine it is, or where anything lies on it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from selfheald.mounts import file_system

_ASK = "from importlib.metadata import version; print(version('dbt-core'), version('duckdb'))"


def facts(folder: Path, pinned: str | None) -> dict[str, str]:
    """Cores, versions, the file system that the benchmarks write to, and how busy the machine is before they begin."""
    found = {
        "cores": str(len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()),
        "system": f"{platform.system()} {platform.machine()}",
        "file system": file_system(folder) or "unknown",
        "Python": platform.python_version(),
        "dbt-core": version("dbt-core"),
        "duckdb": version("duckdb"),
        "load": " ".join(f"{load:.2f}" for load in os.getloadavg()),
    }
    if pinned is not None:
        told = subprocess.run([pinned, "-c", _ASK], capture_output=True, text=True, check=True, timeout=60).stdout
        found["oldest"] = "dbt-core {}, duckdb {}".format(*told.split())
    return found
