"""A vhost-user backend
--------------------

Says what makes any vhost-user device come up, and answers what a guest's driver asks at
its start: that there is nothing behind the device.  Without a guest its queues stay
idle.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import selectors
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

from .servers import take

__all__ = ["vhost_user"]

# docs/interop/vhost-user.rst: request, flags, size of the payload.
_HEADER = struct.Struct("=III")
_VERSION, _REPLY, _NEED_REPLY = 1, 4, 8
# VHOST_USER_F_PROTOCOL_FEATURES and VIRTIO_F_VERSION_1.
_FEATURES = 1 << 30 | 1 << 32
# MQ, REPLY_ACK and CONFIG.
_PROTOCOL_FEATURES = 1 << 0 | 1 << 3 | 1 << 9
_QUEUES = 64
_GET_FEATURES, _GET_PROTOCOL_FEATURES, _GET_QUEUE_NUM = 1, 15, 17
_GET_CONFIG, _GET_MAX_MEM_SLOTS = 24, 36
_SET_MEM_TABLE, _SET_VRING_NUM, _SET_VRING_ADDR, _SET_VRING_BASE = 5, 8, 9, 10
_GET_VRING_BASE, _SET_VRING_KICK, _SET_VRING_CALL = 11, 12, 13
_PAYLOAD_MAX = 4096
_DESCRIPTORS_MAX = 8

# A memory region: guest and QEMU's address, size, offset in the file.
_REGION = struct.Struct("=QQQQ")
_RING_ADDRESSES = struct.Struct("=II4Q")
_NO_DESCRIPTOR = 1 << 8

# Virtio 1.2, 2.7: a descriptor; the queue's size is 32768 at most.
_DESCRIPTOR = struct.Struct("<QIHH")
_NEXT, _WRITE = 1, 2
_SIZE_MAX = 32768

# The first bytes of every answer: in struct virtio_scsi_cmd_resp "there is no such target",
# and success elsewhere.
_ANSWER = bytes(11) + b"\3"


class _Region(NamedTuple):
    guest: int
    user: int
    size: int
    offset: int
    memory: mmap.mmap


class _Ring:
    def __init__(self) -> None:
        self.size = self.seen = 0
        self.table = self.used = self.available = 0
        self.kick: int | None = None
        self.call: int | None = None


class _Backend:
    """One session.  Whatever in the guest's memory makes no sense ends it."""

    def __init__(self, client: socket.socket) -> None:
        self._client = client
        self._regions: list[_Region] = []
        self._rings: dict[int, _Ring] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(client, selectors.EVENT_READ)

    def run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    self._message()
                else:
                    os.read(key.fd, 8)
                    self._serve(key.data)

    def close(self) -> None:
        for ring in self._rings.values():
            self._take(ring, "kick", None)
            self._take(ring, "call", None)
        self._selector.close()
        self._unmap()

    def _unmap(self) -> None:
        while self._regions:
            self._regions.pop().memory.close()

    # Messages ---------------------------------------------------------------------

    def _message(self) -> None:
        head, descriptors, _, _ = socket.recv_fds(self._client, _HEADER.size, _DESCRIPTORS_MAX)
        try:
            head += take(self._client, _HEADER.size - len(head)) if head else b""
            if not head:
                raise EOFError
            request, flags, size = _HEADER.unpack(head)
            if flags & 3 != _VERSION or size > _PAYLOAD_MAX:
                raise EOFError  # no vhost-user
            payload = take(self._client, size)
            answer = self._answer(request, payload, descriptors)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        if answer is None and flags & _NEED_REPLY:
            answer = struct.pack("=Q", 0)
        if answer is not None:
            self._client.sendall(_HEADER.pack(request, _VERSION | _REPLY, len(answer)) + answer)

    def _answer(self, request: int, payload: bytes, descriptors: list[int]) -> bytes | None:
        if request == _GET_FEATURES:
            return struct.pack("=Q", _FEATURES)
        if request == _GET_PROTOCOL_FEATURES:
            return struct.pack("=Q", _PROTOCOL_FEATURES)
        if request in (_GET_QUEUE_NUM, _GET_MAX_MEM_SLOTS):
            return struct.pack("=Q", _QUEUES)
        if request == _GET_CONFIG:
            # The device's configuration, mostly ones: numbers of queues must not be zero.  A
            # disk of no size (struct virtio_blk_config) is one that no guest reads.
            content = bytes(8) + b"\1" * len(payload)
            return payload[:12] + content[: len(payload) - 12]
        if request == _SET_MEM_TABLE:
            self._unmap()
            for number, descriptor in enumerate(descriptors):
                guest, size, user, offset = _REGION.unpack_from(payload, 8 + number * _REGION.size)
                memory = mmap.mmap(descriptor, size + offset)
                self._regions.append(_Region(guest, user, size, offset, memory))
        elif _SET_VRING_NUM <= request <= _SET_VRING_CALL:
            return self._set(request, payload, descriptors)
        return None

    def _set(self, request: int, payload: bytes, descriptors: list[int]) -> bytes | None:
        (number,) = struct.unpack_from("=I", payload)
        if request in (_SET_VRING_KICK, _SET_VRING_CALL):
            number &= _NO_DESCRIPTOR - 1
        ring = self._rings.setdefault(number, _Ring()) if number < _QUEUES else _Ring()
        if request == _SET_VRING_NUM:
            ring.size = struct.unpack_from("=I", payload, 4)[0] % (_SIZE_MAX + 1)
        elif request == _SET_VRING_BASE:
            ring.seen = struct.unpack_from("=I", payload, 4)[0] & 0xFFFF
        elif request == _SET_VRING_ADDR:
            _, _, ring.table, ring.used, ring.available, _ = _RING_ADDRESSES.unpack(payload)
        elif request == _GET_VRING_BASE:
            self._take(ring, "kick", None)
            return struct.pack("=II", number, ring.seen)
        else:
            name = "kick" if request == _SET_VRING_KICK else "call"
            self._take(ring, name, os.dup(descriptors[0]) if descriptors else None)
            if name == "call":
                # An answer on its way has called by the old one, and QEMU looks at that no more
                # (vu_set_vring_call_exec(), libvhost-user.c).
                self._call(ring)
        return None

    def _take(self, ring: _Ring, name: str, descriptor: int | None) -> None:
        old: int | None = getattr(ring, name)
        if old is not None:
            if name == "kick":
                self._selector.unregister(old)
            os.close(old)
        setattr(ring, name, descriptor)
        if name == "kick" and descriptor is not None:
            self._selector.register(descriptor, selectors.EVENT_READ, ring)

    # Queues -----------------------------------------------------------------------

    def _serve(self, ring: _Ring) -> None:
        """Answer what is new in a queue."""
        if not ring.size:
            return
        at, memory = self._user(ring.available, 4 + 2 * ring.size)
        (newest,) = struct.unpack_from("<H", memory, at + 2)
        answered = False
        while ring.seen != newest:
            (head,) = struct.unpack_from("<H", memory, at + 4 + 2 * (ring.seen % ring.size))
            ring.seen = (ring.seen + 1) & 0xFFFF
            answered = self._reply(ring, head) or answered
        if answered:
            self._call(ring)

    @staticmethod
    def _call(ring: _Ring) -> None:
        if ring.call is not None:
            os.write(ring.call, struct.pack("=Q", 1))

    def _reply(self, ring: _Ring, head: int) -> bool:
        """Answer one request; say whether it was one."""
        chain = list(self._chain(ring, head))
        # A chain with nothing to read is a buffer for what never comes.
        room = next(((a, n) for a, n, flags in chain if flags & _WRITE), None)
        if room is None or all(flags & _WRITE for _, _, flags in chain):
            return False
        address, length = room
        answer = _ANSWER[:length]
        at, memory = self._guest(address, len(answer))
        memory[at : at + len(answer)] = answer
        at, memory = self._user(ring.used, 4 + 8 * ring.size)
        (count,) = struct.unpack_from("<H", memory, at + 2)
        struct.pack_into("<II", memory, at + 4 + 8 * (count % ring.size), head, len(answer))
        struct.pack_into("<H", memory, at + 2, (count + 1) & 0xFFFF)
        return True

    def _chain(self, ring: _Ring, head: int) -> Iterator[tuple[int, int, int]]:
        at, memory = self._user(ring.table, _DESCRIPTOR.size * ring.size)
        for _ in range(ring.size):
            where = at + _DESCRIPTOR.size * (head % ring.size)
            address, length, flags, head = _DESCRIPTOR.unpack_from(memory, where)
            yield address, length, flags
            if not flags & _NEXT:
                return

    def _guest(self, address: int, size: int) -> tuple[int, mmap.mmap]:
        return self._locate([(region.guest, region) for region in self._regions], address, size)

    def _user(self, address: int, size: int) -> tuple[int, mmap.mmap]:
        return self._locate([(region.user, region) for region in self._regions], address, size)

    @staticmethod
    def _locate(
        regions: list[tuple[int, _Region]], address: int, size: int
    ) -> tuple[int, mmap.mmap]:
        for begin, region in regions:
            if begin <= address and address + size <= begin + region.size:
                return address - begin + region.offset, region.memory
        raise EOFError


def vhost_user(client: socket.socket) -> None:
    """Talk to one client, until it goes or talks nonsense."""
    backend = _Backend(client)
    with contextlib.closing(backend), contextlib.suppress(struct.error, ValueError):
        backend.run()
