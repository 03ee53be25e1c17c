"""The warm host and its forks: to whoever runs a job, a fork is what a fresh child is, and trouble is none of his.

In place of dbt stands a small script; the host that forks it is the real one.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from fixtures.processes import is_alive

from selfheald import dbt_host, forking, warm_host
from selfheald.config import Config, load_config
from selfheald.dbt_host import Child, Order, Starter, run_job, start_child
from selfheald.errors import InitializationError, InitializationTimeoutError
from selfheald.locks import DatabaseLock, held
from selfheald.warm_host import WarmHost

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is forked")

Eventually = Callable[[Callable[[], object]], object]
Stand = Callable[..., None]

_FOLDER = dbt_host.CHILD
#: A child that does ``job`` and whose host prepares itself with ``prepare``.
_CHILD = """
import json, os, signal, subprocess, sys, threading, time, types
sys.path.insert(1, {folder!r})
import fork_host
def tell(event, **fields): os.write(1, json.dumps({{"event": event, **fields}}).encode() + b"\\n")
def prepare():
    {prepare}
sys.modules["warm_up"] = types.SimpleNamespace(prepare=prepare, begin=lambda: None, Rehearsal=lambda: None)
def do_job(kind):
    line = sys.stdin.buffer.readline()
    if not line:  # its parent is gone, or does not want it
        time.sleep(0.3)
        open(sys.argv[0] + ".gone", "w").close()
        os._exit(1)
    job = json.loads(line)
    {job}
    os._exit(0)
if sys.argv[1] == "host":
    fork_host.serve(int(sys.argv[2]), do_job)
do_job(sys.argv[1])
"""
_WAIT = "while not os.path.exists(job['go']): time.sleep(0.001)\n    "
_RESULT = 'tell("result", pid=os.getpid(), parent=os.getppid(), environment=dict(os.environ))'
_GRANDCHILD = """
    quiet = dict(stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], **quiet)
    tell("pids", child=os.getpid(), grandchild=grandchild.pid)
"""
#: All by which a process could tell how it was started.
_PORTRAIT = """
    umask = os.umask(0); os.umask(umask)
    def there(number):
        try: return os.get_inheritable(number)
        except OSError: return None
    masks = [line for line in open("/proc/self/status") if line.startswith(("Sig", "Shd", "Threads", "NoNewPrivs"))]
    tell("result", leads=[os.getpid() == os.getpgrp() == os.getsid(0)], arguments=sys.argv[1:], umask=umask,
         cwd=os.getcwd(), environment=dict(os.environ), masks=[line for line in masks if "SigQ" not in line],
         descriptors={number: there(number) for number in range(200) if there(number) is not None},
         kinds=[os.fstat(number).st_mode >> 12 for number in (0, 1, 2)], nice=os.nice(0),
         held=[os.fstat(number).st_ino for number in job["held"]])
