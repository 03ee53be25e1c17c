"""Promise 7: events are hints, the scan is the truth. Whatever becomes of events, every database ends ready."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import Copied
from fixtures.figures import Figures, scaled
from fixtures.waiting import DEADLINE, wait_for
from namespaces import daemon_in, namespaces
from processes import NAME, Daemon, Selfheald, wait_until_marked

from selfheald.client import valid_marker
from selfheald.presence import daemon_record

#: Seconds between scans where events, or what stands in for them, must do: no scan comes to a test's help.
NEVER = 3600.0
#: Seconds between scans where the scan must do.
RESCAN = 2.0
#: Seconds in which an event, or a look where none comes, has led to a marker, on a machine busy with other things.
PROMPTLY = 20.0

pytestmark = [pytest.mark.promise(7), pytest.mark.soak, pytest.mark.timeout(scaled(120, 900))]
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="this is about inotify")


def watcher(root: Path) -> object:
    """The watcher's state, as ``status --json`` tells it."""
    return daemon_record(root)["watcher"]


def watcher_within(root: Path) -> object:
    """The same of a root in another namespace: the way there is a link, which the program would not follow."""
    with suppress(OSError, ValueError):
        return json.loads((root / ".selfheald" / "daemon.json").read_text())["watcher"]
    return None


def is_marked_within(database: Path) -> bool:
    """True if a marker tells of this very file, in another namespace."""
    with suppress(OSError, ValueError):
        told, found = json.loads(database.with_name(f"{NAME}.ready").read_text())["database"], database.stat()
        keys = (told["device"], told["inode"], told["size"], told["mtime_ns"])
        return bool(keys == (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns))
    return False


def wait_until_watching(root: Path, state: str, daemon: Daemon, watcher: Callable[[Path], object] = watcher) -> None:
    wait_for(lambda: watcher(root) == state, what=lambda: (watcher(root), daemon.told()))


def count_ready(databases: list[Path], deadline: float, is_ready: Callable[[Path], object] = valid_marker) -> int:
    """Wait until all are ready, or the deadline is over; how many are."""
    with suppress(AssertionError):
        wait_for(lambda: all(map(is_ready, databases)), deadline)
    return sum(bool(is_ready(database)) for database in databases)


class TestBursts:
    """New folders, faster than watches can be set; no scan helps."""

    def test_folders_are_made_and_written_to_at_once(
        self, selfheald: Selfheald, root: Path, finished: Path, figures: Figures
    ) -> None:
        bursts, size = scaled(4, 24), 50
        with selfheald.daemon(root, WATCH__RESCAN=NEVER) as daemon:
            ready = 0
            for burst in range(bursts):
                databases = [root / f"{burst}" / f"a{number}" / "b" / "c" / NAME for number in range(size)]
                for database in databases:
                    database.parent.mkdir(parents=True)
                    shutil.copyfile(finished, database)
                ready += count_ready(databases, DEADLINE)
            figures.tell(
                7,
                "`mkdir -p a/b/c && write` in bursts of 50, no scan",
                tried=bursts * size,
                survived=ready,
                lost=bursts * size - ready,
            )
            assert ready == bursts * size, daemon.told()
            assert watcher(root) == "native"
            # What comes later in folders that came late is told as well.
            databases[0].with_name(f"{NAME}.ready").unlink()
            wait_until_marked(databases[0], PROMPTLY)

    def test_trees_are_moved_in_and_copied_in(
        self, selfheald: Selfheald, root: Path, tmp_path: Path, finished: Path, figures: Figures
    ) -> None:
        rounds, size = scaled(2, 20), 10
        with selfheald.daemon(root, WATCH__RESCAN=NEVER) as daemon:
            ready = 0
            for number in range(rounds):
                tree = tmp_path / "tree"
                for each in range(size):
                    (tree / f"w{each}" / "dbt").mkdir(parents=True)
                    shutil.copyfile(finished, tree / f"w{each}" / "dbt" / NAME)
                shutil.copytree(tree, root / f"copied-{number}")
                tree.rename(root / f"moved-{number}")
                places = [root / f"{how}-{number}" for how in ("copied", "moved")]
                databases = [place / f"w{each}" / "dbt" / NAME for place in places for each in range(size)]
                ready += count_ready(databases, DEADLINE)
                # The same names come again as other folders.
                shutil.rmtree(places[0])
                shutil.copytree(places[1], places[0], ignore=shutil.ignore_patterns("*.ready", ".selfheald"))
                databases = databases[:size]
                ready += count_ready(databases, DEADLINE)
            tried = rounds * size * 3
            figures.tell(7, "trees moved in, copied in, replaced, no scan", tried=tried, survived=ready)
            assert ready == tried, daemon.told()


