"""Storage servers
---------------

The other ends of QEMU's network disks, each a disk of zeros: NBD, HTTP and FTP, and
the latter two behind TLS.  They say what makes QEMU open the disk, and give nothing
to read.

Each is a function that talks to one client, as in :mod:`qmrinspect.peers.servers`.
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Callable

from .images import SIZE
from .servers import take

if TYPE_CHECKING:
    import ssl

__all__ = ["behind_tls", "ftp", "http", "nbd"]

# The NBD protocol (doc/proto.md of its project, include/block/nbd.h of QEMU's): the
# fixed newstyle handshake, of which QEMU needs NBD_OPT_GO alone.
_NBD_GREETING = struct.pack(">8s8sH", b"NBDMAGIC", b"IHAVEOPT", 1)
_NBD_OPTION = struct.Struct(">8sII")
_NBD_REPLY = struct.Struct(">QIII")
_NBD_REPLY_MAGIC = 0x3E889045565A9
_NBD_GO = 7
_NBD_ACK, _NBD_INFO, _NBD_UNSUPPORTED = 1, 3, 1 << 31 | 1
_NBD_READ_ONLY = 1 << 0 | 1 << 1
_NBD_REQUEST = struct.Struct(">IHHQQI")
_NBD_REQUEST_MAGIC = 0x25609513
_NBD_DISCONNECT = 2
_NBD_EINVAL = 22

# Of an option, or of a line.
_LENGTH_MAX = 4096

# What libcurl says before it knows a file's size (RFC 959, 3659 and 4217).
_FTP = {
    "USER": "230 Come in",
    "PWD": '257 "/"',
    "CWD": "250 There",
    "TYPE": "200 Yes",
    "PBSZ": "200 PBSZ=0",
    "PROT": "200 Yes",
    "SIZE": f"213 {SIZE}",
    "REST": "350 Go on",
    "QUIT": "221 Bye",
}


def nbd(client: socket.socket) -> None:
    """Serve a disk that can be opened, and not read."""
    client.sendall(_NBD_GREETING)
    take(client, 4)
    option = 0
    while option != _NBD_GO:
        magic, option, size = _NBD_OPTION.unpack(take(client, _NBD_OPTION.size))
        if magic != b"IHAVEOPT" or size > _LENGTH_MAX:
            return
        take(client, size)
        if option == _NBD_GO:
            info = struct.pack(">HQH", 0, SIZE, _NBD_READ_ONLY)
            client.sendall(_NBD_REPLY.pack(_NBD_REPLY_MAGIC, option, _NBD_INFO, len(info)) + info)
        kind = _NBD_ACK if option == _NBD_GO else _NBD_UNSUPPORTED
        client.sendall(_NBD_REPLY.pack(_NBD_REPLY_MAGIC, option, kind, 0))
    while True:
        magic, _, command, handle, _, _ = _NBD_REQUEST.unpack(take(client, _NBD_REQUEST.size))
        if magic != _NBD_REQUEST_MAGIC or command == _NBD_DISCONNECT:
            return
        client.sendall(struct.pack(">IIQ", 0x67446698, _NBD_EINVAL, handle))


def http(client: socket.socket) -> None:
    """Say that there is a file, its size, and that it can be had in parts."""
    # curl_open() of block/curl.c wants the size, and ranges.
    lines = client.makefile("rb")
    while lines.readline(_LENGTH_MAX).startswith(b"HEAD "):
        while lines.readline(_LENGTH_MAX).strip():
            pass
        client.sendall(
            b"HTTP/1.1 200 OK\r\nAccept-Ranges: bytes\r\nContent-Length: %d\r\n\r\n" % SIZE
        )


def ftp(client: socket.socket) -> None:
    """Say that there is a file, and its size."""
    client.sendall(b"220 Ready\r\n")
    lines = client.makefile("rb")
    while True:
        verb = lines.readline(_LENGTH_MAX)[:4].decode("latin-1").strip().upper()
        if verb not in _FTP:
            return
        client.sendall(_FTP[verb].encode() + b"\r\n")


def behind_tls(
    context: ssl.SSLContext, serve: Callable[[socket.socket], None]
) -> Callable[[socket.socket], None]:
    """Return a server that speaks TLS before it does what ``serve`` does."""

    def secured(client: socket.socket) -> None:
        # A duplicate, so that whoever has the client can still shut it down.
        with context.wrap_socket(client.dup(), server_side=True) as inner:
            serve(inner)

    return secured
