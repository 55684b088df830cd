"""ONC remote procedure calls
--------------------------

Calls over a stream socket, each in one fragment (RFC 5531), and their answers.
"""

from __future__ import annotations

import socket
import struct
from typing import Callable

from .servers import take

__all__ = ["serve"]

_CALL_MAX = 8192
_LAST_FRAGMENT = 1 << 31


def serve(client: socket.socket, answer: Callable[[int, int, bytes], bytes | None]) -> None:
    """Answer the calls of one client until it goes, or sends what is no call.

    :param answer: what a procedure of a program says to its arguments, by its number and
        theirs; None where there is no such procedure.
    """
    while True:
        (size,) = struct.unpack(">I", take(client, 4))
        size ^= _LAST_FRAGMENT
        if size > _CALL_MAX:
            return  # a call in fragments, which nobody sends here, or no call
        number, said = _call(take(client, size), answer)
        # Accepted, with no verifier: success, or no such procedure.
        head = struct.pack(">IIIIII", number, 1, 0, 0, 0, 3 if said is None else 0)
        reply = head + (said or b"")
        client.sendall(struct.pack(">I", _LAST_FRAGMENT | len(reply)) + reply)


def _call(
    call: bytes, answer: Callable[[int, int, bytes], bytes | None]
) -> tuple[int, bytes | None]:
    if len(call) < 40:
        raise EOFError
    number, _, _, program, _, procedure = struct.unpack_from(">6I", call)
    begin = 24
    for _ in range(2):  # what says who calls, and what proves it
        begin += 8 + int.from_bytes(call[begin + 4 : begin + 8], "big")
    return number, b"" if procedure == 0 else answer(program, procedure, call[begin:])
