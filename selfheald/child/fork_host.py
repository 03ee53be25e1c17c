"""A child that has imported dbt already, and forks for each job: what it does once is done for all of them.

Started as ``PYTHON selfheald/child host DESCRIPTOR``. *stdin* is a pipe that carries nothing: the kernel kills this
process the moment the other end is closed, so that it never outlives its parent, whatever it is just doing.
*DESCRIPTOR* is a socket of datagrams, each with one answer:

- a job: ``{"job": kind, "parse": path or null}``, the path being that of the parse that the job begins with, and with
  descriptors: a file of JSON (``environment``, ``held``: the numbers under which the job
  expects the other descriptors), then stdin, stdout and stderr, then those to be held. The answer is ``{"pid"}`` or
  ``{"refused": why}``. From here on the fork is a child like any other, in a session of its own.
- ``{"ended": pid}``: the answer is its ``{"status"}``. Until it is asked for, nobody else can get that process id.

Forking copies memory, but only the thread that forks. So nothing is forked while there is another thread, or a
descriptor that nobody knows of, which might be a database's.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import socket
import sys
from typing import Any, Callable, Collection, Dict, List, NoReturn, Optional, Set

#: An order has no more bytes, and no more descriptors.
MOST_BYTES, MOST_DESCRIPTORS = 65536, 64

Answer = Dict[str, Any]


def serve(descriptor: int, do_job: Callable[[str], NoReturn]) -> NoReturn:
    """Prepare what all jobs need, then fork for each until the parent is gone; ``do_job`` is a fork's whole life."""
    _die_with_parent()
    orders = socket.socket(fileno=descriptor)
    # Nothing may be sent anywhere, whatever the caller's environment says.
    os.environ.update(DBT_SEND_ANONYMOUS_USAGE_STATS="false", DO_NOT_TRACK="1")
    import warm_up

    warm_up.prepare()
    own = {0, 1, 2, descriptor}
    rehearsal = warm_up.Rehearsal()
    while True:
        data, received, _, _ = socket.recv_fds(orders, MOST_BYTES, MOST_DESCRIPTORS)
        if not data:
            os._exit(0)
        order = json.loads(data)
        if "ended" in order:
            answer = _status(order["ended"])
        else:
            why = _obstacle(own | set(received))
            answer = {"refused": why} if why else _forked(order["job"], received, orders, do_job)
        for each in received:
            os.close(each)
        orders.send(json.dumps(answer).encode())
        # While the fork begins, for the next one: this one need not wait for it.
        if order.get("parse"):
            rehearsal.prepare(order["parse"])


def _die_with_parent() -> None:
    fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(0, fcntl.F_SETSIG, signal.SIGKILL)  # type: ignore[attr-defined, unused-ignore]
    fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([0], [], [], 0)[0]:
        os._exit(1)  # it was gone before


def _obstacle(known: Collection[int]) -> Optional[str]:
    """Why this process must not be copied, if so."""
    threads = len(os.listdir("/proc/self/task"))
    if threads != 1:
        return f"it has {threads} threads"
    strange = sorted(_descriptors() - set(known))
    return f"it has {os.readlink(f'/proc/self/fd/{strange[0]}')} open" if strange else None


def _forked(kind: str, received: List[int], orders: socket.socket, do_job: Callable[[str], NoReturn]) -> Answer:
    """A fork that has a session, descriptors and an environment of its own when this returns."""
    ours, theirs = os.pipe()
    try:
        try:
            pid = os.fork()
        except OSError as error:
            return {"refused": f"it cannot fork: {error.strerror}"}
        if not pid:
            try:
                os.setsid()
                orders.close()
                _become(kind, received, theirs)
                do_job(kind)
            finally:
                os._exit(1)
        os.close(theirs)
        theirs = -1
        if os.read(ours, 1):
            return {"pid": pid}
        os.waitpid(pid, 0)
        return {"refused": "a fork ended before its job began"}
    finally:
        os.close(ours)
        if theirs >= 0:
            os.close(theirs)


def _become(kind: str, received: List[int], ready: int) -> None:
    """Be what a fresh interpreter would be that was started for this job; then say so to ``ready``."""
    import warm_up

    with os.fdopen(os.dup(received[0]), "rb") as file:
        file.seek(0)
        order = json.load(file)
    wanted = [0, 1, 2, *order["held"]]
    beyond = max(wanted) + 1
    ready = fcntl.fcntl(ready, fcntl.F_DUPFD_CLOEXEC, beyond)
    copies = [fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, beyond) for each in received[1:]]
    for place, number in enumerate(wanted):
        os.dup2(copies[place], number)
    for each in _descriptors() - {*wanted, ready}:
        os.close(each)
    # Without a locale Python gives itself and its children one when it starts.
    own = {name: os.environ[name] for name in ("LC_CTYPE",) if name in os.environ}
    os.environ.clear()
    os.environ.update({**own, **order["environment"]})
    sys.argv[1:] = [kind]
    warm_up.begin()
    with open("/proc/self/comm", "w") as name:  # what `ps` and `top` show of it, 15 characters
        name.write(f"heald:{kind}"[:15])
    os.write(ready, b"1")
    os.close(ready)


def _status(pid: int) -> Answer:
    """How a fork ended: its exit code, or minus the number of the signal that killed it."""
    try:
        ended, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return {"status": None}
    if not ended:
        return {"status": None}
    return {"status": -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)}


def _descriptors() -> Set[int]:
    there = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            os.fstat(int(name))
        except OSError:
            continue  # the one by which the folder was listed
        there.add(int(name))
    return there
