"""Programs that stand behind a device
------------------------------------

The other ends of the sockets that some devices need: an ivshmem server, vhost-user
backends, a persistent-reservation helper; and the files and directories that others
need.  They say what makes the device come up, and do no work for a guest.

They run in threads of this process, and end with it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import struct
import tempfile
import threading
from pathlib import Path
from typing import Callable

__all__ = ["PLACES", "Place", "open_place"]

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

_IMAGE_BYTES = 1 << 20


class Place:
    """Something with a path that a device needs; :meth:`close` takes it away.

    :ivar path: what stands for ``{place}``.
    """

    def __init__(self, serve: Callable[[socket.socket], None] | None, name: str) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="qmr-place-"))
        self.path = str(self._directory / name) if name else str(self._directory)
        self._listener: socket.socket | None = None
        self._clients: list[socket.socket] = []
        if serve is None:
            return
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(self.path)
        self._listener.listen(8)
        threading.Thread(target=self._accept, args=(serve,), name="qmr-place", daemon=True).start()

    def _accept(self, serve: Callable[[socket.socket], None]) -> None:
        assert self._listener is not None
        with contextlib.suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                self._clients.append(client)
                threading.Thread(target=_serve, args=(serve, client), daemon=True).start()

    def close(self) -> None:
        """End the program and remove its files; harmless when repeated."""
        if self._listener is not None:
            # A close alone would not wake the thread that waits in accept().
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        for client in self._clients:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        shutil.rmtree(self._directory, ignore_errors=True)


def open_place(kind: str) -> Place:
    """Make a place of a kind that :data:`PLACES` names.

    :raises OSError: no file or socket can be made.
    """
    serve, name = PLACES[kind]
    place = Place(serve, name)
    if kind == "image":
        Path(place.path).write_bytes(bytes(_IMAGE_BYTES))
    elif kind == "keys":
        # As psktool writes it: a user, and a key in hexadecimal.
        Path(place.path, "keys.psk").write_text("qemu:0123456789abcdef0123456789abcdef\n")
    return place


def _serve(serve: Callable[[socket.socket], None], client: socket.socket) -> None:
    with contextlib.suppress(OSError, EOFError), client:
        serve(client)


def _take(client: socket.socket, size: int) -> bytes:
    # File descriptors that come along are closed by the kernel: recv() asks for none.
    data = b""
    while len(data) < size:
        piece = client.recv(size - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


def _vhost_user(client: socket.socket) -> None:
    while True:
        request, flags, size = _HEADER.unpack(_take(client, _HEADER.size))
        if flags & 3 != _VERSION or size > _PAYLOAD_MAX:
            return  # no vhost-user
        payload = _take(client, size)
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
        # The device's configuration, all ones: numbers of queues must not be zero.
        return payload[:12] + b"\1" * (len(payload) - 12)
    return None


def _ivshmem(client: socket.socket) -> None:
    memory = os.memfd_create("qmr-ivshmem")
    doorbell = os.pipe()[0]
    try:
        os.ftruncate(memory, _IVSHMEM_BYTES)
        client.sendall(struct.pack("<q", 0))
        client.sendall(struct.pack("<q", 0))
        _send_descriptor(client, -1, memory)
        _send_descriptor(client, 0, doorbell)
        _take(client, 1)
    finally:
        os.close(memory)
        os.close(doorbell)


def _send_descriptor(client: socket.socket, number: int, descriptor: int) -> None:
    rights = struct.pack("i", descriptor)
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
    client.sendmsg([struct.pack("<q", number)], ancillary)


def _pr_helper(client: socket.socket) -> None:
    # docs/interop/pr-helper.rst: each side says its features, none.
    client.sendall(bytes(4))
    while client.recv(_PAYLOAD_MAX):
        pass


#: Kinds of places: who serves the socket, and the name below the directory.
PLACES: dict[str, tuple[Callable[[socket.socket], None] | None, str]] = {
    "directory": (None, ""),
    "image": (None, "image"),
    "keys": (None, ""),
    "ivshmem": (_ivshmem, "socket"),
    "pr-helper": (_pr_helper, "socket"),
    "vhost-user": (_vhost_user, "socket"),
}
