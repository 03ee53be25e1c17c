"""Text that others wrote, such as names of files, as a terminal or a log can show it."""

from __future__ import annotations

import re
import shlex

_UNPRINTABLE = re.compile(
    # Control characters, separators of lines, what turns the direction of writing, halves of surrogate pairs.
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


def one_line(text: str) -> str:
    """``text`` with everything escaped that would break a line, move a cursor or be no UTF-8."""
    return _UNPRINTABLE.sub(escaped, text)


def shell_word(text: str) -> str:
    """``text`` as one word of a command line, to be copied from a screen: also what no screen can show."""
    if text.isprintable():
        return shlex.quote(text)
    told = "".join(
        f"\\{character}" if character in "\\'" else character if character.isprintable() else _as_bytes(character)
        for character in text
    )
    return f"$'{told}'"


def _as_bytes(character: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogateescape"))


def escaped(match: re.Match[str]) -> str:
    """The one character that matched, spelled out."""
    code = ord(match[0])
    if match[0] in "\n\r\t":
        return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}[match[0]]
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file name that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}"
