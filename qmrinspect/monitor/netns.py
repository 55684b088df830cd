"""Sockets in other network namespaces
-----------------------------------

A QEMU in a container listens on addresses of its own network.  A thread that joins that
network for a moment connects there; the socket stays what it is wherever it is used.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from typing import TYPE_CHECKING, Callable

from ..errors import MonitorError
from ..target.proc import pids

if TYPE_CHECKING:
    import socket

__all__ = ["connect_inside", "is_elsewhere", "namespace_of"]

_CLONE_NEWNET = 0x40000000
_SIOCGSKNS = 0x894C  # linux/sockios.h
_OWN = "/proc/self/ns/net"


def is_elsewhere(pid: int) -> bool:
    """Whether a process is in another network namespace than this one."""
    try:
        return not os.path.samefile(f"/proc/{pid}/ns/net", _OWN)
    except OSError:
        return False


def connect_inside(namespace: str, connect: Callable[[], socket.socket]) -> socket.socket:
    """Connect as ``connect`` does, from within a network namespace.

    :param namespace: a path, ``/proc/PID/ns/net``.
    :raises MonitorError: it may not be joined.
    :raises OSError: as ``connect`` does.
    """
    done: list[socket.socket] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            _join(namespace)
            done.append(connect())
        except BaseException as error:
            failed.append(error)

    # Only this thread leaves the namespace of the program.
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return done[0]


def _join(namespace: str) -> None:
    import ctypes

    try:
        fd = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise MonitorError(
            f"there is no network {namespace}", "is its process still running?"
        ) from None
    except OSError as error:
        raise _refused(namespace, error) from None
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(fd, _CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise _refused(namespace, OSError(number, os.strerror(number)))
    finally:
        os.close(fd)


def _refused(namespace: str, error: OSError) -> MonitorError:
    return MonitorError(
        f"the monitor is in another network, {namespace}, which cannot be joined: {error.strerror}",
        "run qmr as root, or name a monitor that can be reached from here with --qmp",
    )


def namespace_of(stream: socket.socket) -> str:
    """Return the directory in ``/proc`` that shows the network of a socket."""
    try:
        fd = fcntl.ioctl(stream.fileno(), _SIOCGSKNS)
    except OSError:
        return "/proc/self/net"
    try:
        wanted = os.fstat(fd)
        if os.path.samestat(wanted, os.stat(_OWN)):
            return "/proc/self/net"
        for pid in pids():
            with contextlib.suppress(OSError):
                if os.path.samestat(wanted, os.stat(f"/proc/{pid}/ns/net")):
                    return f"/proc/{pid}/net"
    finally:
        os.close(fd)
    return "/proc/self/net"
