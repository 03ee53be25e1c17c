"""selfheald under its own name, as scripts call it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path


def with_program(folder: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment with `selfheald` and `python`, which are this interpreter's, in a folder that leads its PATH."""
    folder.mkdir(exist_ok=True)
    for name, words in {"selfheald": f'"{sys.executable}" -m selfheald', "python": f'"{sys.executable}"'}.items():
        (folder / name).write_text(f'#!/bin/sh\nexec {words} "$@"\n')
        (folder / name).chmod(0o755)
    return {**environment, "PATH": f"{folder}{os.pathsep}{environment['PATH']}"}
