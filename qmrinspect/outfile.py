"""Files that qmr writes
---------------------

What is in them is of somebody's VM, so that they are the user's alone.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from .errors import TargetError

__all__ = ["open_private", "probe", "probe_directory", "unwritable", "write"]

_MODE = 0o600


def open_private(path: str, flags: int) -> int:
    """Open a file for its owner alone; an ``opener`` of :func:`open`."""
    handle = os.open(path, flags | os.O_CLOEXEC, _MODE)
    if stat.S_ISREG(os.fstat(handle).st_mode) and flags & (os.O_WRONLY | os.O_RDWR):
        with contextlib.suppress(PermissionError):  # another user's, and open to us
            os.fchmod(handle, _MODE)
    return handle


def unwritable(path: str | Path, error: OSError) -> TargetError:
    """Return the failure to write a file."""
    return TargetError(f"{path} cannot be written: {error.strerror or error}")


def probe(*paths: str | Path | None) -> None:
    """Find out, before the work begins, whether files can be written when it is done.

    :param paths: None is left out.
    :raises TargetError: one cannot.
    """
    for path in map(str, filter(None, paths)):
        there = os.path.lexists(path)
        try:
            os.close(open_private(path, os.O_WRONLY | os.O_CREAT))
            if not there:
                os.unlink(path)
        except OSError as error:
            raise unwritable(path, error) from None


def probe_directory(path: str) -> None:
    """Make a directory for files of ours, and find out whether it can be written to.

    :raises TargetError: it cannot.
    """
    try:
        os.makedirs(path, 0o700, exist_ok=True)
    except OSError as error:
        raise unwritable(path, error) from None
    probe(os.path.join(path, ".qmr-probe"))


def write(path: str | Path, content: str | bytes) -> None:
    """Write a file.

    :raises TargetError: it cannot be written.
    """
    raw = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    try:
        with open(path, "wb", opener=open_private) as file:
            file.write(raw)
    except OSError as error:
        raise unwritable(path, error) from None
