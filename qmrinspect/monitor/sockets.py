"""Who has the other end of a TCP connection
-----------------------------------------

Found in ``/proc``, for connections within this machine.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct

from ..target.proc import pids
from .netns import namespace_of

__all__ = ["owner_of"]


def owner_of(stream: socket.socket) -> int | None:
    """Return the process that has the other end of a TCP connection, None when none is seen."""
    try:
        near, far = stream.getsockname()[:2], stream.getpeername()[:2]
        inode = _inode(namespace_of(stream), far, near)
    except (OSError, ValueError):
        return None
    if inode is None:
        return None
    wanted = f"socket:[{inode}]"
    for pid in pids():
        with contextlib.suppress(OSError):
            for descriptor in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    if os.readlink(f"/proc/{pid}/fd/{descriptor}") == wanted:
                        return pid
    return None


def _inode(network: str, local: tuple[str, int], remote: tuple[str, int]) -> int | None:
    """Return the inode of the socket with these ends (``/proc/net/tcp`` in proc(5)).

    :param network: the directory in ``/proc`` of its network.
    """
    # A listener on :: has the ends of an IPv4 connection in its own form.
    mapped = [
        (f"::ffff:{host}" if ":" not in host else host, port) for host, port in (local, remote)
    ]
    wanted = {f"{_end(local)} {_end(remote)}", f"{_end(mapped[0])} {_end(mapped[1])}"}
    for table in (f"{network}/tcp", f"{network}/tcp6"):
        with contextlib.suppress(OSError), open(table, encoding="ascii") as lines:
            for line in lines:
                fields = line.split()
                if len(fields) > 9 and f"{fields[1]} {fields[2]}" in wanted:
                    return int(fields[9])
    return None


def _end(place: tuple[str, int]) -> str:
    host, port = place
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    packed = socket.inet_pton(family, host.partition("%")[0])
    # Words in the byte order of the machine, which is little-endian here.
    words = struct.unpack(f"<{len(packed) // 4}I", packed)
    return "".join(f"{word:08X}" for word in words) + f":{port:04X}"
