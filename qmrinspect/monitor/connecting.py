"""Connecting to a monitor
-----------------------

What every way to a QMP socket shares: the connection, the greeting, and the words
of every failure.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import struct
import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Callable

from ..errors import MonitorError
from ..target.proc import stopped
from .addresses import Address, Inside, address_text, parse_address
from .base import (
    GREETING_TIMEOUT,
    CommandError,
    Monitor,
    MonitorBusy,
    MonitorLost,
    MonitorTimeout,
    QueuedMonitor,
)
from .netns import connect_inside
from .sockets import owner_of

__all__ = [
    "SocketMonitor",
    "answers",
    "busy_error",
    "check_greeting",
    "closed_error",
    "connect_first",
    "connect_socket",
    "garbled_error",
    "late_error",
    "lost_error",
    "peer_pid",
    "reply_error",
    "version_in",
]

# Seconds between attempts to enter a socket's backlog.
_BACKLOG_POLL = 0.01
# Bytes of a unix socket's path.
_SUN_PATH_MAX = 107

# A greeting is some 200 bytes.
_GREETING_MAX = 65536


class SocketMonitor(QueuedMonitor):
    """A QMP session on a stream socket.

    :param address: what :func:`~qmrinspect.monitor.addresses.parse_address` takes or returns.
    :param timeout: seconds for the connection and the greeting.
    :param backlog: how many events are kept until somebody takes them.
    :raises MonitorError: it cannot be reached, is held, or is no QMP monitor.
    """

    def __init__(
        self, address: str | Address, timeout: float = GREETING_TIMEOUT, backlog: int = 4096
    ) -> None:
        super().__init__(backlog)
        where = parse_address(address) if isinstance(address, str) else address
        self.address = address_text(where)
        self.version: str | None = None
        self._socket = connect_socket(where, timeout)
        self.passes_descriptors = self._socket.family == socket.AF_UNIX
        self._negotiate(timeout)

    @abstractmethod
    def _negotiate(self, timeout: float) -> None:
        """Take the greeting and leave negotiation mode; close the socket when that fails."""


def connect_first(addresses: Sequence[str], connect: Callable[[str], Monitor]) -> Monitor:
    """Connect to the first of a QEMU's monitors that no other client holds.

    :raises MonitorError: as ``connect`` does for the last one, or for any that is not busy.
    """
    for address in addresses[:-1]:
        try:
            return connect(address)
        except MonitorBusy:
            continue
    return connect(addresses[-1])


def connect_socket(address: Address, timeout: float) -> socket.socket:
    """Connect a stream socket.

    :param timeout: in seconds.
    :raises MonitorError: nobody listens, it is not permitted, or the queue is full.
    """
    try:
        if isinstance(address, Inside):
            place = address[1:]
            return connect_inside(
                address.namespace, lambda: socket.create_connection(place, timeout)
            )
        if not isinstance(address, str):
            return socket.create_connection(address, timeout)
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            stream.settimeout(timeout)
            _connect_unix(stream, address, timeout)
        except BaseException:
            stream.close()
            raise
        return stream
    except (OSError, ValueError) as error:
        raise _connect_error(address_text(address), timeout, error) from error


def _connect_error(address: str, timeout: float, error: Exception) -> MonitorError:
    if isinstance(error, (socket.timeout, BlockingIOError)):
        return busy_error(address, timeout)
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.ENOENT:
        return MonitorError(f"there is no monitor socket {address}", "is QEMU still running?")
    if number == errno.ECONNREFUSED:
        return MonitorError(
            f"nobody listens on the monitor {address}", "its QEMU has gone, or has not started"
        )
    if number in (errno.EACCES, errno.EPERM):
        return MonitorError(
            f"no permission to connect to the monitor {address}", "run qmr as QEMU's user or root"
        )
    if "path too long" in str(error):
        # Python finds this one itself, and gives it no number.
        return MonitorError(
            f"the monitor's path is too long for a unix socket: {address}",
            "reach it through a shorter symbolic link to its directory",
        )
    return MonitorError(
        f"cannot connect to the monitor {address}: {getattr(error, 'strerror', None) or error}",
        "check the address that was given",
    )


def _connect_unix(stream: socket.socket, path: str, timeout: float) -> None:
    # EAGAIN is a full backlog (unix(7)).  QEMU's holds one or two, and clients that gave
    # up stay in it until QEMU comes to them: right after a session this passes by itself.
    deadline = time.monotonic() + timeout
    directory = None
    if path.startswith("/proc/") and len(os.fsencode(path)) > _SUN_PATH_MAX:
        # QEMU's own name for it, in its container, is short enough.
        directory = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY)
        path = f"/proc/self/fd/{directory}/{os.path.basename(path)}"
    try:
        _connect_patiently(stream, path, deadline)
    finally:
        if directory is not None:
            os.close(directory)


def _connect_patiently(stream: socket.socket, path: str, deadline: float) -> None:
    while True:
        try:
            stream.connect(path)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_BACKLOG_POLL)


def check_greeting(message: object, address: str) -> str | None:
    """Return QEMU's version out of its greeting, None when that does not say.

    :raises MonitorLost: it is no greeting.
    """
    if not isinstance(message, Mapping) or not isinstance(message.get("QMP"), Mapping):
        raise garbled_error(address, json.dumps(message).encode())
    return version_in(message["QMP"].get("version"))


def version_in(version: object) -> str | None:
    """Return the number in what QEMU says of its version (``VersionInfo``), None for none."""
    number = version.get("qemu") if isinstance(version, Mapping) else None
    if not isinstance(number, Mapping) or "major" not in number:
        return None
    return ".".join(str(number.get(part, 0)) for part in ("major", "minor", "micro"))


def answers(address: str, timeout: float) -> bool:
    """Whether a QEMU answers at an address: its machine is made, and no other client is there.

    It greets before ``-device`` is done with, and takes the first command after it.

    :param timeout: seconds for the connection, the greeting and an answer.
    :raises MonitorLost: what is there speaks no QMP.
    """
    deadline = time.monotonic() + timeout
    got = b""
    try:
        with connect_socket(parse_address(address), timeout) as stream:
            for lines in (1, 2):
                while got.count(b"\n") < lines and len(got) < _GREETING_MAX:
                    stream.settimeout(max(0.001, deadline - time.monotonic()))
                    piece = stream.recv(_GREETING_MAX)
                    if not piece:
                        return False
                    got += piece
                if lines == 1:
                    stream.sendall(b'{"execute": "qmp_capabilities"}\n')
    except (MonitorError, OSError):
        return False
    try:
        check_greeting(json.loads(got.partition(b"\n")[0]), address)
    except ValueError:
        raise garbled_error(address, got) from None
    return True


def busy_error(address: str, timeout: float, pid: int | None = None) -> MonitorBusy:
    """Say that a listener does not greet; a stopped process is distinguished from a busy one."""
    if pid and stopped(pid):
        return MonitorBusy(
            f"the monitor {address} does not answer: process {pid} is stopped",
            "let it run (continue in its debugger, or kill -CONT), then try again",
        )
    return MonitorBusy(
        f"the monitor {address} is held by another client (no greeting within {timeout:g} s)",
        "QEMU serves one client at a time: close the other one, or start QEMU with a second "
        "-qmp socket" + ("" if pid else "; if a debugger has stopped QEMU, let it run"),
    )


def peer_pid(stream: socket.socket) -> int | None:
    """Return the process that called listen(), None when unknown: SO_PEERCRED in unix(7).

    Of a TCP connection within this machine it is the one that has the other end.
    """
    if stream.family != socket.AF_UNIX:
        return owner_of(stream)
    try:
        packed = stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    except OSError:
        return None
    return int(struct.unpack("3i", packed)[0]) or None


def garbled_error(address: str, raw: bytes) -> MonitorLost:
    """Say what came that is no QMP, shortly."""
    shown = raw[:60].decode("utf-8", "replace").strip()
    return MonitorLost(
        f"the monitor {address} does not speak QMP: it sent {shown!r}",
        "name a -qmp socket, not one of -monitor, -serial or -gdb",
    )


def lost_error(address: str, during: str | None = None) -> MonitorLost:
    """Say that the other side closed the connection, during a command maybe."""
    where = f" during {during}" if during is not None else ""
    return MonitorLost(
        f"the monitor {address} was closed by the other side{where}",
        "QEMU has died or quit; its own last message says why",
    )


def closed_error(address: str) -> MonitorLost:
    """Say that it was closed on this side."""
    return MonitorLost(f"the monitor {address} is closed", "open it again")


def late_error(address: str, command: str, timeout: float) -> MonitorTimeout:
    """Say that no answer came while the connection stands."""
    return MonitorTimeout(
        f"QEMU did not answer {command} within {timeout:g} s on the monitor {address}",
        "it hangs, or is stopped by a debugger",
    )


def reply_error(command: str, error: object) -> CommandError:
    """Return QEMU's refusal from the ``error`` member of a reply."""
    members: Mapping[str, Any] = error if isinstance(error, Mapping) else {}
    return CommandError(
        command, str(members.get("class", "GenericError")), str(members.get("desc", error))
    )
