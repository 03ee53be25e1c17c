"""Names of files as a platform's file systems compare them.

Those of macOS take a name in any letter case and any Unicode form for the same one, unless they were made otherwise; of
which kind a volume is cannot be seen by a name. So names that look alike are taken for hints that a file may be there,
and the file system is asked for it by the name that is looked for.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Collection


def alike(name: str, platform: str = sys.platform) -> str:
    """The same text for names that may be the same file's."""
    return unicodedata.normalize("NFD", name).casefold() if platform == "darwin" else name


def all_alike(names: Collection[str], platform: str = sys.platform) -> Collection[str]:
    """:func:`alike` of each."""
    return {alike(name, platform) for name in names} if platform == "darwin" else names
