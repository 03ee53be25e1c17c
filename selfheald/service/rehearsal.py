"""What the service will do first, done once as its user.

That is: start this interpreter, read the configuration, and make the roots' ``.selfheald`` folders, which so get the
owner, group and mode that they will have.

``python -m selfheald.service.rehearsal REQUEST`` is run as another user. The request is JSON, and so is the answer: the
error, or null.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from selfheald.client import make_private_folder
from selfheald.config import load_config
from selfheald.errors import InitializationError, from_dict, from_os_error
from selfheald.service.account import Account
from selfheald.service.order import Order
from selfheald.service.unit_text import HOMES, is_below
from selfheald.workspace import PRIVATE_FOLDER

#: Seconds that it may take.
_SECONDS = 60.0


def rehearse(order: Order, account: Account | None) -> None:
    """Do it, as ``account`` or as oneself. Raises what the service would fail with."""
    # To a workspace in a home folder there is a way only from within a system's service, which makes its folder itself.
    roots = [str(root) for root in order.roots if account is None or not is_below(root, HOMES)]
    if account is None:
        make_folders(roots)
        return
    request = json.dumps({"config": order.given.config, "roots": roots})
    command = [str(order.python), "-m", "selfheald.service.rehearsal", request]
    try:
        done = subprocess.run(
            command,
            cwd="/",
            env={"PATH": "/usr/bin:/bin", "HOME": account.home, "PYTHONDONTWRITEBYTECODE": "1"},
            user=account.uid,
            group=account.gid,
            extra_groups=sorted(account.all_groups),
            umask=0o002,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise _cannot_run(order, account, str(error)) from error
    try:
        error_record = json.loads(done.stdout)
    except ValueError:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise _cannot_run(order, account, lines[-1] if lines else f"exit code {done.returncode}") from None
    if error_record is not None:
        raise from_dict(error_record)


def make_folders(roots: Sequence[str]) -> None:
    """Make the ``.selfheald`` of each root. Raises :class:`InitializationError`."""
    for root in roots:
        folder = Path(root) / PRIVATE_FOLDER
        try:
            make_private_folder(folder)
        except OSError as error:
            raise from_os_error(error, folder, "make") from error


def main(request: str) -> None:
    """Answer a request on stdout."""
    wanted = json.loads(request)
    answer = None
    try:
        load_config(wanted["config"], {"watch.roots": wanted["roots"]})
        make_folders(wanted["roots"])
    except InitializationError as error:
        answer = error.as_dict()
    sys.stdout.write(json.dumps(answer))


def _cannot_run(order: Order, account: Account, why: str) -> InitializationError:
    return InitializationError(
        f"user {account.name} cannot run {order.python} -m selfheald: {why}",
        code="permission_denied",
        path=order.python,
        hint=f"Install selfheald where {account.name} may read it, such as /opt/selfheald, and call it from there.",
    )


if __name__ == "__main__":
    main(sys.argv[1])
