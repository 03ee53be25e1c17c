"""A simulator that changes its database without pause, and tells at each moment whether the tables are there.

``python restless.py DATABASE SHARED``: ``go`` on standard input begins, ``rest`` and ``hold`` end it with all tables
there, the database closed or open; each is answered by a line. The first eight bytes of SHARED count its phases.
"""

from __future__ import annotations

import mmap
import struct
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import duckdb

#: A phase is the counter modulo 4: the required tables are there; they are about to go; gone; about to come back.
THERE, GOING, GONE, COMING = range(4)
#: Changes for which it keeps the database open.
CHANGES = 5


def shared(path: Path) -> mmap.mmap:
    """The counter that both processes see."""
    with path.open("r+b") as file:
        return mmap.mmap(file.fileno(), 8)


def counter(memory: mmap.mmap) -> int:
    """How many phases there have been."""
    return int(struct.unpack("q", memory[:8])[0])


def change_without_pause(database: str, enter: Callable[[], None], told: threading.Event) -> None:
    """Write rows; drop a required table and make it again; open and close."""
    while not told.is_set():
        with duckdb.connect(database) as connection:
            for _ in range(CHANGES):
                connection.execute("insert into notes values (1)")
                enter()
                connection.execute("alter table dim_regions rename to hidden")
                enter()
                connection.execute("insert into notes values (2)")
                enter()
                connection.execute("alter table hidden rename to dim_regions")
                enter()
                connection.execute("delete from notes")


def main() -> None:
    database, memory = sys.argv[1], shared(Path(sys.argv[2]))

    def enter() -> None:
        memory[:8] = struct.pack("q", counter(memory) + 1)

    kept: duckdb.DuckDBPyConnection | None = None
    thread: threading.Thread | None = None
    for line in sys.stdin:
        if kept is not None:
            kept.close()
            kept = None
        if line.strip() == "go":
            told = threading.Event()
            thread = threading.Thread(target=change_without_pause, args=(database, enter, told))
            thread.start()
        elif thread is not None:
            told.set()
            thread.join()
            if line.strip() == "hold":
                kept = duckdb.connect(database)
                kept.execute("insert into notes values (3)")
        print("done", counter(memory), flush=True)


if __name__ == "__main__":
    main()
