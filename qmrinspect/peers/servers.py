"""Programs that stand behind a device
------------------------------------

The other ends of the sockets that some devices need: an ivshmem server, a
persistent-reservation helper, BrlAPI.  They say what makes the device come
up, and do no work for a guest.

Each is a function that talks to one client until that goes (:class:`EOFError`,
:class:`OSError`), for :class:`~qmrinspect.peers.peer.SocketPeer`.
"""

from __future__ import annotations

import os
import socket
import struct

__all__ = ["brlapi", "ivshmem", "pr_helper", "sink", "take"]

# docs/specs/ivshmem-spec.rst: protocol version 0; the memory's size is a power of two.
_IVSHMEM_BYTES = 1 << 20

# Of a packet whose content does not matter.
_PAYLOAD_MAX = 4096

# brlapi_protocol.h of BrlAPI: size and type of a packet, in network order.
_BRLAPI_HEADER = struct.Struct("!II")
_BRLAPI_VERSION = 8


def take(client: socket.socket, size: int) -> bytes:
    """Receive so many bytes.

    File descriptors that come along are closed by the kernel: recv() asks for none.

    :raises EOFError: the client is gone.
    """
    data = b""
    while len(data) < size:
        piece = client.recv(size - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


def ivshmem(client: socket.socket) -> None:
    """Give a client shared memory and two doorbells (docs/specs/ivshmem-spec.rst)."""
    memory = os.memfd_create("qmr-ivshmem")
    doorbell, bell = os.pipe()
    try:
        os.ftruncate(memory, _IVSHMEM_BYTES)
        client.sendall(struct.pack("<q", 0))
        client.sendall(struct.pack("<q", 0))
        _send_descriptor(client, -1, memory)
        _send_descriptor(client, 0, doorbell)
        take(client, 1)
    finally:
        for descriptor in (memory, doorbell, bell):
            os.close(descriptor)


def _send_descriptor(client: socket.socket, number: int, descriptor: int) -> None:
    rights = struct.pack("i", descriptor)
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
    client.sendmsg([struct.pack("<q", number)], ancillary)


def pr_helper(client: socket.socket) -> None:
    """Agree with QEMU on no features, as qemu-pr-helper may, and take what it sends."""
    # docs/interop/pr-helper.rst: each side says its features, none.
    client.sendall(bytes(4))
    sink(client)


def brlapi(client: socket.socket) -> None:
    """Greet as BrlAPI does, without a key, and take what QEMU sends."""
    # Each side says its version; then the server says that no key is wanted.
    client.sendall(_BRLAPI_HEADER.pack(4, ord("v")) + struct.pack("!I", _BRLAPI_VERSION))
    size, _ = _BRLAPI_HEADER.unpack(take(client, _BRLAPI_HEADER.size))
    take(client, min(size, _PAYLOAD_MAX))
    client.sendall(_BRLAPI_HEADER.pack(4, ord("a")) + struct.pack("!I", ord("N")))
    sink(client)


def sink(client: socket.socket) -> None:
    """Take whatever a client sends."""
    while client.recv(_PAYLOAD_MAX):
        pass