"""


@pytest.fixture
def stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stand:
    """Let children and their host run a script."""

    def write(job: str = _RESULT, prepare: str = "pass") -> None:
        path = tmp_path / "child.py"
        path.write_text(_CHILD.format(folder=str(_FOLDER), prepare=prepare, job=job))
        monkeypatch.setattr(dbt_host, "CHILD", path)
        monkeypatch.setattr(forking, "CHILD", path)

    return write


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, str]]:
    """What is logged: event, message, level."""
    lines: list[tuple[str, str, str]] = []
    monkeypatch.setattr(warm_host, "event_log", lambda *line, **fields: lines.append(line))
    return lines


def config(tmp_path: Path, **dbt: Any) -> Config:
    return load_config(
        overrides={"state_dir": str(tmp_path / "state"), **{f"dbt.{k}": v for k, v in dbt.items()}}, environ={}
    )


async def run(tmp_path: Path, start: Starter, kind: str = "build", **options: Any) -> dict[str, Any]:
    job = {"job": kind, "log_file": str(tmp_path / "job.log"), **options.pop("job", {})}
    options = {"python": sys.executable, "environment": {"A": "1"}, "timeout": 30, **options}
    return await run_job(job, start=start, **options)


async def until(condition: Callable[[], object]) -> None:
    """Wait for something in the kernel, or in another process."""
    with anyio.fail_after(20):
        while not condition():  # noqa: ASYNC110
            await anyio.sleep(0.005)


def the_host(warm: WarmHost) -> int:
    assert warm._host is not None
    return warm._host.pid


@pytest.mark.anyio
async def test_a_fork_is_what_a_fresh_child_is(tmp_path: Path, stand: Stand) -> None:
    stand(job=_PORTRAIT.strip())
    lock = DatabaseLock(tmp_path / "x.lock")
    assert lock.acquire()
    options: dict[str, Any] = {"locks": (lock.fileno(),), "job": {"held": [lock.fileno()]}}
    async with WarmHost(config(tmp_path)) as warm:
        fresh = await run(tmp_path, start_child, **options)
        for _ in range(2):
            forked = await run(tmp_path, warm.start, **options)
            assert warm._host is not None
            # A pipe of the standard library's own is a socket on some of its versions.
            assert forked.pop("kinds")[1:] == fresh.get("kinds", [])[1:]
            assert forked == {name: value for name, value in fresh.items() if name != "kinds"}
    assert forked["held"] == [(tmp_path / "x.lock").stat().st_ino]
    lock.release()
    assert not held(tmp_path / "x.lock")


@pytest.mark.anyio
async def test_one_host_does_all_jobs_and_leaves_no_process(tmp_path: Path, stand: Stand) -> None:
    stand()
    async with WarmHost(config(tmp_path)) as warm:
        results = [await run(tmp_path, warm.start, kind) for kind in ("plan", "build", "publish", "build")]
        host = the_host(warm)
        assert {result["parent"] for result in results} == {host}
        assert len({result["pid"] for result in results}) == 4
        assert not any(Path(f"/proc/{result['pid']}").exists() for result in results)
    assert not Path(f"/proc/{host}").exists()


@pytest.mark.anyio
async def test_jobs_beside_one_another(tmp_path: Path, stand: Stand) -> None:
    """The locks and pipes of the one are not the other's: it ends when it is done, not when both are."""
    stand(
        job="open(job['mine'], 'w').close()\n    while not os.path.exists(job['go']): time.sleep(0.001)\n    " + _RESULT
    )
    first, second = (
        {"job": {"mine": str(tmp_path / f"{a}.there"), "go": str(tmp_path / f"{a}.go")}} for a in ("first", "second")
    )
    done: list[str] = []
    async with WarmHost(config(tmp_path)) as warm, anyio.create_task_group() as group:

        async def job(name: str, options: dict[str, Any]) -> None:
            await run(tmp_path, warm.start, **options)
            done.append(name)
            if name == "second":
                Path(first["job"]["go"]).touch()

        group.start_soon(job, "first", first)
        await until(Path(first["job"]["mine"]).exists)
        group.start_soon(job, "second", second)
        await until(Path(second["job"]["mine"]).exists)
        Path(second["job"]["go"]).touch()
    assert done == ["second", "first"]


@pytest.mark.parametrize("ends", ["by its time limit", "cancelled"])
@pytest.mark.anyio
async def test_a_fork_is_killed_with_all_that_it_started(
    tmp_path: Path, stand: Stand, eventually: Eventually, ends: str
) -> None:
    stand(job=_GRANDCHILD.strip() + "\n    time.sleep(600)")
    pids: list[int] = []
    async with WarmHost(config(tmp_path)) as warm:
        with anyio.CancelScope() as scope:

            def on_event(event: dict[str, Any]) -> None:
                pids.extend((event["child"], event["grandchild"]))
                if ends == "cancelled":
                    scope.cancel()

            if ends == "cancelled":
                await run(tmp_path, warm.start, on_event=on_event)
            else:
                with pytest.raises(InitializationTimeoutError):
                    await run(tmp_path, warm.start, timeout=1.5, on_event=on_event)
        assert len(pids) == 2
        assert not is_alive(pids[0])
        eventually(lambda: not is_alive(pids[1]))
        assert is_alive(the_host(warm))


