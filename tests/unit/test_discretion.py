"""What may be told in a support archive: a word is left out unless it is known."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfheald.diagnosis.discretion import LEFT_OUT, WORDS_OF_OTHERS, Discretion, own_words

WORDS = own_words()


def discretion(place: Path = Path("/srv/simulations"), *secrets: str) -> Discretion:
    return Discretion({"dim_site", "pay by site"}, {place}, secrets, words=WORDS)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("ready: watching /srv/simulations (native), 3 databases found", None),
        ("load_seeds completed in 0.4 s", None),
        ("another daemon (PID 4242) watches it already", None),
        ("Could not convert string 'Ottilie' to INTEGER", "Could not convert string '…' to INTEGER"),
        ("Binder Error: dim_site has no column 85231.50", "Binder Error: dim_site has no column …"),
        ("the value 85231 of row 7", "the value … of row …"),
        ("password=hunter2", "password=…"),
        ("postgres://me:hunter2@host/x failed", "… failed"),
        ("--token hunter2 --json", "--token … --json"),
        ("error: s3cret-token-value", "error: …"),
        ("read /etc/shadow first", "read … first"),
        ("1,Ottilie,Nachname", "…,…,…"),
        ("Zoë 面", "…"),
        ("LINE: !$%&/#~+ found", "LINE: … found"),
        ("it → that --- ^^^^^^^^ :: over", None),
        ("the \x1b[31mlog", "the …[…"),
        ("the\rlog", "the log"),
    ],
)
def test_texts(text: str, kept: str | None) -> None:
    assert discretion().text(text) == (text if kept is None else kept)


def test_numbers_are_kept_where_they_are_selfhealds_own() -> None:
    assert discretion().text("192,512 watches left of 192,536", numbers=True) == "192,512 watches left of 192,536"


def test_paths_are_told_as_far_as_they_are_there(tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    known = Discretion((), [tmp_path, tmp_path / "a b"], (), words=WORDS)
    assert known.path(f"{tmp_path}/a b") == f"{tmp_path}/a b"
    assert known.path(f"{tmp_path}/gone/deep") == f"{tmp_path}/…"
    assert known.path(f"{tmp_path}/../../etc/passwd") == LEFT_OUT
    assert known.path(f"{tmp_path}beside") == LEFT_OUT
    assert known.path("relative") == LEFT_OUT
    assert known.text(f"the folder {tmp_path}/a b is missing") == f"the folder {tmp_path}/a b is missing"
    assert known.text(f"{tmp_path}: not a folder.") == f"{tmp_path}: not a folder."


def test_a_known_secret_is_left_out_even_where_it_is_a_word() -> None:
    assert discretion(Path("/srv"), "daemon").text("the daemon stopped") == "the … stopped"


def test_of_records_known_keys_are_kept() -> None:
    record = {
        "state": "failed",
        "holder": {"pid": 7, "command": "psql", "mode": "write"},
        "started_at": "2026-11-23T16:00:00.000Z",
        "completed_at": "yesterday",
        "attempt_id": "20261123T160000-0a1b2c",
        "version": "0.1.0",
        "Ottilie": 1,
        "steps": [{"name": "load_seeds", "rows": ["Ottilie"]}],
        "error": {"message": "Ottilie is missing", "path": "/home/ottilie"},
    }
    assert discretion().record(record) == {
        "state": "failed",
        "holder": {"pid": 7, "mode": "write"},
        "started_at": "2026-11-23T16:00:00.000Z",
        "completed_at": LEFT_OUT,
        "attempt_id": "20261123T160000-0a1b2c",
        "version": "0.1.0",
        "steps": [{"name": "load_seeds"}],
        "error": {"message": "… is missing", "path": LEFT_OUT},
    }


def test_a_record_that_is_too_deep_breaks_nothing() -> None:
    value: object = "failed"
    for _ in range(900):
        value = [value]
    assert LEFT_OUT in str(discretion().record({"steps": value}))


@given(st.text(), st.booleans())
def test_no_other_word_ever_remains(text: str, numbers: bool) -> None:
    kept = discretion().text(text, numbers=numbers)
    known = WORDS | set(WORDS_OF_OTHERS) | {"dim", "site"}
    for word in re.findall(r"[^\W\d_]{2,}", kept):
        assert word in known or word.lower() in known


@given(st.integers(min_value=0), st.sampled_from(["pay {} here", "({})", "'{}'", "{},{}", "-{}", "{}.50", "state {}"]))
def test_no_bare_number_remains(number: int, text: str) -> None:
    assert not re.search(r"\d", discretion().text(text.replace("{}", str(number))))
