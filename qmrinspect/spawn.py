"""Programs that end with us
-------------------------
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from .errors import TargetError

__all__ = ["spawn"]

# PR_SET_PDEATHSIG of <linux/prctl.h>.
_PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)


def spawn(
    argv: list[str],
    stderr: Path,
    pass_fds: Iterable[int] = (),
    stdin: int = subprocess.DEVNULL,
) -> subprocess.Popen[bytes]:
    """Start a program that the kernel kills when the *thread* that calls this ends.

    :param stderr: the file that takes what it writes.
    :param pass_fds: descriptors that it inherits.
    :param stdin: as for :class:`subprocess.Popen`.
    :raises TargetError: it cannot be started.
    """
    parent = os.getpid()

    def die_with_parent() -> None:
        # Runs between fork and exec: nothing here may take a lock.
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(127)

    try:
        with open(stderr, "wb") as errors:
            return subprocess.Popen(
                argv,
                stdin=stdin,
                stdout=errors,
                stderr=errors,
                # The servers that QEMU is to find are on this machine (block/curl.c).  Until 2.76
                # GLib gives out parts of blocks itself, of which malloc does not know.
                env={"G_SLICE": "always-malloc", **os.environ, "no_proxy": "127.0.0.1"},
                # Ctrl-C in a terminal is for us, and must not reach the program.
                start_new_session=True,
                preexec_fn=die_with_parent if sys.platform == "linux" else None,
                pass_fds=tuple(pass_fds),
            )
    except OSError as error:
        raise TargetError(f"cannot start {argv[0]}: {error.strerror}") from error
