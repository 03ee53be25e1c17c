"""``python -m selfheald``, and the command ``selfheald``."""

from __future__ import annotations

import os
import sys

from selfheald.quick_wait import is_answered


def main() -> None:
    """Run the command line; what can be answered without loading all of it is."""
    if not is_answered(sys.argv[1:], os.environ):
        from selfheald.cli import main as run

        run()


if __name__ == "__main__":
    main()
