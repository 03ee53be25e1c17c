"""``metrics.listen``: what a daemon tells over HTTP, to Prometheus and to people, and to those who mean it no good."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Copied
from fixtures.waiting import DEADLINE, throughout, wait_for
from processes import ENDLESS, NAME, Daemon, Selfheald, cpu_seconds, holding, status, wait_until_marked
from prometheus_client.parser import text_string_to_metric_families
from reloads import Reloaded

Answer = tuple[int, dict[str, str], str]


class Port:
    """A daemon's port, as its log tells."""

    def __init__(self, daemon: Daemon, number: int = 0) -> None:
        told = wait_for(lambda: daemon.log_lines("metrics_served")[number:], what=daemon.told)[0]["message"]
        found = re.search(r"http://(\[?[\w.:]+?\]?):(\d+)/ ", told)
        assert found is not None, told
        self.host, self.number = found[1].strip("[]"), int(found[2])

    def ask(self, path: str = "/", method: str = "GET", **headers: str) -> Answer:
        """Status, headers and body of an answer."""
        connection = http.client.HTTPConnection(self.host, self.number, timeout=DEADLINE)
        try:
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read().decode()
        finally:
            connection.close()

    def text(self, path: str = "/") -> str:
        """The body of an answer that must be one."""
        code, _, body = self.ask(path)
        assert code == 200, body
        return body

    def refusal(self, path: str) -> Answer | None:
        """An answer that is none of those that are wished for."""
        answer = self.ask(path)
        return None if answer[0] == 200 else answer

    def figures(self) -> dict[tuple[str, ...], float]:
        """All samples, by their names and then the values of their labels, sorted by the labels' names."""
        return {
            (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(self.text("/metrics"))
            for sample in family.samples
        }

    def raw(self, data: bytes) -> bytes:
        """What comes back for these bytes, until the daemon closes."""
        with self.connect() as client:
            client.sendall(data)
            return _rest(client)

    def connect(self) -> socket.socket:
        return socket.create_connection((self.host, self.number), timeout=DEADLINE)


def _rest(client: socket.socket) -> bytes:
    found = b""
    try:
        while more := client.recv(65536):
            found += more
    except ConnectionResetError:
        pass
    return found


@pytest.fixture(scope="module")
def served(shared_selfheald: Selfheald, shared_root: Path) -> Iterator[Daemon]:
    with shared_selfheald.daemon(shared_root, METRICS__LISTEN="127.0.0.1:0", WATCH__RESCAN=0.5) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def port(served: Daemon) -> Port:
    return Port(served)


def test_figures_move_with_what_happens(port: Port, served: Daemon, shared_root: Path, complete: Copied) -> None:
    before = port.figures()
    made = shared_root / "made" / NAME
    made.parent.mkdir()
    made.touch()
    bad = shared_root / "bad" / NAME
    bad.parent.mkdir()
    bad.write_text("no database\n" * 1000)
    complete(shared_root / "adopted")

    def moved() -> dict[tuple[str, ...], float]:
        now = port.figures()
        return {key: value - before[key] for key, value in now.items() if value != before[key]}

    wait_for(lambda: moved().get(("selfheald_databases", "ready")) == 2, what=moved)
    wait_for(lambda: moved().get(("selfheald_databases", "failed")) == 1, what=moved)
    since = moved()
    assert since["selfheald_initializations_total", "dbt", "completed"] == 1
    assert since["selfheald_initializations_total", "adopted", "completed"] == 1
    assert ("selfheald_initializations_total", "none", "failed") not in since
    assert since["selfheald_failures_total", "not_a_database", "check"] == 1
    assert since["selfheald_checks_total", "failed"] >= 1
    assert since["selfheald_initialization_duration_seconds_count", "dbt"] == 1
    took = sum(step["duration_seconds"] for step in status(made)["steps"])
    for step in ("check_tables", "load_seeds", "build_foundation", "verify", "publish"):
        assert since["selfheald_step_duration_seconds_count", step] == 1
    steps = sum(value for key, value in since.items() if key[0] == "selfheald_step_duration_seconds_sum")
    assert steps == pytest.approx(took, abs=0.01)
    assert since["selfheald_initialization_duration_seconds_sum", "dbt"] >= took
    assert sum(value for key, value in since.items() if key[0] == "selfheald_children_started_total") >= 2
    checks = sum(value for key, value in since.items() if key[0] == "selfheald_checks_total")
    assert since["selfheald_check_duration_seconds_count",] == checks
    wait_for(lambda: moved().get(("selfheald_rescans_total", "nothing_missed"), 0) >= 2)
    assert moved()["selfheald_scans_total",] >= 2
    assert moved()["selfheald_last_scan_timestamp_seconds",] > 0
    now = port.figures()
    assert now["process_resident_memory_bytes",] > 1 << 20
    assert now["selfheald_daemon_state", "ready"] == now["selfheald_watcher_state", "native"] == 1
    assert now["selfheald_queue_length",] == now["selfheald_initialization_running",] == 0
    # No name of a database or model is a label.
    assert not any(str(shared_root) in "".join(key) or "int_" in "".join(key) for key in now)


def test_what_is_held_is_seen(port: Port, shared_root: Path, complete: Copied) -> None:
    held = complete(shared_root / "held")
    wait_until_marked(held)
    before = port.figures()
    with holding(held) as holder:
        holder.execute("drop table comp_levers")
        wait_for(lambda: port.figures()["selfheald_databases", "busy"] == 1)
        assert re.search(rf"busy: PID {holder.pid} has it open", port.text())
        assert "import duckdb" not in port.text()  # a command line may hold what is not everybody's
    wait_for(lambda: port.figures()["selfheald_databases", "busy"] == 0)
    wait_until_marked(held)
    key = ("selfheald_initializations_total", "dbt", "completed")
    assert port.figures()[key] == before[key] + 1


def test_health_is_told(port: Port) -> None:
    assert port.ask("/healthz")[::2] == (200, "ok\n")
    assert port.ask("/readyz")[::2] == (200, "ok\n")


def test_the_page_shows_what_there_is(port: Port, shared_root: Path, served: Daemon) -> None:
    odd = shared_root / '<script>alert("x")&' / NAME
    odd.parent.mkdir()
    odd.write_text("no database\n" * 1000)
    # A name is not more than a name, also where it is no text, or turns the direction of writing.
    raw = os.fsencode(shared_root) + b"/\xff\xe2\x80\xae\n<td>"
    Path(os.fsdecode(raw)).mkdir()
    (Path(os.fsdecode(raw)) / NAME).write_text("no database\n" * 1000)
    wait_for(lambda: port.text().count("not_a_database") >= 2, what=port.text)
    page = port.text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(&quot;x&quot;)&amp;" in page
    assert r"\xff\u202e\n&lt;td&gt;" in page
    assert 'http-equiv="refresh"' in page
    assert "Move the file away" in page
    assert f"PID {served.pid}" in page
    assert str(shared_root) in page
    _, headers, _ = port.ask("/")
    assert headers["content-type"] == "text/html; charset=utf-8"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"].startswith("default-src 'none'; style-src 'sha256-")
    for path in ("/", "/metrics", "/nowhere"):
        code, of_head, body = port.ask(path, "HEAD")
        assert (code, body) == (404 if path == "/nowhere" else 200, "")
        assert int(of_head["content-length"]) > 10


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "CONNECT", "BREW"])
def test_nothing_but_reading(port: Port, method: str) -> None:
    code, headers, _ = port.ask("/metrics", method)
    assert (code, headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    "path", ["/../../etc/passwd", "/%2e%2e/etc/passwd", "//etc/passwd", "/metrics/", "/.selfheald"]
)
def test_no_file_is_served(port: Port, path: str) -> None:
    code, _, body = port.ask(path)
    assert code == 404
    assert "root:" not in body


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{}", "127.0.0.1.evil.example", "localhost@evil", "[::2]", ""]
)
def test_a_name_that_is_not_ours_is_refused(port: Port, host: str) -> None:
    """A page from elsewhere may have its own name point to this machine: its browser then asks for that name."""
    assert port.ask("/metrics", Host=host.format(port.number))[0] == 421


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:{}", "127.0.0.1:{}", "[::1]:{}", "127.3.2.1"])
def test_our_own_names_are_not(port: Port, host: str) -> None:
    assert port.ask("/metrics", Host=host.format(port.number))[0] == 200


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400"),
        (b"GET / HTTP/2.0\r\nHost: localhost\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", b"400"),
        (b"GET http://localhost/ HTTP/1.1\r\nHost: localhost\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n folded: x\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\nHost: localhost\n\n" + b"\r\n\r\n", b"400"),
        (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n", b"431"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 1_000_000, b"431"),
        (b"POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 30000\r\n\r\n" + b"x" * 30_000, b"405"),
        (b"GET /healthz HTTP/1.0\r\n\r\n", b"200"),
    ],
)
def test_garbage_is_answered_and_no_more(port: Port, data: bytes, code: bytes) -> None:
    answer = b""
    with port.connect() as client:
        try:
            client.sendall(data)
        except OSError:
            assert code == b"431"  # it was told before all was sent
        answer = _rest(client)
    assert answer.startswith(b"HTTP/1.1 " + code) or (code == b"431" and not answer)
    assert port.ask("/healthz")[0] == 200


