"""Was it a quiet moment
---------------------

Between taking a reference and storing the pointer a count is ahead of its
holders.  Nearly all of QEMU does that under the big lock, much of it inside a
memory transaction; a reading taken while neither is open, and nothing waits for
RCU, is free of such moments.  An iothread does its disks' requests without the big lock:
what it is doing is done when it waits for more.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..records.context import Context
from ..target.image import Peek, Unreadable
from ..tuples import NamedTuple
from . import rcu
from .scene import Objects, of_type

__all__ = ["Quiet", "Signs", "signs", "state_of", "waiting"]

_CODE_MAX = 192


class Quiet(NamedTuple):
    """What could be seen; None where this QEMU hides it.

    :param transaction: depth of the open memory transaction.
    :param locked: whether a thread holds the big lock.
    :param working: whether an iothread is at work.
    """

    transaction: int | None
    locked: bool | None
    working: bool | None = None

    @property
    def settled(self) -> bool:
        """Whether nothing that was seen speaks against a quiet moment."""
        return not self.transaction and not self.locked and not self.working


class Signs(NamedTuple):
    """Where a quiet moment shows, so that it can be seen before anything else is read.

    :param zero: addresses of 32-bit words that are 0 then: the depth, and the lock.
    :param queue: addresses of the head and the tail of the queue for RCU, if it was found.
    :param at_next: of an element of the queue, bytes.
    :param data: (start, end) of the program's own data, where the last element of an empty
        queue lies.
    :param waiting: addresses of 32-bit words that are not 0 then: one for each iothread.
    """

    zero: tuple[int, ...]
    queue: tuple[int, int] | None
    at_next: int
    data: tuple[int, int]
    waiting: tuple[int, ...] = ()

    def addresses(self) -> tuple[int, ...]:
        """Return where :meth:`quiet` looks."""
        return self.zero + self.waiting + (self.queue or ())

    def quiet(self, peek: Peek) -> bool:
        """Whether nothing speaks against it, in memory as it is at this moment."""
        if any(_peeked(peek, address, 4) for address in self.zero):
            return False
        if not all(_peeked(peek, address, 4) for address in self.waiting):
            return False
        if self.queue is None:
            return True
        head, tail = (_peeked(peek, address, 8) for address in self.queue)
        return head + self.at_next == tail and self.data[0] <= head < self.data[1]


def _peeked(peek: Peek, address: int, size: int) -> int:
    raw = peek(address, size)
    return int.from_bytes(raw, "little") if raw is not None else 0


def signs(context: Context, objects: Objects) -> Signs:
    """Find the variables that :func:`state_of` reads, and the queue for RCU."""
    words = (_depth(context), _lock(context))
    queue = rcu.ends(context)
    at_next = context.layout.offset("rcu_head", "next") if queue else 0
    zero = tuple(word for word in words if word)
    return Signs(zero, queue, at_next, context.statics.data, waiting(context, objects))


def state_of(context: Context, objects: Objects | None = None) -> Quiet:
    """Read the depth of memory transactions, the big lock, and what iothreads do.

    :param objects: where they are known; without them nothing is known of iothreads.
    """
    locked = _u32(context, _lock(context))
    words = [_u32(context, word) for word in waiting(context, objects or {})]
    working = not all(words) if words else None
    return Quiet(_u32(context, _depth(context)), None if locked is None else locked != 0, working)


def waiting(context: Context, objects: Objects) -> tuple[int, ...]:
    """Return where each iothread that runs says whether it waits for work.

    ``AioContext.notify_me`` is not 0 from before it looks for work until there is some
    (util/aio-posix.c aio_poll, util/async.c aio_ctx_prepare).  It is believed once it was seen so:
    of a layout that does not fit it may be 0 for ever.
    """
    layout, image = context.layout, context.image
    needed = (("IOThread", "ctx"), ("IOThread", "running"), ("AioContext", "notify_me"))
    if not all(layout.has(*field) for field in needed) or "iothread" not in context.types:
        return ()
    if layout.size("IOThread") != context.types["iothread"].size:
        return ()
    out = []
    for address in sorted(of_type(context, objects, "iothread")):
        try:
            row = context.record("IOThread", address)
            place = row["ctx"] + layout.offset("AioContext", "notify_me")
            if row["ctx"] and row["running"] and image.u32(place):
                context.known.waited.add(place)
            if row["running"] and place in context.known.waited:
                out.append(place)
        except Unreadable:
            continue
    return tuple(out)


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


def _depth(context: Context) -> int:
    # memory_region_transaction_begin: addl $1, memory_region_transaction_depth(%rip)
    return _variable(
        context,
        ("memory_region_transaction_depth",),
        "memory_region_transaction_begin",
        b"\x83\x05",
        1,
    )


def _lock(context: Context) -> int:
    # The last thing an unlock does: lea qemu_global_mutex(%rip), %rdi.  A QemuMutex begins
    # with its pthread_mutex_t, and that with the lock word, 0 when it is free.
    for function in ("qemu_mutex_unlock_iothread", "bql_unlock"):
        variable = _variable(context, ("qemu_global_mutex", "bql"), function, b"\x48\x8d\x3d", 0)
        if variable:
            return variable
    return 0


def _u32(context: Context, address: int) -> int | None:
    try:
        return context.image.u32(address) if address else None
    except Unreadable:
        return None
