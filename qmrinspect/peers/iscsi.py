"""An iSCSI target
---------------

A disk of zeros at the other end of an iSCSI session (RFC 7143): the login, and the SCSI
commands with which QEMU learns about a disk (iscsi_open(), block/iscsi.c).
"""

from __future__ import annotations

import socket
import struct

from .images import SIZE
from .servers import take

__all__ = ["NAME", "iscsi"]

#: The target's name; the disk is LUN 0.
NAME = "iqn.2003-01.org.example:qmr"

_BLOCK = 512
_HEADER = 48
_DATA_MAX = 1 << 16

_NOP, _COMMAND, _LOGIN, _LOGOUT = 0x00, 0x01, 0x03, 0x06
_NOP_IN, _STATUS, _LOGGED_IN, _DATA_IN, _LOGGED_OUT = 0x20, 0x21, 0x23, 0x25, 0x26
_IMMEDIATE = 0x40
_FINAL = 0x80
_WITH_STATUS, _UNDERFLOW = 0x01, 0x02
# Of a login: the stage it is in, where authentication is 0 and the parameters are 1.
_OPERATIONAL = 0x04
_NO_TAG = b"\xff" * 4

_TEST_UNIT_READY, _INQUIRY, _MODE_SENSE, _READ_CAPACITY = 0x00, 0x12, 0x1A, 0x9E
_CHECK_CONDITION = 2
# Illegal request: invalid command operation code (SPC-4, fixed format).
_SENSE = bytes((0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0))


def iscsi(client: socket.socket) -> None:
    """Serve one iSCSI target with one disk (RFC 7143)."""
    serial = 0
    while True:
        request = take(client, _HEADER)
        size = int.from_bytes(request[5:8], "big")
        if request[4] or size > _DATA_MAX:
            return  # more headers, which nobody sends here, or no iSCSI
        take(client, size + -size % 4)
        operation = request[0] & 0x3F
        serial += 1
        if operation == _LOGIN:
            _reply(client, request, serial, _LOGGED_IN, *_login(request[1]))
        elif operation == _COMMAND:
            _command(client, request, serial)
        elif operation == _NOP:
            _reply(client, request, serial, _NOP_IN, _FINAL, last=_NO_TAG)
        else:
            if operation == _LOGOUT:
                _reply(client, request, serial, _LOGGED_OUT, _FINAL)
            return


def _login(flags: int) -> tuple[int, bytes]:
    # The answer goes to the stage that the initiator wants.
    if flags & _OPERATIONAL:
        return flags, b"HeaderDigest=None\0DataDigest=None\0"
    return flags, b"AuthMethod=None\0"


def _command(client: socket.socket, request: bytes, serial: int) -> None:
    data = _answer(request[32:48])
    if not data:
        sense = b"" if data is not None else struct.pack(">H", len(_SENSE)) + _SENSE
        _reply(client, request, serial, _STATUS, _FINAL, sense, _CHECK_CONDITION if sense else 0)
        return
    room = int.from_bytes(request[20:24], "big")
    data = data[:room]
    flags = _FINAL | _WITH_STATUS | (_UNDERFLOW if len(data) < room else 0)
    rest = struct.pack(">III", 0, 0, room - len(data))
    _reply(client, request, serial, _DATA_IN, flags, data, 0, _NO_TAG, rest)


def _answer(command: bytes) -> bytes | None:
    # What a SCSI command reads; None for one that is refused.
    if command[0] == _TEST_UNIT_READY:
        return b""
    if command[0] == _INQUIRY:
        if command[1] & 1:  # the pages that there are: this one
            return b"\0\0\0\1\0" if command[2] == 0 else None
        return struct.pack(">8B8s16s4s", 0, 0, 5, 2, 31, 0, 0, 0, b"qmr", b"zeros", b"1")
    if command[0] == _MODE_SENSE:
        return b"\3\0\0\0"
    if command[0] == _READ_CAPACITY and command[1] & 0x1F == 0x10:
        return struct.pack(">QI20x", SIZE // _BLOCK - 1, _BLOCK)
    return None


def _reply(
    client: socket.socket,
    request: bytes,
    serial: int,
    operation: int,
    flags: int,
    data: bytes = b"",
    status: int = 0,
    last: bytes = bytes(4),
    rest: bytes = b"",
) -> None:
    # ``last`` is the field before the serial numbers, ``rest`` what follows those.
    expected = int.from_bytes(request[24:28], "big") + (not request[0] & _IMMEDIATE)
    numbers = struct.pack(">III", serial, expected & 0xFFFFFFFF, expected + 32 & 0xFFFFFFFF)
    where = request[8:16]
    if operation == _LOGGED_IN:
        where = request[8:14] + b"\0\1"  # the initiator's part and a number of the session
    elif operation != _DATA_IN:
        where = bytes(8)
    size = len(data).to_bytes(3, "big")
    head = bytes((operation, flags, 0, status, 0)) + size + where + request[16:20] + last
    client.sendall((head + numbers + rest).ljust(_HEADER, b"\0") + data + bytes(-len(data) % 4))
