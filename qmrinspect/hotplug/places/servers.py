"""Programs that stand behind a device
------------------------------------

The other ends of the sockets that some devices need: an ivshmem server, vhost-user
backends, a persistent-reservation helper, BrlAPI.  They say what makes the device come
up, and do no work for a guest.

Each is a function that talks to one client until that goes (:class:`EOFError`,
:class:`OSError`), for :class:`~qmrinspect.hotplug.places.place.SocketPlace`.
"""

from __future__ import annotations

import os
import socket
import struct

__all__ = ["brlapi", "ivshmem", "pr_helper", "sink", "take", "vhost_user"]

# docs/interop/vhost-user.rst: request, flags, size of the payload.
_HEADER = struct.Struct("=III")
_VERSION, _REPLY, _NEED_REPLY = 1, 4, 8
# VHOST_USER_F_PROTOCOL_FEATURES and VIRTIO_F_VERSION_1.
_FEATURES = 1 << 30 | 1 << 32
# MQ, REPLY_ACK and CONFIG.
_PROTOCOL_FEATURES = 1 << 0 | 1 << 3 | 1 << 9
_QUEUES = 64
_GET_FEATURES, _GET_VRING_BASE, _GET_PROTOCOL_FEATURES = 1, 11, 15
_GET_QUEUE_NUM, _GET_CONFIG, _GET_MAX_MEM_SLOTS = 17, 24, 36
_PAYLOAD_MAX = 4096

# docs/specs/ivshmem-spec.rst: protocol version 0; the memory's size is a power of two.
_IVSHMEM_BYTES = 1 << 20

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


def vhost_user(client: socket.socket) -> None:
    while True:
        request, flags, size = _HEADER.unpack(take(client, _HEADER.size))
        if flags & 3 != _VERSION or size > _PAYLOAD_MAX:
            return  # no vhost-user
        payload = take(client, size)
        answer = _answer(request, payload)
        if answer is None and flags & _NEED_REPLY:
            answer = struct.pack("=Q", 0)
        if answer is not None:
            client.sendall(_HEADER.pack(request, _VERSION | _REPLY, len(answer)) + answer)


def _answer(request: int, payload: bytes) -> bytes | None:
    if request == _GET_FEATURES:
        return struct.pack("=Q", _FEATURES)
    if request == _GET_PROTOCOL_FEATURES:
        return struct.pack("=Q", _PROTOCOL_FEATURES)
    if request in (_GET_QUEUE_NUM, _GET_MAX_MEM_SLOTS):
        return struct.pack("=Q", _QUEUES)
    if request == _GET_VRING_BASE:
        return payload[:4] + bytes(4)
    if request == _GET_CONFIG:
        # The device's configuration, mostly ones: numbers of queues must not be zero.  A disk
        # of no size (struct virtio_blk_config) is one that no guest reads.
        content = bytes(8) + b"\1" * len(payload)
        return payload[:12] + content[: len(payload) - 12]
    return None


def ivshmem(client: socket.socket) -> None:
    memory = os.memfd_create("qmr-ivshmem")
    doorbell = os.pipe()[0]
    try:
        os.ftruncate(memory, _IVSHMEM_BYTES)
        client.sendall(struct.pack("<q", 0))
        client.sendall(struct.pack("<q", 0))
        _send_descriptor(client, -1, memory)
        _send_descriptor(client, 0, doorbell)
        take(client, 1)
    finally:
        os.close(memory)
        os.close(doorbell)


def _send_descriptor(client: socket.socket, number: int, descriptor: int) -> None:
    rights = struct.pack("i", descriptor)
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
    client.sendmsg([struct.pack("<q", number)], ancillary)


def pr_helper(client: socket.socket) -> None:
    # docs/interop/pr-helper.rst: each side says its features, none.
    client.sendall(bytes(4))
    sink(client)


def brlapi(client: socket.socket) -> None:
    # Each side says its version; then the server says that no key is wanted.
    client.sendall(_BRLAPI_HEADER.pack(4, ord("v")) + struct.pack("!I", _BRLAPI_VERSION))
    size, _ = _BRLAPI_HEADER.unpack(take(client, _BRLAPI_HEADER.size))
    take(client, min(size, _PAYLOAD_MAX))
    client.sendall(_BRLAPI_HEADER.pack(4, ord("a")) + struct.pack("!I", ord("N")))
    sink(client)


def sink(client: socket.socket) -> None:
    while client.recv(_PAYLOAD_MAX):
        pass
