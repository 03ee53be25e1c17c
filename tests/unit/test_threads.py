"""Worker threads that cannot be started."""

from __future__ import annotations

import threading
from typing import NoReturn

import pytest

from selfheald.errors import InitializationError, is_shortage
from selfheald.threads import run_in_thread

pytestmark = pytest.mark.anyio


async def test_the_function_runs_in_another_thread() -> None:
    assert await run_in_thread(threading.get_ident) != threading.get_ident()


async def test_its_own_errors_are_its_own() -> None:
    def fail() -> NoReturn:
        raise RuntimeError("of its own")

    with pytest.raises(RuntimeError, match="of its own"):
        await run_in_thread(fail)


async def test_no_thread_is_a_shortage(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> NoReturn:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(InitializationError, match="cannot start a thread: can't start new thread") as failure:
        await run_in_thread(int)
    assert failure.value.code == "interrupted"
    assert is_shortage(failure.value)