def test_who_is_slow_keeps_nobody_out(port: Port, served: Daemon) -> None:
    assert served.process is not None
    descriptors = Path(f"/proc/{served.pid}/fd")
    began = len(list(descriptors.iterdir()))
    clients = [port.connect() for _ in range(200)]
    try:
        for client in clients:
            client.sendall(b"GET /metrics HTTP/1.1\r\nHost: loc")
        before = cpu_seconds(served.pid)
        assert port.figures()["selfheald_daemon_state", "ready"] == 1
        wait_for(lambda: len(list(descriptors.iterdir())) <= began + 40)
        throughout(1.0, lambda: port.ask("/healthz")[0] == 200)
        # Each that had no place any more is closed; the last ones have one still.
        clients[0].settimeout(DEADLINE)
        assert _rest(clients[0]) == b""
        assert cpu_seconds(served.pid) - before < 2.0
    finally:
        for client in clients:
            client.close()


def test_nothing_that_a_client_does_is_an_error_of_the_daemon(port: Port, served: Daemon) -> None:
    for data in (b"", b"\0" * 5000, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"):
        with port.connect() as client:
            client.sendall(data)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # it ends by a reset
    assert port.ask("/healthz")[0] == 200
    assert not served.log_lines("metrics_error")


def test_the_port_is_loopbacks_alone(port: Port) -> None:
    listening = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
    ours = re.findall(rf"^ *\d+: ([0-9A-F]+):{port.number:04X} 0+:0000 0A ", listening, re.MULTILINE)
    assert ours == ["0100007F"]


def test_a_reload_opens_moves_and_closes_it(reloaded: Reloaded, root: Path) -> None:
    daemon = reloaded.start(root)
    assert not daemon.log_lines("metrics_served")
    reloaded.reload(root, metrics__listen="127.0.0.1:0")
    first = Port(daemon)
    assert first.figures()["selfheald_reloads_total", "refused"] == 0
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        assert "stays as it was" in reloaded.reload(root, metrics__listen=taken)
    assert "another program does already" in daemon.log_lines("reload_refused")[0]["message"]
    assert first.ask("/readyz")[0] == 200
    figures = first.figures()
    assert figures["selfheald_reloads_total", "refused"] == 1
    assert figures["selfheald_config_last_reload_successful",] == 0
    assert "the last reload was refused" in first.text().lower()
    # The same port at another address: the one has to be closed before the other is there.
    reloaded.reload(root, metrics__listen=f"0.0.0.0:{first.number}")
    second = Port(daemon, 1)
    assert second.number == first.number
    assert second.ask("/healthz", Host="planning.example")[0] == 200  # whoever may reach it has its own name for it
    reloaded.reload(root, metrics__listen="")
    with pytest.raises(ConnectionRefusedError):
        first.connect()
    daemon.stop()


def test_a_port_that_is_taken_ends_the_start(selfheald: Selfheald, root: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        number = other.getsockname()[1]
        done = selfheald.run("run", root, METRICS__LISTEN=f"127.0.0.1:{number}")
    assert done.returncode == 1
    what, cure = done.stderr.strip().splitlines()[-2:]
    assert f"metrics.listen: cannot listen on 127.0.0.1:{number}: another program does already" in what
    assert f"sport = :{number}" in cure
    done = selfheald.run("run", root, METRICS__LISTEN="192.0.2.1:9187")
    assert done.returncode == 2
    assert "cannot listen on 192.0.2.1:9187" in done.stderr
    assert "Set metrics.listen to an address of this machine" in done.stderr


def test_the_demonstration_leaves_all_to_the_daemon_that_stays(selfheald: Selfheald, tmp_path: Path) -> None:
    """Its port, its templates, and whatever else the user has configured."""
    config, cache = tmp_path / "config" / "selfheald", tmp_path / "cache"
    config.mkdir(parents=True)
    own = {"XDG_CONFIG_HOME": str(config.parent), "XDG_CACHE_HOME": str(cache)}
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = f'metrics.listen = "127.0.0.1:{other.getsockname()[1]}"'
        (config / "selfheald.toml").write_text(f'{port}\ndbt.project_dir = "/nowhere"\n')
        (config / "selfheald.toml").chmod(0o600)
        selfheald.ok("demo", env=own, timeout=2 * DEADLINE)
    assert not list(cache.rglob("*.duckdb"))


def test_it_is_warned_of_what_others_can_reach(selfheald: Selfheald, root: Path) -> None:
    warning = "metrics.listen: other machines can reach 0.0.0.0, and nobody is asked for a password"
    warned = selfheald.but(METRICS__LISTEN="0.0.0.0:0", WATCH__ROOTS=[str(root)])
    assert warning in warned.run("config", "validate").stderr
    with warned.daemon(root) as daemon:
        assert warning in daemon.told()


def test_the_daemon_says_when_it_is_not_ready(selfheald: Selfheald, root: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with selfheald.daemon(root, other, METRICS__LISTEN="127.0.0.1:0", WATCH__RESCAN=0.5) as daemon:
        port = Port(daemon)
        assert port.ask("/readyz")[0] == 200
        other.rename(tmp_path / "gone")
        code, _, why = wait_for(lambda: port.refusal("/readyz"))
        assert (code, why.partition(":")[0]) == (503, "the watch is degraded")
        assert port.figures()["selfheald_watcher_state", "degraded"] == 1
        assert "The watch is degraded" in port.text()
        (tmp_path / "gone").rename(other)
        wait_for(lambda: port.ask("/readyz")[0] == 200)


def test_a_queue_is_seen_and_an_end_is_told(selfheald: Selfheald, root: Path) -> None:
    for name in ("first", "second", "third"):
        (root / name).mkdir()
        (root / name / NAME).touch()
    settings = {"METRICS__LISTEN": "127.0.0.1:0", "DBT__PRE_SQL": ENDLESS}
    with selfheald.daemon(root, **settings) as daemon:
        port = Port(daemon)
        wait_for(lambda: port.figures()["selfheald_queue_length",] == 2)
        wait_for(lambda: port.figures()["selfheald_initialization_running",] == 1)
        before = port.figures()
        assert before["selfheald_databases", "building"] == 1
        assert before["selfheald_databases", "waiting"] == 2
        ages = ("selfheald_queue_oldest_age_seconds", "selfheald_initialization_running_seconds")
        wait_for(lambda: all(port.figures()[name,] > before[name,] for name in ages))
        assert "2 waiting, the first for" in port.text()
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGTERM)
        code, _, why = wait_for(lambda: port.refusal("/readyz"))
        assert (code, why) == (503, "the daemon is stopping\n")
        assert port.ask("/healthz")[0] == 200
        daemon.stop()


def test_without_the_key_nothing_of_it_is_loaded() -> None:
    code = (
        "import sys, selfheald.daemon, selfheald.cli.run; "
        "print([name for name in sys.modules if 'prometheus' in name or name.startswith('selfheald.metrics.')])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "['selfheald.metrics.endpoint']"
