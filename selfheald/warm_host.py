"""Keeps a dbt host warm: started when a job needs one, ended when it is idle or not what the next job needs.

It only spares time. Whatever goes wrong with it before a job has begun, the job gets an interpreter of its own.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio

from selfheald.config import Config
from selfheald.config_values import has_placeholder
from selfheald.dbt_host import Child, Order, start_child
from selfheald.errors import InitializationError
from selfheald.figures import Figures
from selfheald.forking import Host, HostError
from selfheald.log import event_log
from selfheald.project import installation

#: Kinds of job that a host is started for, and those that only use one that is there.
STARTING, USING = ("plan", "build"), ("publish",)
#: Resident bytes above which a host is started anew.
MOST_MEMORY = 512 << 20
#: Seconds for which no host is started after one that never got as far as to fork.
PAUSE_SECONDS = 30.0
_CAN_FORK = sys.platform == "linux" and hasattr(os, "pidfd_open")
#: What an interpreter, its libraries or dbt look at once, when they start.
_LOOKED_AT_ONCE = re.compile(r"PYTHON|LD_|DBT_|DO_NOT_TRACK|LC_|LANG|TZ$|TMP|TEMP|HOME$|PATH$|XDG_|MALLOC_|GLIBC_|OMP_")


class WarmHost:
    """Starts children: forked from a host where that is possible, else as :func:`start_child` does.

    It owns one host, and closes it in the end (``async with``). One that is to end while a fork of it is at work ends
    when that has. Children and hosts are counted in ``figures``.
    """

    def __init__(self, config: Config, figures: Figures | None = None) -> None:
        self._figures = figures or Figures()
        self._host: Host | None = None
        self._key: tuple[Any, ...] = ()
        self._leaving: set[Host] = set()
        self._turn = anyio.Lock()
        self._changed = anyio.Event()
        self._used = self._not_before = float("-inf")
        self._told: set[str] = set()
        self.follow(config)

    def follow(self, config: Config) -> None:
        """Go on with another configuration."""
        self._keep_warm = config.dbt.keep_warm
        self._varying = {
            name for name, text in config.dbt.env.items() if has_placeholder(text) and not _LOOKED_AT_ONCE.match(name)
        }
        self._log = Path(os.path.realpath(config.state_dir)) / "plans" / "logs" / "host.log"
        self._not_before = float("-inf")
        self._changed.set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for host in [*self._leaving, *([] if self._host is None else [self._host])]:
            await host.kill()

    async def start(self, order: Order) -> Child:
        """A child for this order. Raises :class:`InitializationError` as :func:`start_child` does."""
        if _CAN_FORK and self._keep_warm and order.kind in (*STARTING, *USING):
            try:
                child = await self._fork(order)
            except HostError as trouble:
                self._tell(trouble)
            else:
                if child is not None:
                    self._figures.children[order.kind, True] += 1
                    return child
        child = await start_child(order)
        self._figures.children[order.kind, False] += 1
        return child

    async def end_when_idle(self) -> None:
        """End the host when it has had nothing to do for ``dbt.keep_warm`` seconds; runs until it is cancelled."""
        while True:
            async with self._turn:
                host, rest = self._host, self._used + self._keep_warm - time.monotonic()
                if host is not None and not host.running and rest <= 0:
                    await self._let_go(f"idle for {self._keep_warm:g} s")
                    host = None
                self._changed = anyio.Event()
            with anyio.move_on_after(float("inf") if host is None or host.running else max(rest, 0.001)):
                await self._changed.wait()

    async def _fork(self, order: Order) -> Child | None:
        """A fork of the host, or ``None`` where none is to be had now."""
        async with self._turn:
            for another in (True, False):
                host = await self._fitting_host(order)
                if host is None:
                    break
                try:
                    return await host.fork(order)
                except InitializationError:  # the job's own trouble
                    raise
                except BaseException as error:
                    await self._lose(host)
                    # One that has worked was killed since, or has grown threads: another will do.
                    if not (another and host.proven and isinstance(error, HostError)):
                        raise
                finally:
                    self._changed.set()
        return None

    async def _fitting_host(self, order: Order) -> Host | None:
        """The host that is right for this order, started if need be."""
        key = self._key_of(order)
        if self._host is not None:
            why = self._why_not(self._host, key)
            if why:
                await self._let_go(why)
        if self._host is None and order.kind in STARTING and time.monotonic() >= self._not_before:
            with suppress(OSError):
                self._log.parent.mkdir(parents=True, exist_ok=True)
            environment = self._shared(order.environment)
            self._host = await Host.start(order.python, environment, self._log, on_end=self._on_end)
            self._key = key
            self._figures.hosts_started += 1
            event_log("dbt_host_started", f"PID {self._host.pid} keeps dbt warm", "DEBUG")
        return self._host

    async def _lose(self, host: Host) -> None:
        self._host = None
        if not host.proven:
            self._not_before = time.monotonic() + PAUSE_SECONDS
        await host.kill()

    def _key_of(self, order: Order) -> tuple[Any, ...]:
        """What a host must have been started with to be the right one."""
        shared = self._shared(order.environment)
        return order.python, sorted(shared.items()), installation(order.python, shared.get("PYTHONPATH"))

    def _shared(self, environment: Mapping[str, str]) -> dict[str, str]:
        return {name: value for name, value in environment.items() if name not in self._varying}

    def _why_not(self, host: Host, key: tuple[Any, ...]) -> str:
        if host.has_ended:
            return "it has been killed"
        if key != self._key:
            return "the interpreter, its packages or the environment are others now"
        used = host.memory()
        if used > MOST_MEMORY:
            return f"it uses {used >> 20} MiB of memory, and may use {MOST_MEMORY >> 20}"
        return ""

    async def _let_go(self, why: str) -> None:
        host, self._host = self._host, None
        assert host is not None
        event_log("dbt_host_ended", f"PID {host.pid} no longer keeps dbt warm: {why}", "DEBUG")
        if host.running and not host.has_ended:
            self._leaving.add(host)
        else:
            await host.kill()

    async def _on_end(self, host: Host) -> None:
        """A fork of this host has ended."""
        self._used = time.monotonic()
        if host in self._leaving and not host.running:
            self._leaving.discard(host)
            await host.kill()
        self._changed.set()

    def _tell(self, trouble: HostError) -> None:
        """Tell once what keeps dbt from being kept warm."""
        self._figures.hosts_troubled += 1
        level = "DEBUG" if str(trouble) in self._told else "WARNING"
        self._told.add(str(trouble))
        event_log("dbt_host_trouble", f"no warm dbt: {trouble}; the job gets a process of its own", level)
