"""Run by the interpreter under test: imports dbt once, then does each job of stdin in a fork of its own.

Arguments: the child's folder. stdin and stdout: one JSON object on each line. A job's ``given`` is the project that
is put into ``project_dir`` first, always the same folder, so that what the first job parsed is kept for the others.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    answers = os.dup(1)
    for line in sys.stdin:
        job = json.loads(line)
        shutil.rmtree(job["project_dir"], ignore_errors=True)
        shutil.copytree(job["given"], job["project_dir"])
        if Path(job["kept"]).exists():
            job["partial_parse"] = shutil.copyfile(job["kept"], job["kept"] + ".copy")
        if not os.fork():
            os.write(answers, json.dumps(outcome(job)).encode() + b"\n")
            os._exit(0)
        os.wait()


def outcome(job: dict[str, Any]) -> dict[str, Any]:
    """What the job's last event would say."""
    jobs, protocol = importlib.import_module("dbt_job"), importlib.import_module("protocol")
    log = os.open(job["log_file"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        getattr(jobs, job["job"])(job, lambda event: None)
    except Exception as error:  # noqa: BLE001  (whatever it is, it is what the test looks at)
        told = protocol.job_error(error)
        return {"name": job["name"], **{key: getattr(told, key) for key in ("code", "message", "hint", "path")}}
    return {"name": job["name"], "code": None}


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    importlib.import_module("dbt_job")  # before the forks
    main()
