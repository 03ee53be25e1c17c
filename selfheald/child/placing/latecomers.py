"""Keeping a lock until nobody is left who opened the file before it was finished, and has yet to ask for a lock.

Who opened a file that was replaced would lock one that is no longer at the path, and lose what it commits there. Who
opened a database of DuckDB 2.0's may have read its headers, and would write over what was published since. While the
lock is kept, both fail instead; so it must be kept until they have asked for it.
"""

from __future__ import annotations

import fcntl
import signal
import time
from typing import Optional

#: Seconds between two looks.
_PAUSE = 0.001


def keep_locked(descriptor: int, at_least: float, at_most: float, unseen: float) -> None:
    """Return after ``at_least`` seconds, when nobody else has the file open any more, or after ``at_most``.

    Where the system does not tell who has, it takes ``unseen`` seconds. ``descriptor`` is open for writing, is the only
    one of the file in this process, and the lock is the caller's.
    """
    began = time.monotonic()
    time.sleep(at_least)
    while True:
        others, age = is_open_elsewhere(descriptor), time.monotonic() - began
        if others is False or age >= (unseen if others is None else at_most):
            return
        time.sleep(_PAUSE)


def is_open_elsewhere(descriptor: int) -> Optional[bool]:
    """True if another descriptor of the file is open, in whatever process; ``None`` if the system does not tell.

    It is asked for a lease for writing, which it gives only to one who has the file alone, and which is given back at
    once. Whoever opens the file within these microseconds waits for that, or gets EAGAIN if it would not wait. Only a
    file's owner may ask, and not on every file system.
    """
    if not hasattr(fcntl, "F_SETLEASE"):
        return None
    try:
        # Somebody who waits for the lease is told by a signal: SIGIO would kill us, this one is ignored by itself.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except BlockingIOError:
        return True
    except OSError:
        return None
    fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False
