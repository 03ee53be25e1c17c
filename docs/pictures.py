"""Draws the pictures of the documents: what the commands really print, and the status page. `make pictures` runs it.

A daemon, good databases, a bad one and one that a notebook has open live in a temporary home folder meanwhile. The
pictures call that folder, and the one that selfheald is installed in, by names that could be anybody's. The page takes
a browser (Chromium); where there is none, its picture stays as it is.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import time
import urllib.request
import venv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "pictures"
#: Characters in a line.
WIDTH = 128
#: What the home folder is called.
HOME = "/home/planning"
#: Pictures by name, each with the words behind `selfheald`.
PICTURES: Mapping[str, Sequence[str]] = {
    "service": ["service", "install", "--dry-run", f"{HOME}/workspaces"],
    "doctor": ["doctor", f"{HOME}/workspaces"],
    "logs": ["logs", "-n", "16"],
    "status": ["status", f"{HOME}/workspaces"],
    "status_db": ["status", f"{HOME}/workspaces/gamma"],
    "history": ["history", f"{HOME}/workspaces/alpha"],
}
#: Programs that are Chromium, and the size of its window.
BROWSERS, WINDOW = ("chromium", "chromium-browser", "google-chrome"), "1100,690"
#: Seconds in which the page must show that something is being built.
BUILDING_SECONDS = 60.0
#: One of a program that goes on: it is drawn while a database is made.
LIVE: Mapping[str, Sequence[str]] = {"watch": ["status", f"{HOME}/workspaces", "--watch"]}
#: Lines of that program's terminal.
LIVE_LINES = 12
#: For `dbt.pre_sql`: some seconds, in which a picture can be made of what is being built.
SLOW = "create table slow as select sum(a.range * b.range % 7) as n from range(25000) as a, range(25000) as b"
#: What holds a database, as notebooks do.
NOTEBOOK = """
import sys, duckdb
connection = duckdb.connect(sys.argv[1])
connection.execute("create table notes as select 42 as answer")
connection.execute("checkpoint")
print("open", flush=True)
sys.stdin.read()
"""


def main() -> None:
    """Draw them all."""
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(os.path.realpath(folder)) / "planning"
        environ = _settle_in(home)
        with _daemon(home, environ):
            for workspace in ("alpha", "beta"):
                _wait(home, environ, workspace)
            with _notebook(home, environ):
                subprocess.run(
                    _command(home, "wait", "workspaces/gamma", "--timeout", "2"),
                    cwd=home, env=environ, check=False, capture_output=True,
                )  # fmt: skip
                for name, words in PICTURES.items():
                    real = [word.replace(HOME, str(home)) for word in words]
                    _draw(name, words, _anonymous(_printed(_command(home, *real), home, environ), home))
        slow = environ | {"SELFHEALD_TEMPLATES__MODE": "off", "SELFHEALD_DBT__PRE_SQL": SLOW}
        with _daemon(home, slow):
            _draw_live(home, slow)
        for workspace in ("epsilon", "zeta", "eta"):
            (home / "workspaces" / workspace).mkdir()
            (home / "workspaces" / workspace / "simulation.duckdb").touch()
        port = _free_port()
        with _daemon(home, slow | {"SELFHEALD_METRICS__LISTEN": f"127.0.0.1:{port}"}):
            _photograph(_anonymous(_page(port), home), home)


@contextmanager
def _daemon(home: Path, environ: Mapping[str, str]) -> Iterator[None]:
    command = _command(home, "run", "workspaces")
    daemon = subprocess.Popen(command, cwd=home, env=dict(environ), stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait()


def _draw_live(home: Path, environ: Mapping[str, str]) -> None:
    """The live view at a moment at which a database is made."""
    [(name, words)] = LIVE.items()
    real = [word.replace(HOME, str(home)) for word in words]
    screen = {key: value for key, value in environ.items() if key not in ("COLUMNS", "LINES")}
    frames: list[str] = []

    def seen(output: bytes) -> bool:
        frames[:] = output.decode(errors="replace").split("\x1b[H")[1:-1]
        if frames and not (home / "workspaces" / "delta").exists():
            (home / "workspaces" / "delta").mkdir()
            (home / "workspaces" / "delta" / "simulation.duckdb").touch()
        return any("building" in frame and "█" in frame for frame in frames)

    _printed(_command(home, *real), home, screen, until=seen)
    frame = next(frame for frame in frames if "building" in frame and "█" in frame)
    _draw(name, words, _anonymous(frame, home))


def _wait(home: Path, environ: Mapping[str, str], workspace: str) -> None:
    waiting = _command(home, "wait", f"workspaces/{workspace}")
    subprocess.run(waiting, cwd=home, env=environ, check=False, capture_output=True)


@contextmanager
def _notebook(home: Path, environ: Mapping[str, str]) -> Iterator[None]:
    """A process that has a database open meanwhile."""
    (home / "notebook.py").write_text(NOTEBOOK)
    (home / "workspaces" / "gamma").mkdir()
    words = [str(home / "selfheald" / "bin" / "python"), "notebook.py", "workspaces/gamma/simulation.duckdb"]
    with subprocess.Popen(words, cwd=home, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdout.readline()
        yield
        process.stdin.close()


def _settle_in(home: Path) -> dict[str, str]:
    """A home folder with selfheald installed, a workspace, and one whose database is none. Returns its environment."""
    (home / "workspaces" / "alpha").mkdir(parents=True)
    (home / "workspaces" / "beta").mkdir()
    (home / "workspaces" / "beta" / "simulation.duckdb").write_text("not a database\n")
    venv.create(home / "selfheald", symlinks=True)
    packages = next((home / "selfheald" / "lib").glob("python3*/site-packages"))
    here = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "selfheald.pth").write_text("\n".join([str(ROOT), *here]) + "\n")
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    return kept | {"HOME": str(home), "TERM": "xterm-256color", "COLUMNS": str(WIDTH), "LINES": "60"}


def _command(home: Path, *words: str) -> list[str]:
    return [str(home / "selfheald" / "bin" / "python"), "-m", "selfheald", *words]


def _printed(
    command: Sequence[str],
    home: Path,
    environ: Mapping[str, str],
    until: Callable[[bytes], bool] | None = None,
) -> str:
    """What a command prints on a terminal, colours and all. One that goes on is ended ``until`` is true of it."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", LIVE_LINES, WIDTH, 0, 0))
    with subprocess.Popen(command, cwd=home, env=environ, stdin=its, stdout=its, stderr=subprocess.DEVNULL) as process:
        os.close(its)
        output = b""
        while True:
            try:
                more = os.read(ours, 65536)
            except OSError:  # how Linux tells that the last one has closed the terminal
                break
            if not more:
                break
            output += more
            if until is not None and until(output):
                process.send_signal(signal.SIGINT)
                until = None
        os.close(ours)
    if process.returncode not in (0, 1):
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return output.decode()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def _page(port: int) -> str:
    """The status page while a database is being built."""
    end, page = time.monotonic() + BUILDING_SECONDS, ""
    while not re.search('<progress value="', page):
        if time.monotonic() > end:
            raise SystemExit(f"nothing is being built: {page}")
        time.sleep(0.1)
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/") as answer:
            page = str(answer.read().decode())
    return page


