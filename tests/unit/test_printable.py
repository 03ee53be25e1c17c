"""Text that others wrote: no character of it breaks a line or moves a cursor, and a shell reads it as it is."""

from __future__ import annotations

import os
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfheald.printable import one_line, shell_word

nasty = st.text(st.characters(codec=None), max_size=30) | st.text("\n\r\x1b[]{}<>%\udcff\u2028\u202eéa\\", max_size=20)


@given(nasty)
def test_one_line_is_stable_and_leaves_plain_text_alone(text: str) -> None:
    line = one_line(text)
    assert one_line(line) == line
    line.encode("utf-8")
    assert one_line("päth/with spaces/数据.duckdb") == "päth/with spaces/数据.duckdb"


def test_what_is_escaped_can_be_read() -> None:
    assert one_line("a\nb\tc\x1b[31m\x9b\u202e\udcff\ud800") == r"a\nb\tc\x1b[31m\x9b\u202e\xff\ud800"


@pytest.mark.parametrize(
    "name", [b"plain", b"it's here", b"$HOME `x`", b"\xff\x1b[2J", b"a\nb\\'\"", "péñ 数".encode(), b"tab\t7", b""]
)
def test_a_shell_reads_back_what_a_person_copies(name: bytes) -> None:
    word = shell_word(os.fsdecode(name))
    assert one_line(word) == word
    assert subprocess.check_output(["bash", "-c", f"printf %s {word}"]) == name