@pytest.mark.anyio
async def test_how_a_fork_ended_is_told(tmp_path: Path, stand: Stand) -> None:
    stand(job="os.kill(os.getpid(), signal.SIGSEGV) if job['crash'] else os._exit(3)")
    async with WarmHost(config(tmp_path)) as warm:
        for crash, code, words in ((True, "interrupted", "SIGSEGV"), (False, "dbt_unavailable", "exit code 3")):
            with pytest.raises(InitializationError, match=words) as caught:
                await run(tmp_path, warm.start, job={"crash": crash})
            assert caught.value.code == code


@pytest.mark.anyio
async def test_a_host_that_is_killed_when_idle(tmp_path: Path, stand: Stand, told: list[tuple[str, str, str]]) -> None:
    stand()
    async with WarmHost(config(tmp_path)) as warm:
        first = await run(tmp_path, warm.start)
        os.kill(the_host(warm), signal.SIGKILL)
        second = await run(tmp_path, warm.start)
        assert second["parent"] == the_host(warm) != first["parent"]
    assert not [line for line in told if line[2] == "WARNING"]


@pytest.mark.anyio
async def test_a_host_that_is_killed_while_its_fork_works(tmp_path: Path, stand: Stand) -> None:
    """The job goes on to its end: it is tied to who wants it, not to the host."""
    stand(job="tell('step')\n    while os.getppid() == job['host']: time.sleep(0.001)\n    " + _RESULT)
    async with WarmHost(config(tmp_path)) as warm:
        stand_in: dict[str, Any] = {"host": -1}
        await run(tmp_path, warm.start, job=stand_in)
        host = the_host(warm)
        result = await run(
            tmp_path, warm.start, job={"host": host}, on_event=lambda event: os.kill(host, signal.SIGKILL)
        )
        assert result["parent"] != host
        assert (await run(tmp_path, warm.start, job=stand_in))["parent"] == the_host(warm)


@pytest.mark.anyio
async def test_host_and_fork_killed_together(tmp_path: Path, stand: Stand) -> None:
    stand(job="tell('step', pid=os.getpid())\n    time.sleep(600)")
    async with WarmHost(config(tmp_path)) as warm:

        def kill(event: dict[str, Any]) -> None:
            os.kill(the_host(warm), signal.SIGKILL)
            os.kill(event["pid"], signal.SIGKILL)

        with pytest.raises(InitializationError) as caught:
            await run(tmp_path, warm.start, on_event=kill)
    assert caught.value.code == "interrupted"


@pytest.mark.parametrize(
    ("prepare", "why"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "killed by SIGKILL"),
        ("sys.exit(3)", "exit code 3"),
        ("raise RuntimeError", "exit code 1"),
        ("threading.Thread(target=time.sleep, args=(600,), daemon=True).start()", "2 threads"),
        ("sys.kept = open(sys.argv[0])", "child.py open"),
        ("os.kill(os.getpid(), signal.SIGSTOP)", "did not fork within"),
        ("os.fork = lambda: os._exit(1)", "exit code 1"),
        ("os.setsid = None", "a fork ended before its job began"),
    ],
)
@pytest.mark.anyio
async def test_a_host_that_is_none(
    tmp_path: Path,
    stand: Stand,
    told: list[tuple[str, str, str]],
    monkeypatch: pytest.MonkeyPatch,
    prepare: str,
    why: str,
) -> None:
    """The job is done by a child of its own; it is told once, and not tried again at once."""
    monkeypatch.setattr(forking, "FORK_SECONDS", 1.0)
    stand(prepare=prepare)
    async with WarmHost(config(tmp_path)) as warm:
        for _ in range(2):
            assert (await run(tmp_path, warm.start))["parent"] == os.getpid()
        assert len([line for line in told if line[0] == "dbt_host_started"]) == 1
        warm._not_before = 0.0
        assert (await run(tmp_path, warm.start))["parent"] == os.getpid()
        assert warm._host is None
    troubles = [line for line in told if line[0] == "dbt_host_trouble"]
    assert [level for _, _, level in troubles] == ["WARNING", "DEBUG"]
    assert why in troubles[0][1]


