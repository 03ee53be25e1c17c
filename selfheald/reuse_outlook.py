"""What a dry run can say of the proof that templates ask for: dbt writes the SQL, and nothing is built."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from selfheald.config import Config
from selfheald.dbt_host import Starter, run_job, start_child
from selfheald.errors import InitializationError
from selfheald.plan import Work
from selfheald.planner import Settings


async def foretell_reuse(
    config: Config,
    settings: Settings,
    work: Work,
    *,
    declared: Iterable[str],
    saved_parse: Path | None,
    start: Starter = start_child,
) -> dict[str, Any]:
    """``{"usable", "why"}``: whether what dbt would make may be given to others too, where the content of the
    ``declared`` files counts as known.

    Needs a dbt process, which takes its usual seconds, and a temporary folder. A build may still find a reason that
    only its tables show: columns with time zones, or sums of floating-point numbers. Raises nothing that is about the
    database.
    """
    with tempfile.TemporaryDirectory(prefix="selfheald-") as temporary:
        folder = Path(temporary)
        for name in ("work", "logs"):
            (folder / name).mkdir()
        job = {
            "job": "judge",
            **settings.job(config),
            "seeds": [node.unique_id for node in work.seeds],
            "models": [node.unique_id for node in work.models],
            "declared": list(declared),
            "storage_version": config.dbt.storage_version,
            "pre_sql": config.dbt.pre_sql,
            "work_dir": str(folder / "work"),
            "database": str(folder / config.watch.database),
            "partial_parse": None if saved_parse is None else str(saved_parse),
            "log_dir": str(folder / "logs"),
            "log_file": str(folder / "logs" / "judge.log"),
        }
        try:
            answer = await run_job(
                job,
                python=settings.python,
                environment=settings.environment,
                timeout=config.dbt.timeout,
                start=start,
            )
        except InitializationError as error:
            return {"usable": False, "why": f"it cannot be told: {error.sentence}"}
    return dict(answer["reuse"])
