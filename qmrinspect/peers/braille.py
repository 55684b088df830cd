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

from ..errors import PeerMissing
from . import servers
from .daemons import answers
from .peer import Peer, SocketPeer

__all__ = ["braille"]

# BRLAPI_SOCKETPATH; 0 is the number of the default server.
_SOCKETS = Path("/var/lib/BrlAPI")
_SOCKET = _SOCKETS / "0"

# Seconds to wait for another hunt that serves it.
_PATIENCE_S = 20.0
_POLL_S = 0.02


def braille() -> Peer:
    """Return the server that runs, or play it.

    :raises PeerMissing: the socket cannot be made.
    """
    lock, made = _lock()
    try:
        if answers(_SOCKET):
            os.close(lock)
            return Peer()
        # What nobody listens on was left by a server that was killed.
        with contextlib.suppress(FileNotFoundError):
            _SOCKET.unlink()
        return _Braille(lock, made)
    except OSError as error:
        os.close(lock)
        raise PeerMissing(f"needs BrlAPI's socket {_SOCKET} ({error.strerror})") from None


def _lock() -> tuple[int, bool]:
    """Return a descriptor of the sockets' directory, locked, and whether it was made for us."""
    deadline = time.monotonic() + _PATIENCE_S
    made = False
    while True:
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(_SOCKETS)
                made = True
            lock = os.open(_SOCKETS, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise PeerMissing(f"needs BrlAPI's directory {_SOCKETS} ({error.strerror})") from None
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever had it before may have removed the directory.
            if os.fstat(lock).st_nlink:
                return lock, made
        os.close(lock)
        if time.monotonic() > deadline:
            raise PeerMissing(f"needs BrlAPI's socket {_SOCKET}, which is in use")
        time.sleep(_POLL_S)


class _Braille(SocketPeer):
    def __init__(self, lock: int, made: bool) -> None:
        self._lock: int | None = None
        self._made = made
        super().__init__(servers.brlapi, str(_SOCKET))
        self._lock = lock

    def close(self) -> None:
        super().close()
        lock, self._lock = self._lock, None
        if lock is not None:
            _SOCKET.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                if self._made:
                    _SOCKETS.rmdir()
            os.close(lock)
