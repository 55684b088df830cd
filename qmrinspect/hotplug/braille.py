"""A braille terminal
------------------

QEMU connects to BrlAPI at its one well-known socket (``baum_chr_open()``,
chardev/baum.c).  Where nobody serves that, it is served here for the moment: brltty
would load kernel modules and look for terminals.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path

from . import servers
from .daemons import answers
from .places import Place, PlaceMissing, SocketPlace

__all__ = ["braille"]

# BRLAPI_SOCKETPATH; 0 is the number of the default server.
_SOCKETS = Path("/var/lib/BrlAPI")
_SOCKET = _SOCKETS / "0"

# Seconds to wait for another hunt that plays the server.
_PATIENCE_S = 20.0
_POLL_S = 0.02


def braille() -> Place:
    """Return the server that runs, or play it.

    :raises PlaceMissing: the socket cannot be made.
    """
    lock = _lock()
    try:
        if answers(_SOCKET):
            os.close(lock)
            return Place()
        # What nobody listens on was left by a server that was killed.
        with contextlib.suppress(FileNotFoundError):
            _SOCKET.unlink()
        return _Braille(lock)
    except OSError as error:
        os.close(lock)
        raise PlaceMissing(f"needs BrlAPI's socket {_SOCKET} ({error.strerror})") from None


def _lock() -> int:
    try:
        lock = os.open(_SOCKETS, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        raise PlaceMissing(
            f"needs BrlAPI's directory {_SOCKETS} (Debian: apt-get install brltty)"
        ) from None
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except OSError:
            if time.monotonic() > deadline:
                os.close(lock)
                raise PlaceMissing(f"needs BrlAPI's socket {_SOCKET}, which is in use") from None
        time.sleep(_POLL_S)


class _Braille(SocketPlace):
    def __init__(self, lock: int) -> None:
        self._lock = -1
        super().__init__(servers.brlapi, str(_SOCKET))
        self._lock = lock

    def close(self) -> None:
        super().close()
        lock, self._lock = self._lock, -1
        if lock >= 0:
            _SOCKET.unlink(missing_ok=True)
            os.close(lock)
