"""Stops, and what they cost
-------------------------

A stop that does not come about is tried again; those of one reading are added up.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Callable, TypeVar

from .errors import NotStopping
from .target.image import PAGE, Capture
from .target.instant import Copy, Frozen

__all__ = ["ATTEMPTS", "GRACE_S", "PAUSE_S", "added", "cost_of", "patiently"]

T = TypeVar("T")

# A busy VM is between two references often, but never for long.
ATTEMPTS = 8
PAUSE_S = 0.004
# An RCU grace period is shorter.
GRACE_S = 0.1


def cost_of(frozen: Frozen, copy: Copy | None, begin: int, way: str) -> Capture:
    """Return what a look cost that began at ``begin``, by :func:`time.perf_counter_ns`."""
    size = sum(len(data) for _, data in frozen.segments)
    reads, held = frozen.reads, size
    if copy is not None:
        reads += copy.reads
        held = max(size, sum(len(data) for _, data in copy.segments))
    wall_us = (time.perf_counter_ns() - begin) // 1000
    return Capture(frozen.stop_us, wall_us, reads, held, 0, frozen.quiet, way, 1, size // PAGE)


def added(spent: Sequence[Capture]) -> Capture:
    """Add up what several looks cost; of the stops, the longest counts."""
    return Capture(
        max(cost.stop_us for cost in spent),
        sum(cost.wall_us for cost in spent),
        sum(cost.reads for cost in spent),
        sum(cost.bytes for cost in spent),
        len(spent) - 1,
        spent[-1].quiescent,
        spent[-1].way,
        sum(cost.stops for cost in spent),
        spent[-1].pages,
    )


def patiently(stop: Callable[[], T]) -> T:
    """Stop a process; a thread that does not stop at once is tried again.

    :raises NotStopping: when it is held up for long.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return stop()
        except NotStopping:
            # A disk that is busy holds a thread up for a while.
            if attempt == ATTEMPTS:
                raise
            time.sleep(GRACE_S)
    raise AssertionError