class TestRoots:
    """A root goes and comes."""

    @pytest.mark.parametrize("how", ["deleted", "renamed"])
    def test_a_root_goes_and_comes(
        self, how: str, selfheald: Selfheald, root: Path, tmp_path: Path, complete: Copied, figures: Figures
    ) -> None:
        rounds, ready = scaled(1, 8), 0
        other = tmp_path / "other"
        other.mkdir()
        with selfheald.daemon(root, other, WATCH__RESCAN=NEVER) as daemon:
            for number in range(rounds):
                if how == "deleted":
                    shutil.rmtree(root)
                else:
                    root.rename(tmp_path / "away")
                wait_until_watching(other, "degraded", daemon)
                databases = [complete(other / f"meanwhile-{number}")]
                if how == "deleted":
                    root.mkdir()
                else:
                    databases.append(complete(tmp_path / "away" / f"away-{number}"))
                    (tmp_path / "away").rename(root)
                    databases[-1] = root / f"away-{number}" / NAME
                databases.append(complete(root / f"w{number}"))
                ready += count_ready(databases, DEADLINE)
                wait_until_watching(root, "native", daemon)
                databases = [complete(root / f"later-{number}")]
                ready += count_ready(databases, PROMPTLY)
            tried = rounds * (3 if how == "deleted" else 4)
            figures.tell(7, f"databases around a root that is {how} and comes back", tried=tried, survived=ready)
            assert ready == tried, daemon.told()

    @on_linux
    def test_a_root_is_unmounted_and_mounted(
        self, selfheald: Selfheald, root: Path, finished: Path, figures: Figures
    ) -> None:
        rounds, ready = scaled(1, 6), 0
        with namespaces("m") as shell:
            shell.run(f"mount -t tmpfs -o size=100m first {root}")
            seen = Path(f"/proc/{shell.pid}/root{root}")
            with daemon_in(shell, selfheald, root, WATCH__RESCAN=NEVER) as daemon:
                wait_until_watching(seen, "native", daemon, watcher_within)
                for number in range(rounds):
                    shell.run(f"mkdir -p {root}/w && cp {finished} {root}/w/{NAME}")
                    ready += count_ready([seen / "w" / NAME], PROMPTLY, is_marked_within)
                    shell.run(f"umount -l {root}")
                    shell.run(f"mkdir -p {root}/below-{number} && cp {finished} {root}/below-{number}/{NAME}")
                    ready += count_ready([seen / f"below-{number}" / NAME], DEADLINE, is_marked_within)
                    wait_until_watching(seen, "native", daemon, watcher_within)
                    shell.run(f"mount -t tmpfs -o size=100m again {root}")
                    wait_for(lambda: (seen / ".selfheald" / "daemon.json").exists(), what=daemon.told)
                    wait_until_watching(seen, "native", daemon, watcher_within)
                shell.run(f"mkdir -p {root}/w && cp {finished} {root}/w/{NAME}")
                ready += count_ready([seen / "w" / NAME], PROMPTLY, is_marked_within)
        figures.tell(7, "databases in a root that is unmounted and mounted", tried=rounds * 2 + 1, survived=ready)
        assert ready == rounds * 2 + 1, daemon.told()


