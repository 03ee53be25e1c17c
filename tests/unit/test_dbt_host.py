"""The process around a job: events, errors, time limits, and that nothing survives.

In place of the child that runs dbt stands a small script that does what a test needs.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from fixtures.processes import is_alive

from selfheald import dbt_host
from selfheald.dbt_host import run_job
from selfheald.errors import InitializationError, InitializationTimeoutError
from selfheald.locks import DatabaseLock, held

Eventually = Callable[[Callable[[], object]], object]

PREAMBLE = """
import json, os, signal, subprocess, sys, time
def tell(event, **fields): print(json.dumps({"event": event, **fields}), flush=True)
job = json.loads(sys.stdin.readline())
"""
#: Starts a process that ignores what can be ignored, and holds no pipe of ours.
GRANDCHILD = """
quiet = dict(stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
code = "import signal, time; signal.signal(15, signal.SIG_IGN); signal.signal(1, signal.SIG_IGN); time.sleep(600)"
grandchild = subprocess.Popen([sys.executable, "-c", code], **quiet)
tell("pids", child=os.getpid(), grandchild=grandchild.pid)
"""


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let the child be this script, after it has read its job."""
    script = tmp_path / "child.py"
    monkeypatch.setattr(dbt_host, "CHILD", script)

    def be(code: str, *, preamble: str = PREAMBLE) -> None:
        script.write_text(preamble + code)

    return be


async def run(tmp_path: Path, **options: Any) -> dict[str, Any]:
    defaults: dict[str, Any] = {"python": sys.executable, "environment": {"PATH": os.environ["PATH"]}, "timeout": 30}
    job = {"job": "build", "log_file": str(tmp_path / "job.log"), "project_dir": "/p", "answer": 42}
    return await run_job(job, **{**defaults, **options})


@pytest.mark.anyio
async def test_the_job_goes_in_and_the_result_comes_out(tmp_path: Path, child: Callable[[str], None]) -> None:
    child("tell('result', kind=sys.argv[1], job=job)")
    result = await run(tmp_path)
    assert result["kind"] == "build"
    assert result["job"]["answer"] == 42


@pytest.mark.anyio
async def test_events_are_passed_on_in_their_order(tmp_path: Path, child: Callable[[str], None]) -> None:
    child("for n in range(500): tell('node', n=n, pad='x' * 1000)\ntell('result')\ntell('node', n='late')")
    events: list[dict[str, Any]] = []
    await run(tmp_path, on_event=events.append)
    assert [event["n"] for event in events] == list(range(500))


@pytest.mark.anyio
async def test_events_come_at_once(tmp_path: Path, child: Callable[[str], None]) -> None:
    child("tell('step', name='x')\nwhile not os.path.exists(sys.argv[0] + '.go'): time.sleep(0.001)\ntell('result')")
    await run(tmp_path, on_event=lambda event: (tmp_path / "child.py.go").touch())


@pytest.mark.anyio
async def test_what_is_no_event_is_passed_over(tmp_path: Path, child: Callable[[str], None]) -> None:
    child("print('a warning\\n[1]\\n5\\n{}\\n\\xff', flush=True)\ntell('result', ok=True)")
    assert (await run(tmp_path))["ok"]


@pytest.mark.anyio
async def test_the_environment_is_the_one_that_was_given(tmp_path: Path, child: Callable[[str], None]) -> None:
    child("tell('result', environment=dict(os.environ))")
    result = await run(tmp_path, environment={"DATABASE_PATH": "/d"})
    assert result["environment"].pop("DATABASE_PATH") == "/d"
    assert set(result["environment"]) <= {"LC_CTYPE", "__CF_USER_TEXT_ENCODING"}


@pytest.mark.anyio
async def test_what_is_printed_to_stderr_is_in_the_log(tmp_path: Path, child: Callable[[str], None]) -> None:
    (tmp_path / "job.log").write_text("before\n")
    child("print('said', file=sys.stderr)\ntell('result')")
    await run(tmp_path)
    assert (tmp_path / "job.log").read_text() == "before\nsaid\n"


@pytest.mark.anyio
async def test_the_child_s_own_error(tmp_path: Path, child: Callable[[str], None]) -> None:
    child(
        "tell('error', code='seed_invalid', message='line 3', hint='Mend it.', path='/p/s.csv', step='load_seeds')\n"
        "sys.exit(1)"
    )
    with pytest.raises(InitializationError) as caught:
        await run(tmp_path)
    assert caught.value.as_dict() == {
        "code": "seed_invalid",
        "message": "line 3",
        "hint": "Mend it.",
        "path": "/p/s.csv",
        "step": "load_seeds",
        "log": str(tmp_path / "job.log"),
        "retryable": False,
    }


@pytest.mark.anyio
async def test_an_error_may_be_short(tmp_path: Path, child: Callable[[str], None]) -> None:
    child("tell('error', code='disk_full', message='no room')")
    with pytest.raises(InitializationError) as caught:
        await run(tmp_path)
    assert caught.value.code == "disk_full"
    assert caught.value.hint


@pytest.mark.anyio
async def test_the_time_limit_kills_all_that_the_child_started(
    tmp_path: Path, child: Callable[[str], None], eventually: Eventually
) -> None:
    child(GRANDCHILD + "signal.signal(15, signal.SIG_IGN)\nwhile True: time.sleep(600)")
    pids: list[int] = []
    began = time.monotonic()
    with pytest.raises(InitializationTimeoutError) as caught:
        await run(tmp_path, timeout=1.5, on_event=lambda event: pids.extend((event["child"], event["grandchild"])))
    assert 1.5 <= time.monotonic() - began < 20
    assert caught.value.timeout_seconds == 1.5
    assert caught.value.elapsed_seconds >= 1.5
    assert caught.value.log == str(tmp_path / "job.log")
    assert len(pids) == 2
    eventually(lambda: not any(is_alive(pid) for pid in pids))


@pytest.mark.anyio
async def test_a_child_that_is_stopped_does_not_escape_the_time_limit(
    tmp_path: Path, child: Callable[[str], None]
) -> None:
    child("os.kill(os.getpid(), signal.SIGSTOP)")
    with pytest.raises(InitializationTimeoutError):
        await run(tmp_path, timeout=0.5)


@pytest.mark.anyio
async def test_a_child_that_does_not_read_its_job_does_not_either(tmp_path: Path, child: Callable[..., None]) -> None:
    child("import time\ntime.sleep(600)", preamble="")
    with pytest.raises(InitializationTimeoutError):
        await run_job(
            {"job": "build", "log_file": str(tmp_path / "job.log"), "pad": "x" * 1_000_000},
            python=sys.executable,
            environment={},
            timeout=0.5,
        )


@pytest.mark.anyio
async def test_cancelling_kills_all_that_the_child_started(
    tmp_path: Path, child: Callable[[str], None], eventually: Eventually
) -> None:
    child(GRANDCHILD + "while True: time.sleep(600)")
    pids: list[int] = []
    with anyio.CancelScope() as scope:

        def cancel(event: dict[str, Any]) -> None:
            pids.extend((event["child"], event["grandchild"]))
            scope.cancel()

        await run(tmp_path, on_event=cancel)
    assert scope.cancelled_caught
    assert not is_alive(pids[0])
    eventually(lambda: not is_alive(pids[1]))


@pytest.mark.anyio
async def test_what_the_child_left_running_is_killed_after_a_result(
    tmp_path: Path, child: Callable[[str], None], eventually: Eventually
) -> None:
    child(GRANDCHILD + "tell('result')")
    pids: list[int] = []
    await run(tmp_path, on_event=lambda event: pids.append(event["grandchild"]))
    eventually(lambda: not is_alive(pids[0]))


@pytest.mark.anyio
async def test_a_child_that_does_not_end_after_its_result_is_killed(
    tmp_path: Path, child: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dbt_host, "EXIT_SECONDS", 0.2)
    child("tell('result', pid=os.getpid())\ntime.sleep(600)")
    with pytest.raises(InitializationTimeoutError):
        await run(tmp_path)


@pytest.mark.anyio
async def test_an_error_in_the_callback_kills_the_child(tmp_path: Path, child: Callable[[str], None]) -> None:
    child("tell('step', pid=os.getpid())\ntime.sleep(600)")
    pids: list[int] = []

    def broken(event: dict[str, Any]) -> None:
        pids.append(event["pid"])
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await run(tmp_path, on_event=broken)
    assert not is_alive(pids[0])


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
@pytest.mark.anyio
async def test_a_crash_is_interrupted(tmp_path: Path, child: Callable[[str], None], number: signal.Signals) -> None:
    child(f"tell('step', name='x')\nos.kill(os.getpid(), {int(number)})\ntime.sleep(600)")
    with pytest.raises(InitializationError) as caught:
        await run(tmp_path)
    assert caught.value.code == "interrupted"
    assert number.name in caught.value.message
    assert caught.value.retryable


@pytest.mark.parametrize("ending", ["sys.exit(0)", "sys.exit(3)", "raise RuntimeError", "os.write(1, b'{\"event\":')"])
@pytest.mark.anyio
async def test_an_end_without_a_result(tmp_path: Path, child: Callable[[str], None], ending: str) -> None:
    child(ending)
    with pytest.raises(InitializationError) as caught:
        await run(tmp_path)
    assert caught.value.code == "dbt_unavailable"
    assert caught.value.path == sys.executable
    assert caught.value.log == str(tmp_path / "job.log")


@pytest.mark.anyio
async def test_a_child_that_ends_before_it_reads_its_job(tmp_path: Path, child: Callable[..., None]) -> None:
    child("", preamble="")
    with pytest.raises(InitializationError) as caught:
        await run_job(
            {"job": "build", "log_file": str(tmp_path / "job.log"), "pad": "x" * 1_000_000},
            python=sys.executable,
            environment={},
            timeout=30,
        )
    assert caught.value.code == "dbt_unavailable"


@pytest.mark.parametrize("kind", ["missing", "folder", "not executable", "no program", "below a file", "circle"])
@pytest.mark.anyio
async def test_an_interpreter_that_cannot_be_started(tmp_path: Path, kind: str) -> None:
    python = tmp_path / "python"
    if kind == "folder":
        python.mkdir()
    elif kind == "circle":
        python.symlink_to("python")
    elif kind != "missing":
        python.write_bytes(b"\0")
        python.chmod(0o755 if kind == "no program" else 0o644)
    if kind == "below a file":
        python = python / "bin"
    with pytest.raises(InitializationError) as caught:
        await run(tmp_path, python=str(python))
    assert caught.value.code == "dbt_unavailable"
    assert caught.value.path == str(python)
    assert "dbt.python" in caught.value.hint


@pytest.mark.anyio
async def test_another_program_than_python(tmp_path: Path) -> None:
    with pytest.raises(InitializationError) as caught:
        await run(tmp_path, python="/bin/echo")
    assert caught.value.code == "dbt_unavailable"
    assert "/bin/echo" in caught.value.message


@pytest.mark.anyio
async def test_a_log_that_cannot_be_written_is_not_python_s_fault(tmp_path: Path) -> None:
    job = {"job": "build", "log_file": str(tmp_path)}
    with pytest.raises(InitializationError) as caught:
        await run_job(job, python=sys.executable, environment={}, timeout=30)
    assert caught.value.code == "unsafe_path"
    assert caught.value.path == str(tmp_path)


@pytest.mark.anyio
async def test_locks_stay_held_until_the_child_is_gone(tmp_path: Path, child: Callable[[str], None]) -> None:
    child(
        "tell('step')\n"
        "while not os.path.exists(sys.argv[0] + '.go'): time.sleep(0.001)\n"
        "tell('result', locked=os.fstat(job['lock']).st_ino)"
    )
    path = tmp_path / "x.lock"
    lock = DatabaseLock(path)
    assert lock.acquire()
    inode = path.stat().st_ino
    seen: list[bool] = []

    def give_up_ours(event: dict[str, Any]) -> None:
        lock.release()
        seen.append(held(path))
        (tmp_path / "child.py.go").touch()

    result = await run_job(
        {"job": "build", "log_file": str(tmp_path / "job.log"), "lock": lock.fileno()},
        python=sys.executable,
        environment={},
        timeout=30,
        on_event=give_up_ours,
        locks=(lock.fileno(),),
    )
    assert seen == [True]
    assert result["locked"] == inode
    assert not held(path)


@pytest.mark.anyio
async def test_no_other_descriptor_is_inherited(tmp_path: Path, child: Callable[[str], None]) -> None:
    child(
        "limit = 256\n"
        "def there(fd):\n"
        "    try: os.fstat(fd)\n"
        "    except OSError: return False\n"
        "    return True\n"
        "tell('result', open=[fd for fd in range(limit) if there(fd)])"
    )
    with (tmp_path / "x").open("w") as stream:
        os.set_inheritable(stream.fileno(), True)
        assert (await run(tmp_path))["open"] == [0, 1, 2]


def test_the_child_learns_of_our_death(tmp_path: Path, eventually: Eventually) -> None:
    """Whoever runs a job is killed: the child's standard input ends, which is its sign to end too."""
    (tmp_path / "child.py").write_text(
        PREAMBLE + f"open({str(tmp_path / 'pid')!r} + '.tmp', 'w').write(str(os.getpid()))\n"
        f"os.rename({str(tmp_path / 'pid')!r} + '.tmp', {str(tmp_path / 'pid')!r})\nsys.stdin.read()\n"
    )
    code = (
        "import sys, anyio, pathlib\n"
        "from selfheald import dbt_host\n"
        "dbt_host.CHILD = pathlib.Path(sys.argv[1])\n"
        "job = {'job': 'build', 'log_file': sys.argv[2]}\n"
        "async def main():\n"
        "    await dbt_host.run_job(job, python=sys.executable, environment={}, timeout=60)\n"
        "anyio.run(main)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "child.py"), str(tmp_path / "job.log")]
    root = str(Path(dbt_host.__file__).parents[1])
    with subprocess.Popen(command, env={"PATH": os.environ["PATH"], "PYTHONPATH": root}) as parent:
        try:
            eventually((tmp_path / "pid").exists)
            pid = int((tmp_path / "pid").read_text())
            assert is_alive(pid)
        finally:
            parent.kill()
    eventually(lambda: not is_alive(pid))
