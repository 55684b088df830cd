"""Was it a quiet moment
---------------------

Between taking a reference and storing the pointer a count is ahead of its
holders.  Nearly all of QEMU does that under the big lock, much of it inside a
memory transaction; a reading taken while neither is open, and nothing waits for
RCU, is free of such moments.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ..target.image import Unreadable
from .context import Context

__all__ = ["Quiet", "look"]

_CODE_MAX = 192


class Quiet(NamedTuple):
    """What could be seen; None where this QEMU hides it.

    :param transaction: depth of the open memory transaction.
    :param locked: whether a thread holds the big lock.
    """

    transaction: int | None
    locked: bool | None

    @property
    def settled(self) -> bool:
        """Whether nothing that was seen speaks against a quiet moment."""
        return not self.transaction and not self.locked


def look(context: Context) -> Quiet:
    """Read the depth of memory transactions and the big lock."""
    return Quiet(_transaction(context), _locked(context))


def _relative(context: Context, function: str, opcode: bytes, tail: int) -> Iterator[int]:
    """Yield the variables that instructions of a function address by ``disp32(%rip)``.

    :param opcode: the bytes before the displacement.
    :param tail: how many bytes of the instruction follow it.
    """
    code = context.statics.first(function)
    if not code:
        return
    try:
        raw = context.image.read(code, _CODE_MAX)
    except Unreadable:
        return
    low, high = context.statics.data
    at = raw.find(opcode)
    while 0 <= at <= len(raw) - len(opcode) - 4:
        end = at + len(opcode) + 4
        variable = code + end + tail + int.from_bytes(raw[end - 4 : end], "little", signed=True)
        if low <= variable < high:
            yield variable
        at = raw.find(opcode, at + 1)


def _variable(
    context: Context, names: tuple[str, ...], function: str, opcode: bytes, tail: int
) -> int:
    for name in names:
        if context.statics.first(name):
            return context.statics.first(name)
    return next(_relative(context, function, opcode, tail), 0)


def _transaction(context: Context) -> int | None:
    # memory_region_transaction_begin: addl $1, memory_region_transaction_depth(%rip)
    variable = _variable(
        context,
        ("memory_region_transaction_depth",),
        "memory_region_transaction_begin",
        b"\x83\x05",
        1,
    )
    try:
        return context.image.u32(variable) if variable else None
    except Unreadable:
        return None


def _locked(context: Context) -> bool | None:
    # The last thing an unlock does: lea qemu_global_mutex(%rip), %rdi.  A QemuMutex begins
    # with its pthread_mutex_t, and that with the lock word, 0 when it is free.
    for function in ("qemu_mutex_unlock_iothread", "bql_unlock"):
        variable = _variable(context, ("qemu_global_mutex", "bql"), function, b"\x48\x8d\x3d", 0)
        if variable:
            try:
                return context.image.u32(variable) != 0
            except Unreadable:
                return None
    return None
