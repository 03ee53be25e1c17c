"""What must be to spare before that begins which ends the whole process, or stops half-way, without it."""

from __future__ import annotations

import errno
import os
import threading

#: Descriptors: enough for a check or an initialization, and for what other threads take meanwhile.
DESCRIPTORS = 16


def require_descriptors() -> None:
    """Raise :class:`OSError` unless some files can still be opened.

    A connection of DuckDB 2.0.0 takes a descriptor when it is made. If it finds none, it ends the whole process.
    """
    trial: list[int] = []
    try:
        trial.extend(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC) for _ in range(DESCRIPTORS))
    except OSError as error:
        raise OSError(error.errno, error.strerror) from None  # it was not about the file of the trial
    finally:
        for descriptor in trial:
            os.close(descriptor)


def require_threads(count: int) -> None:
    """Raise :class:`OSError` unless so many threads can be started."""
    done = threading.Event()
    started: list[threading.Thread] = []
    try:
        for _ in range(count):
            thread = threading.Thread(target=done.wait, name="trial")
            thread.start()
            started.append(thread)
    except RuntimeError as error:
        raise OSError(errno.EAGAIN, str(error)) from error
    finally:
        done.set()
        for thread in started:
            thread.join()
