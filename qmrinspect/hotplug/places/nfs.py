"""An NFS server
-------------

A directory with one file of zeros, as far as libnfs needs it to mount the one and to
open the other: the port mapper, mount 3 and NFS 3 (RFC 1833, RFC 1813), all of them at
the one port at which the port mapper must be.
"""

from __future__ import annotations

import socket
import struct

from .images import SIZE
from .servers import take

__all__ = ["PORT", "nfs"]

#: Where libnfs asks which port a server is at; QEMU cannot tell it another.
PORT = 111

_CALL_MAX = 8192
_LAST_FRAGMENT = 1 << 31
_PORTMAP, _NFS, _MOUNT = 100000, 100003, 100005

_DIRECTORY, _FILE = b"/dir", b"file"
_HANDLE = struct.Struct(">I4s")
_OK = bytes(4)
_NOTHING = bytes(4)
# FSINFO: requests of 64 KiB at most, in multiples of 512; files of any size; no properties.
_FSINFO = struct.pack(
    ">7IQIII", 1 << 16, 1 << 16, 512, 1 << 16, 1 << 16, 512, 4096, 1 << 62, 0, 1, 0
)
_EXPORT = 5
_GETATTR, _LOOKUP, _ACCESS, _GET_FSINFO = 1, 3, 4, 19


def nfs(client: socket.socket) -> None:
    while True:
        (size,) = struct.unpack(">I", take(client, 4))
        size ^= _LAST_FRAGMENT
        if size > _CALL_MAX:
            return  # a call in fragments, which nobody sends here, or no call
        number, answer = _call(take(client, size))
        # Accepted, with no verifier: success, or no such procedure.
        head = struct.pack(">IIIIII", number, 1, 0, 0, 0, 3 if answer is None else 0)
        reply = head + (answer or b"")
        client.sendall(struct.pack(">I", _LAST_FRAGMENT | len(reply)) + reply)


def _call(call: bytes) -> tuple[int, bytes | None]:
    if len(call) < 40:
        raise EOFError
    number, _, _, program, _, procedure = struct.unpack_from(">6I", call)
    begin = 24
    for _ in range(2):  # what says who calls, and what proves it
        begin += 8 + int.from_bytes(call[begin + 4 : begin + 8], "big")
    return number, _answer(program, procedure, call[begin:])


def _answer(program: int, procedure: int, arguments: bytes) -> bytes | None:
    # None where there is no such procedure.
    if procedure == 0:
        return b""
    if program == _PORTMAP:  # asks for the port of one of the others
        return struct.pack(">I", PORT)
    if program == _MOUNT and procedure == _EXPORT:
        return _NOTHING
    if program == _MOUNT:
        # The directory, and the ways to say who calls: AUTH_SYS.
        return _OK + _HANDLE.pack(4, _DIRECTORY) + struct.pack(">II", 1, 1)
    if program != _NFS:
        return None
    if procedure == _GETATTR:
        return _OK + _attributes(arguments[4:8])
    if procedure == _LOOKUP:
        return _OK + _HANDLE.pack(4, _FILE) + _NOTHING + _NOTHING
    if procedure == _ACCESS:
        return _OK + _NOTHING + arguments[8:12]  # all that was asked for
    if procedure == _GET_FSINFO:
        return _OK + _NOTHING + _FSINFO
    return None


def _attributes(handle: bytes) -> bytes:
    kind, mode = (2, 0o777) if handle == _DIRECTORY else (1, 0o666)
    return struct.pack(">5IQQ2IQQ6I", kind, mode, 1, 0, 0, SIZE, SIZE, 0, 0, 1, kind, *[0] * 6)
