"""How fast selfheald is, beside what people would do without it: measured in one run, in turns, on one machine.

``python -m benchmarks`` runs it; ``docs/performance.md`` shows what comes of it. Not part of the wheel.
"""

from __future__ import annotations

import sys
from pathlib import Path

# The generator of large dbt projects is shared with the tests, whose folder is no package.
_TESTS = str(Path(__file__).parents[1] / "tests")
if _TESTS not in sys.path:
    sys.path.append(_TESTS)
