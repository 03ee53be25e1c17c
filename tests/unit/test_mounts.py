"""What kind of file system a path lies on, as the platforms tell it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from selfheald.mounts import bsd_mounts, file_system, is_network, linux_mounts, mounts, type_at

ON_MACOS = """\
/dev/disk3s1s1 on / (apfs, sealed, local, read-only, journaled)
devfs on /dev (devfs, local, nobrowse)
/dev/disk3s5 on /System/Volumes/Data (apfs, local, journaled, nobrowse, protect, root data)
map auto_home on /System/Volumes/Data/home (autofs, automounted, nobrowse)
//ada@files/team on /Volumes/team on files (smbfs, nodev, nosuid, mounted by ada)
files:/export on /Volumes/team on files/deep (nfs)
sims:/ on /Volumes/sims (macfuse, nodev, nosuid, synchronous, mounted by ada)
a line of another kind
"""
ON_LINUX = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
40 22 0:35 / /mnt/with\\040space rw - nfs4 host:/x rw
41 22 0:36 / /mnt/with\\040space rw - fuse.sshfs host:/y rw
"""


@pytest.mark.skipif(sys.platform != "linux", reason="its own files")
def test_the_platform_s_own(tmp_path: Path) -> None:
    assert file_system(Path("/proc/self")) == "proc"
    assert file_system(tmp_path) == file_system(tmp_path / "not" / "yet")
    assert file_system(tmp_path) is not None


@pytest.mark.skipif(sys.platform != "linux", reason="only macOS has that command there")
def test_a_platform_that_does_not_tell() -> None:
    assert type_at(Path("/x"), []) is None
    if not Path("/sbin/mount").exists():
        assert mounts("darwin") == []


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/Users/ada/sims", "apfs"),
        ("/Volumes/team on files/sims", "smbfs"),
        ("/Volumes/team on files/deep/x", "nfs"),
        ("/Volumes/team on files 2", "apfs"),
        ("/Volumes/sims", "macfuse"),
        ("/System/Volumes/Data/home/x", "autofs"),
    ],
)
def test_what_the_mount_command_of_macos_tells(path: str, kind: str) -> None:
    """Its lines are those that its manual shows; it was not run there."""
    assert type_at(Path(path), bsd_mounts(ON_MACOS)) == kind


@pytest.mark.parametrize(
    ("path", "kind"), [("/mnt/with space/sims", "fuse.sshfs"), ("/mnt/with", "ext4"), ("/srv", "ext4")]
)
def test_what_linux_tells_in_its_file(path: str, kind: str) -> None:
    assert type_at(Path(path), linux_mounts(ON_LINUX)) == kind


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "9p", "fuse.glusterfs", "fuse.sshfs", "smbfs", "afpfs", "macfuse"])
def test_network_file_systems(kind: str) -> None:
    assert is_network(kind)


@pytest.mark.parametrize("kind", ["ext4", "fuse.gocryptfs", "apfs", None])
def test_others(kind: str | None) -> None:
    assert not is_network(kind)
