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
from .rpc import serve

__all__ = ["PORT", "nfs"]

#: Where libnfs asks which port a server is at; QEMU cannot tell it another.
PORT = 111

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
    """Serve the port mapper, the mount protocol and NFS 3 on one port (RFC 1813)."""
    serve(client, _answer)


def _answer(program: int, procedure: int, arguments: bytes) -> bytes | None:
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
