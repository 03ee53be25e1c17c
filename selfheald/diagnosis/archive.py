"""A support archive on disk: a tar file, packed, that nobody else can read and that replaces nothing."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path

from selfheald.errors import InitializationError

#: Bytes of one member; a longer one is cut.
MAX_MEMBER = 4 << 20
#: The folder that all members are in.
FOLDER = "selfheald-support"
_CUT = "\n… cut here\n"


def require_new(target: Path) -> None:
    """Raise ``config_invalid`` where something has the name already, or its folder is none."""
    if os.path.lexists(target):
        raise _refused(target, f"{target} exists already", "Give the archive another name; nothing is replaced.")
    if not target.parent.is_dir():
        raise _refused(target, f"{target.parent} is not a folder", "Make it, or give another place.")


def write(target: Path, members: Mapping[str, str], moment: float) -> int:
    """Write texts as files of an archive; its size in bytes. One that could not be finished is removed.

    Raises ``config_invalid`` where the name is taken meanwhile, or nothing can be written there.
    """
    try:
        handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        require_new(target)
        raise
    except OSError as error:
        raise _refused(target, f"{target} cannot be written: {error.strerror}", "Give another place.") from error
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(handle, 0o600)
            with gzip.GzipFile("", "wb", fileobj=file, mtime=moment) as packed:
                _fill(packed, members, moment)
            file.flush()
            return os.fstat(handle).st_size
    except BaseException as error:
        target.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _refused(target, f"{target} cannot be written: {error.strerror}", "Give another place.") from error
        raise


def _fill(packed: gzip.GzipFile, members: Mapping[str, str], moment: float) -> None:
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, text in members.items():
            content = text.encode("utf-8", "backslashreplace")
            if len(content) > MAX_MEMBER:
                content = content[:MAX_MEMBER] + _CUT.encode()
            entry = tarfile.TarInfo(f"{FOLDER}/{name}")
            entry.size, entry.mtime, entry.mode = len(content), int(moment), 0o600
            archive.addfile(entry, io.BytesIO(content))


def _refused(target: Path, message: str, hint: str) -> InitializationError:
    return InitializationError(message, code="config_invalid", hint=hint, path=target)