def _photograph(page: str, home: Path) -> None:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.stdout.write("no Chromium: docs/pictures/page.png stays as it is\n")
        return
    file = home / "page.html"
    file.write_text(page, encoding="utf-8")
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--window-size={WINDOW}"]
    target = FOLDER / "page.png"
    subprocess.run(
        [browser, *options, f"--user-data-dir={home}/browser", f"--screenshot={target}", file.as_uri()],
        check=True,
        stderr=subprocess.DEVNULL,
        timeout=60,
    )
    sys.stdout.write("docs/pictures/page.png\n")


def _anonymous(text: str, home: Path) -> str:
    """The text with this machine's folders under other names."""
    for path, name in ((home, HOME), (ROOT, f"{HOME}/selfheald"), (Path(sys.prefix), f"{HOME}/selfheald")):
        text = text.replace(str(path), name)
    return text


def _draw(name: str, words: Sequence[str], text: str) -> None:
    with Path(os.devnull).open("w") as nowhere:
        console = Console(record=True, width=WIDTH, file=nowhere, force_terminal=True)
        prompt = Text.assemble(("$ ", "green"), ("selfheald ", "bold"), " ".join(words).replace(HOME, "~"))
        console.print(prompt)
        for line in Text.from_ansi(text.replace("\r\n", "\n").rstrip()).split("\n", allow_blank=True):
            line.rstrip()
            console.print(line)
        svg = console.export_svg(title="selfheald", theme=MONOKAI, code_format=_format(), unique_id=name)
    (FOLDER / f"{name}.svg").write_text(svg, encoding="utf-8")
    sys.stdout.write(f"docs/pictures/{name}.svg\n")


def _format() -> str:
    """The frame of the pictures: no font from elsewhere, and spaces that stay."""
    form = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    form = re.sub(r"\s*<!--.*?-->", "", form, flags=re.DOTALL)
    form = form.replace("Fira Code", "DejaVu Sans Mono, Menlo, Consolas").replace(
        "font-family: arial", "font-family: sans-serif"
    )
    return form.replace("<svg ", '<svg xml:space="preserve" ', 1)


if __name__ == "__main__":
    main()