@on_linux
class TestLostEvents:
    """The kernel's queue overflows."""

    def test_the_queue_overflows(self, selfheald: Selfheald, root: Path, finished: Path, figures: Figures) -> None:
        rounds, size, ready = scaled(1, 5), 10, 0
        limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
        with selfheald.daemon(root, WATCH__RESCAN=RESCAN) as daemon:
            assert daemon.process is not None
            for number in range(rounds):
                daemon.process.send_signal(signal.SIGSTOP)
                databases = [root / f"w{number}-{each}" / NAME for each in range(size)]
                # Made, opened for writing, closed, removed: the queue is full when the databases come.
                for each in range(limit // 2):
                    (root / f"noise-{each}").touch()
                    (root / f"noise-{each}").unlink()
                for database in databases:
                    database.parent.mkdir()
                    shutil.copyfile(finished, database)
                daemon.process.send_signal(signal.SIGCONT)
                ready += count_ready(databases, DEADLINE)
                # What happens there from now on is told by events again: the scan has noticed what was lost.
                lines = number + 1
                for event in ("events_lost", "watch_restored"):
                    wait_for(lambda: len(daemon.log_lines(event)) >= lines, what=daemon.told)  # noqa: B023
                wait_until_watching(root, "native", daemon)
            figures.tell(
                7,
                f"databases amid {limit:,} events and more while the daemon stands still",
                tried=rounds * size,
                survived=ready,
            )
            assert ready == rounds * size, daemon.told()

    def test_a_folder_that_lost_its_watch_gets_it_again(
        self, selfheald: Selfheald, root: Path, complete: Copied
    ) -> None:
        """A folder of the same name whose coming no event told: a mount over it. It is noticed without a scan."""
        with namespaces("m") as shell:
            (root / "w").mkdir()
            seen = Path(f"/proc/{shell.pid}/root{root}")
            with daemon_in(shell, selfheald, root, WATCH__RESCAN=NEVER) as daemon:
                wait_until_watching(root, "native", daemon)
                shell.run(f"mount -t tmpfs -o size=50m other {root}/w && cp {complete(root / 'x')} {root}/w/{NAME}")
                wait_for(lambda: is_marked_within(seen / "w" / NAME), what=daemon.told)
                wait_for(lambda: daemon.log_lines("events_lost"), what=daemon.told)


@on_linux
class TestLimits:
    """The kernel grants no more watches."""

    @pytest.mark.parametrize(("mode", "what"), [("auto", "watches"), ("native", "watches"), ("auto", "instances")])
    def test_a_limit_is_reached_and_raised(
        self, mode: str, what: str, selfheald: Selfheald, root: Path, complete: Copied, figures: Figures
    ) -> None:
        rounds, ready = scaled(1, 3), 0
        state = "polling" if mode == "auto" else "degraded"
        with namespaces("Ur") as shell:
            shell.limit(f"inotify_{what}", 1000)
            with daemon_in(shell, selfheald, root, WATCH__RESCAN=NEVER, WATCH__MODE=mode) as daemon:
                wait_until_watching(root, "native", daemon)
                for number in range(rounds):
                    shell.limit(f"inotify_{what}", 2 if what == "watches" else 0)
                    if what == "instances":  # all folders share one: another is needed by another watch alone
                        root.rename(root.with_name("aside")).rename(root)
                    databases = [complete(root / f"w{number}-{each}") for each in range(5)]
                    wait_until_watching(root, state, daemon)
                    ready += count_ready(databases, PROMPTLY)
                    later = complete(root / f"w{number}-later" / "deep")
                    ready += count_ready([later], PROMPTLY)
                    assert selfheald.document("status", root)["daemons"][0]["watcher"] == state
                    line = daemon.log_lines("watch_limit")[-1]
                    assert f"user.max_inotify_{what}" in line["message"] or f"max_user_{what}" in line["message"]
                    shell.limit(f"inotify_{what}", 1000)
                    wait_until_watching(root, "native", daemon)
                    wait_for(lambda: daemon.log_lines("watch_restored"), what=daemon.told)
                    ready += count_ready([complete(root / f"w{number}-restored")], PROMPTLY)
        figures.tell(
            7, f"databases while no more {what} are granted, and after (`{mode}`)", tried=rounds * 7, survived=ready
        )
        assert ready == rounds * 7, daemon.told()


@on_linux
class TestNames:
    """Names and folders on which a watch ends."""

    def test_names_that_are_not_utf_8(
        self, selfheald: Selfheald, root: Path, complete: Copied, figures: Figures
    ) -> None:
        rounds, ready = scaled(3, 40), 0
        healthy, odd = root / "healthy", root / "odd"
        healthy.mkdir()
        odd.mkdir()
        stop = threading.Event()

        def write_without_pause() -> None:
            number = 0
            while not stop.wait(0.02):
                number += 1
                name = odd / os.fsdecode(b"result-%d-\xe9.csv" % (number % 5))
                name.touch()
                name.unlink()

        with selfheald.daemon(root, WATCH__RESCAN=NEVER) as daemon:
            writer = threading.Thread(target=write_without_pause)
            writer.start()
            try:
                wait_until_watching(root, "degraded", daemon)
                for number in range(rounds):
                    ready += count_ready([complete(healthy / f"w{number}")], PROMPTLY)
                    ready += count_ready([complete(odd / f"w{number}" / "deep")], PROMPTLY)
            finally:
                stop.set()
                writer.join()
            (root / os.fsdecode(b"folder-\xff")).mkdir()
            ready += count_ready([complete(root / "beside")], PROMPTLY)
            complete(root / os.fsdecode(b"folder-\xff") / "w")
            ready += count_ready([complete(root / "after")], PROMPTLY)
            ended = len(daemon.log_lines("watch_ended"))
            figures.tell(
                7,
                "databases beside names that are not UTF-8, written without pause, no scan",
                tried=rounds * 2 + 2,
                survived=ready,
                note=f"watch ended {ended} times",
            )
            assert ready == rounds * 2 + 2, daemon.told()
            assert ended <= 3, daemon.told()

    def test_links_in_circles(self, selfheald: Selfheald, root: Path, complete: Copied, figures: Figures) -> None:
        """Whoever follows these links has a million ways to go, and comes to folders outside."""
        folders = [root / f"w{number}" for number in range(10)]
        for folder in folders:
            folder.mkdir()
            (folder / "self").symlink_to("self")
            (folder / "up").symlink_to("..")
            (folder / "everything").symlink_to("/")
            for other in folders:
                (folder / f"to-{other.name}").symlink_to(other)
        with selfheald.daemon(root, WATCH__RESCAN=NEVER) as daemon:
            ready = count_ready([complete(folder / "dbt") for folder in folders], PROMPTLY)
            assert watcher(root) == "native"
            shutil.copytree(root, root / "copy", symlinks=True, ignore=shutil.ignore_patterns("copy", ".selfheald"))
            ready += count_ready([root / "copy" / folder.name / "dbt" / NAME for folder in folders], DEADLINE)
            figures.tell(7, "databases among links in circles, no scan", tried=20, survived=ready)
            assert ready == 20, daemon.told()
