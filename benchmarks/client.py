"""What waiting costs where there is nothing to wait for: the client in a simulator, and the command."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.bench import Bench, command
from benchmarks.databases import ready_workspace
from benchmarks.measuring import in_turns, repeated
from benchmarks.results import Aim, Figure, Kind, Peer
from benchmarks.subjects import Subject
from selfheald.client import is_ready, wait_until_ready


def _measure(bench: Bench) -> Iterator[Figure]:
    rounds = bench.scaled(tiny=2, small=25, large=100)
    database = ready_workspace(bench)
    environment = bench.environment()

    def python(code: str) -> float:
        return bench.run([sys.executable, "-c", code], environment=environment)

    turns = {
        "bare": lambda: python("pass"),
        "import": lambda: python("import selfheald.client"),
        "wait": lambda: bench.run(command("wait", database), environment=environment),
        "check": lambda: bench.run(command("check", database), environment=environment),
    }
    series = in_turns(turns, rounds, warm_up=1)
    bare = Peer("bare Python, start to end", series["bare"])
    yield Figure("import selfheald.client", series["import"], peer=bare, aim=Aim(Kind.ABOVE, 0.015))
    yield Figure("selfheald wait, ready", series["wait"], aim=Aim(Kind.MEDIAN, 0.150))
    yield Figure("selfheald check, complete", series["check"])
    yield from _in_process(bench, database)


def _in_process(bench: Bench, database: Path) -> Iterator[Figure]:
    times = bench.scaled(tiny=3, small=200, large=1000)
    turns = {
        "is_ready": repeated(lambda: is_ready(database), times),
        "wait": repeated(lambda: wait_until_ready(database), times),
    }
    series = in_turns(turns, bench.scaled(tiny=2, small=10, large=10))
    yield Figure("is_ready(), ready", series["is_ready"])
    yield Figure("wait_until_ready(), ready", series["wait"])


SUBJECT = Subject("client", "Waiting for a database that is ready", _measure)
