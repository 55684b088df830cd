"""A GlusterFS server
-----------------

What a volume is made of, as far as libgfapi needs it to open a file: the volume has no
bricks, and the file is one of those in ``.meta`` that GlusterFS itself makes up.
"""

from __future__ import annotations

import socket
import struct

from .rpc import serve

__all__ = ["PATH", "VOLUME", "gluster"]

#: The volume, and a file in it.
VOLUME, PATH = "qmr", ".meta/version"

# rpc/rpc-lib/src/protocol-common.h and xdr/src/glusterfs3.x of GlusterFS.
_HANDSHAKE, _GETSPEC = 14398633, 2

# The sink has a root directory and nothing else.  It does not know how to seek, and the
# translator above it refuses to.  The parser wants an option or a subvolume in each.
_SPECIFICATION = b"""\
volume sink
  type debug/sink
  option latency-measurement off
end-volume
volume qmr
  type features/shard
  subvolumes sink
end-volume
"""


def gluster(client: socket.socket) -> None:
    """Serve one volume of a GlusterFS, and in it one file."""
    serve(client, _answer)


def _answer(program: int, procedure: int, arguments: bytes) -> bytes | None:
    if (program, procedure) != (_HANDSHAKE, _GETSPEC):
        return None
    size = len(_SPECIFICATION)
    text = struct.pack(">I", size) + _SPECIFICATION + bytes(-size % 4)
    # gf_getspec_rsp: the size once more, no error, and no dictionary.
    return struct.pack(">ii", size, 0) + text + bytes(4)
