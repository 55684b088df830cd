"""A process that stands
---------------------

A debugger's other side reads slowly, and the process stands for as long as that takes.  At
rest everything is known that makes reading less: what malloc calls free is free, and what
was never touched of a stack is zeros.
"""

from __future__ import annotations

from collections.abc import Sequence

from .image import Mapping, Peek, Ranges, without
from .malloc import Malloc

__all__ = ["worth_reading"]

# Stacks of threads are larger than this, and looked at from their end in such steps.
_STACK_MIN, _STACK_STEP = 1 << 20, 256 << 10


def worth_reading(
    ranges: Ranges, mappings: Sequence[Mapping], peek: Peek, malloc: Malloc
) -> Ranges:
    """Return what of some (address, size) ranges may hold structures."""
    return without(without(ranges, malloc.free(peek, mappings)), _unused_stacks(mappings, peek))


def _unused_stacks(mappings: Sequence[Mapping], peek: Peek) -> Ranges:
    """Return what of the threads' stacks is below all that they ever used.

    A stack is used from its end on, and has pages that cannot be accessed in front.
    """
    out: Ranges = []
    for guard, stack in zip(mappings, mappings[1:]):
        size = stack.end - stack.start
        if guard.perms[:3] != "---" or guard.end != stack.start or stack.path:
            continue
        if stack.perms != "rw-p" or size < _STACK_MIN or any(peek(stack.start, 16) or b""):
            continue
        used = _STACK_STEP
        while used < size:
            step = peek(stack.end - used, _STACK_STEP)
            if step is None or not any(step):
                break
            used += _STACK_STEP
        if used < size:
            out.append((stack.start, size - used))
    return out