@pytest.mark.anyio
async def test_a_fork_of_which_nobody_was_told_gets_no_job(
    tmp_path: Path, stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its host was killed between the fork and the answer: it is gone before another child begins."""
    stand(
        prepare="""forked = fork_host._forked
    fork_host._forked = lambda *given: (forked(*given), os.kill(os.getpid(), signal.SIGKILL))"""
    )
    seen: list[bool] = []

    async def start(order: Order) -> Child:
        seen.append((tmp_path / "child.py.gone").exists())
        return await start_child(order)

    monkeypatch.setattr(warm_host, "start_child", start)
    async with WarmHost(config(tmp_path)) as warm:
        assert (await run(tmp_path, warm.start))["parent"] == os.getpid()
    assert seen == [True]


@pytest.mark.anyio
async def test_an_interpreter_that_cannot_be_started_is_told_as_ever(tmp_path: Path, stand: Stand) -> None:
    stand()
    async with WarmHost(config(tmp_path)) as warm:
        with pytest.raises(InitializationError) as caught:
            await run(tmp_path, warm.start, python=str(tmp_path / "none"))
    assert caught.value.code == "dbt_unavailable"


@pytest.mark.anyio
async def test_a_log_that_cannot_be_written_is_told_as_ever(tmp_path: Path, stand: Stand) -> None:
    stand()
    async with WarmHost(config(tmp_path)) as warm:
        with pytest.raises(InitializationError) as caught:
            await run(tmp_path, warm.start, job={"log_file": str(tmp_path)})
        assert caught.value.code == "unsafe_path"
        assert (await run(tmp_path, warm.start))["parent"] == the_host(warm)


@pytest.mark.anyio
async def test_cancelled_while_the_host_prepares(tmp_path: Path, stand: Stand) -> None:
    stand(prepare=f"open({str(tmp_path / 'begun')!r}, 'w').close(); time.sleep(600)")
    async with WarmHost(config(tmp_path)) as warm, anyio.create_task_group() as group:
        group.start_soon(run, tmp_path, warm.start)
        await until((tmp_path / "begun").exists)
        host = the_host(warm)
        group.cancel_scope.cancel()
    assert not is_alive(host)


@pytest.mark.anyio
async def test_an_idle_host_ends(tmp_path: Path, stand: Stand, told: list[tuple[str, str, str]]) -> None:
    stand()
    async with WarmHost(config(tmp_path, keep_warm=0.2)) as warm, anyio.create_task_group() as group:
        group.start_soon(warm.end_when_idle)
        host = (await run(tmp_path, warm.start))["parent"]
        assert host != os.getpid()
        await until(lambda: not is_alive(host))
        assert (await run(tmp_path, warm.start))["parent"] not in (host, os.getpid())
        group.cancel_scope.cancel()
    assert "idle for 0.2 s" in next(message for event, message, _ in told if event == "dbt_host_ended")


@pytest.mark.anyio
async def test_a_host_at_work_is_not_idle(tmp_path: Path, stand: Stand) -> None:
    stand(job="tell('step')\n    time.sleep(0.5)\n    " + _RESULT)
    async with WarmHost(config(tmp_path, keep_warm=0.05)) as warm, anyio.create_task_group() as group:
        group.start_soon(warm.end_when_idle)
        hosts: list[int] = []
        result = await run(tmp_path, warm.start, on_event=lambda event: hosts.append(the_host(warm)))
        assert hosts == [result["parent"]]
        group.cancel_scope.cancel()


@pytest.mark.anyio
async def test_not_kept_warm_there_is_none(tmp_path: Path, stand: Stand) -> None:
    stand()
    async with WarmHost(config(tmp_path, keep_warm=0)) as warm:
        assert (await run(tmp_path, warm.start))["parent"] == os.getpid()
        assert warm._host is None


@pytest.mark.anyio
async def test_no_host_is_started_for_a_publishing_alone(tmp_path: Path, stand: Stand) -> None:
    stand()
    async with WarmHost(config(tmp_path)) as warm:
        assert (await run(tmp_path, warm.start, "publish"))["parent"] == os.getpid()


@pytest.mark.anyio
async def test_a_host_that_has_grown_is_started_anew(
    tmp_path: Path, stand: Stand, told: list[tuple[str, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    stand(prepare="sys.much = bytearray(os.urandom(1 << 20)) * 40")
    monkeypatch.setattr(warm_host, "MOST_MEMORY", 30 << 20)
    async with WarmHost(config(tmp_path)) as warm:
        hosts = [(await run(tmp_path, warm.start))["parent"] for _ in range(2)]
        assert hosts[0] != hosts[1]
        assert not is_alive(hosts[0])
    reason = next(message for event, message, _ in told if event == "dbt_host_ended")
    used = int(reason.partition("it uses ")[2].split()[0])
    assert 40 < used < 100
    assert "may use 30" in reason


@pytest.mark.anyio
async def test_another_environment_has_another_host(tmp_path: Path, stand: Stand) -> None:
    stand()
    async with WarmHost(config(tmp_path)) as warm:
        hosts = [(await run(tmp_path, warm.start, environment={"A": value}))["parent"] for value in "112"]
    assert hosts[0] == hosts[1] != hosts[2]


@pytest.mark.anyio
async def test_what_each_database_sets_for_itself_reaches_its_fork(tmp_path: Path, stand: Stand) -> None:
    stand()
    env = {"CENSUS": "{workspace}/census", "PYTHONPATH": "{workspace}"}
    async with WarmHost(config(tmp_path, env=env)) as warm:
        given = [{"A": "1", "CENSUS": "/one"}, {"A": "1", "CENSUS": "/other"}, {"A": "1", "PYTHONPATH": "/x"}]
        results = [await run(tmp_path, warm.start, environment=environment) for environment in given]
    for environment, result in zip(given, results, strict=True):
        assert {name: result["environment"].get(name) for name in environment} == environment
    assert results[0]["parent"] == results[1]["parent"] != results[2]["parent"]
    assert "CENSUS" not in results[2]["environment"]


@pytest.mark.anyio
async def test_a_host_that_is_replaced_stays_until_its_fork_has_ended(tmp_path: Path, stand: Stand) -> None:
    stand(job="tell('step')\n    " + _WAIT + "os._exit(3)")
    (tmp_path / "free").touch()
    async with WarmHost(config(tmp_path)) as warm, anyio.create_task_group() as group:
        begun = anyio.Event()

        async def first() -> None:
            with pytest.raises(InitializationError, match="exit code 3"):
                await run(tmp_path, warm.start, job={"go": str(tmp_path / "go")}, on_event=lambda event: begun.set())

        group.start_soon(first)
        await begun.wait()
        host = the_host(warm)
        with pytest.raises(InitializationError, match="exit code 3"):
            await run(tmp_path, warm.start, job={"go": str(tmp_path / "free")}, environment={"A": "2"})
        assert is_alive(host)
        (tmp_path / "go").touch()
    assert not is_alive(host)


def test_a_host_dies_with_its_parent(tmp_path: Path, stand: Stand, eventually: Eventually) -> None:
    """At once, also in the midst of something that takes long and listens to nothing."""
    busy = "import hashlib; hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)"
    stand(prepare=f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); {busy}")
    code = (
        "import sys, anyio, pathlib\n"
        "from selfheald import forking\n"
        "forking.CHILD = pathlib.Path(sys.argv[1])\n"
        "async def on_end(host): pass\n"
        "async def main():\n"
        "    await forking.Host.start(sys.executable, {}, pathlib.Path(sys.argv[2]), on_end)\n"
        "    await anyio.sleep(600)\n"
        "anyio.run(main)\n"
    )
    root = str(Path(forking.__file__).parents[1])
    command = [sys.executable, "-c", code, str(tmp_path / "child.py"), str(tmp_path / "host.log")]
    with subprocess.Popen(command, env={"PATH": os.environ["PATH"], "PYTHONPATH": root}) as parent:
        try:
            eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
            pid = int((tmp_path / "pid").read_text())
            assert is_alive(pid)
        finally:
            parent.kill()
    eventually(lambda: not is_alive(pid))
