"""What may leave the machine in a support archive: words that selfheald itself uses, names that are known, no more.

Messages of dbt and DuckDB quote rows; a log, a status file or a unit may hold anything that somebody put there. To look
for secrets in them would miss some. So it is the other way round: of a text remain the words that stand in selfheald's
own (public) sources or in the short list below, names of the project's tables, and paths that are known and there. Any
other word, and any number without a unit, becomes ``…``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

LEFT_OUT = "…"
#: Characters of one text that are kept at most.
MAX_TEXT = 2000
#: Ours are not so deep; one that is would be somebody's who wants to break what reads it.
MAX_DEPTH = 12

#: Words in which dbt, DuckDB and Python tell of errors; those that selfheald itself uses too are not needed here.
WORDS_OF_OTHERS = """
    aggregate ambiguous array binder bigint boolean cast comparison compilation conflict constraint conversion convert
    csv date decimal delimiter depend dependency double duplicate duplicated expression function header implicit
    incompatible integer internal invalid invalidated jinja join macro malformed memory mismatch nullable numeric
    operator original overflow parameter parser predicate primary quote references runtime scan serialization sniff
    sniffer subquery syntax timestamp traceback transaction unable undefined unique unrecognized unsupported varchar
    violates
    ext4 xfs btrfs zfs tmpfs overlay apfs hfs nfs nfs4 cifs smbfs
    permission denied exception typeerror valueerror keyerror oserror runtimeerror attributeerror indexerror
    filenotfounderror permissionerror
""".split()
_CHUNK = re.compile(r"[^\s'\"`,;()<>\[\]{}|=]+|\s+|.")
_NUMBER = re.compile(r"\d[\d.,:]*")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)?")
_VERSION = re.compile(r"\d{1,4}(\.\w{1,12}){1,4}")
_ATTEMPT = re.compile(r"\d{8}T\d{6}-[0-9a-f]{6}")
#: A number may stand before one of these, and behind one of those.
_UNITS = frozenset(
    "s ms min h bytes kB MB GB KiB MiB GiB database databases table tables seed seeds model models folder folders file "
    "files attempt attempts missing ready failed".split()
)
_COUNTED = frozenset({"line", "PID", "attempt", "code", "of"})

#: What is kept of a record, by what stands there. A holder's command line is not: it may hold secrets.
_PLAIN_KEYS = frozenset(
    """
    format state reason queue_position holder pid mode attempt steps progress done total node eta_seconds
    missing_tables_found tables_created error name display_name status duration_seconds success error_message code
    message hint step retryable tables seed foundation origin trigger outcome watcher level event step_name error_code
    exception ready marker size mtime_ns ctime_ns device inode wal id summary daemons databases history attempts waiting
    building busy failed checks ok records
    """.split()
)
_PATH_KEYS = frozenset({"database", "workspace", "path", "log", "root"})


class Discretion:
    """Decides about texts, paths and records. ``secrets`` are known ones, which are looked for on top of all else.

    ``names`` are the project's own; ``places`` are paths that may be told, with all below them that is there.
    """

    def __init__(
        self,
        names: Iterable[str] = (),
        places: Iterable[Path] = (),
        secrets: Iterable[str] = (),
        *,
        words: Iterable[str],
    ) -> None:
        self._words = frozenset(words) | frozenset(WORDS_OF_OTHERS)
        self._names = frozenset(names)
        self._places = sorted({str(place) for place in places if len(place.parts) > 1}, key=len, reverse=True)
        hidden = sorted({secret for secret in secrets if secret}, key=len, reverse=True)
        self._secret = re.compile("|".join(map(re.escape, hidden))) if hidden else None
        known = "|".join(map(re.escape, self._places)) or "(?!)"
        self._known = re.compile(f"({known})(?![^\\s'\"`,;:()\\]])")

    def without_secrets(self, text: str) -> str:
        """A text that is all right but for secrets that are known."""
        return text if self._secret is None else self._secret.sub(LEFT_OUT, text)

    def text(self, text: str, *, numbers: bool = False) -> str:
        """What remains of a text; with ``numbers``, all of them do."""
        parts = self._known.split(self.without_secrets(text[:MAX_TEXT]))
        kept = [part if number % 2 else self._filtered(part, numbers) for number, part in enumerate(parts) if part]
        return re.sub(rf"{LEFT_OUT}(?:[\s'\"`]*{LEFT_OUT})+", LEFT_OUT, "".join(kept))

    def path(self, text: str) -> str:
        """A path as far as it is known and there; ``…`` stands for the rest."""
        text = self.without_secrets(text)
        if text in self._places:
            return text
        if ".." in text.split("/"):
            return LEFT_OUT
        for place in self._places:
            if text.startswith(f"{place}/"):
                there = Path(text)
                while len(str(there)) > len(place) and not os.path.lexists(there):
                    there = there.parent
                return text if str(there) == text else f"{there}/{LEFT_OUT}"
        return LEFT_OUT

    def record(self, value: Any, key: str = "", depth: int = 0) -> Any:
        """What remains of a record of JSON's types: known keys alone, and of their texts what may be told."""
        if isinstance(value, (Mapping, list, tuple)) and depth >= MAX_DEPTH:
            return LEFT_OUT
        if isinstance(value, Mapping):
            return {name: self.record(item, name, depth + 1) for name, item in value.items() if _is_kept(name)}
        if isinstance(value, (list, tuple)):
            return [self.record(item, key, depth + 1) for item in value]
        if not isinstance(value, str):
            return value
        if key in _PATH_KEYS:
            return self.path(value)
        fixed = {"version": _VERSION, "attempt_id": _ATTEMPT}.get(key) or (_TIME if _is_time(key) else None)
        if fixed is not None:
            return value if fixed.fullmatch(value) else LEFT_OUT
        return self.text(value)

    def _filtered(self, text: str, numbers: bool) -> str:
        chunks = _CHUNK.findall(text)
        return "".join(
            self._judged(chunk, chunks[max(0, place - 2) : place], chunks[place + 1 : place + 3], numbers)
            for place, chunk in enumerate(chunks)
        )

    def _judged(self, chunk: str, before: list[str], behind: list[str], numbers: bool) -> str:
        """A chunk without blanks and quotes: all of it, or nothing. Beside a number stands what it counts."""
        if chunk.isspace():
            return chunk if chunk.isprintable() else re.sub(r"[^\n ]", " ", chunk)
        bare = chunk.rstrip(".:,")
        if bare.startswith("/") and len(bare) > 1:
            return self.path(bare) + chunk[len(bare) :]
        if _NUMBER.fullmatch(bare):
            counted = len(before) == 2 and before[0] in _COUNTED
            measured = len(behind) == 2 and behind[0] == " " and behind[1] in _UNITS
            return chunk if numbers or counted or measured else LEFT_OUT
        words = [word for word in re.split(r"\W+", bare) if word]
        if not words:
            # Signs between words, or a row of one; no more of them, and none that moves a cursor.
            return chunk if chunk.isprintable() and (len(chunk) <= 3 or len(set(chunk)) == 1) else LEFT_OUT
        known = bare in self._names or all(self._is_known(word, numbers) for word in words)
        return chunk if known else LEFT_OUT

    def _is_known(self, word: str, numbers: bool) -> bool:
        if word.isdigit():
            return numbers
        return word in self._names or all(map(self._is_word, word.split("_")))

    def _is_word(self, part: str) -> bool:
        return part in ("", "a", "s") or part in self._words or (part.isascii() and part.lower() in self._words)


def _is_kept(key: object) -> bool:
    return isinstance(key, str) and (key in _PLAIN_KEYS or key in _PATH_KEYS or _is_time(key) or key in _FIXED)


_FIXED = frozenset({"version", "attempt_id"})


def _is_time(key: str) -> bool:
    return key.endswith("_at") or key == "timestamp"


@cache
def own_words() -> frozenset[str]:
    """All words of selfheald's own sources, which anybody can read."""
    package = Path(__file__).absolute().parent.parent
    found: set[str] = set()
    for path in package.rglob("*.py"):
        found.update(re.findall(r"[A-Za-z]{2,}", path.read_text(encoding="utf-8")))
    return frozenset(found)
