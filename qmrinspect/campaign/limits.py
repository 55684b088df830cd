"""How many at once
----------------

What this machine, or the control group that we are in, has cores and memory for.
"""

from __future__ import annotations

import os
from pathlib import Path

from ..hunt.settings import Settings

__all__ = ["cores", "free_bytes", "workers_for"]

# A worker, its VM and what it reads need that much at most; a guest comes on top, with its
# memory and the translated code that TCG keeps (a quarter of the memory or more).
_WORKER_BYTES = 512 << 20
_GUEST_BYTES = 1 << 30

_CGROUP = Path("/sys/fs/cgroup")


def workers_for(settings: Settings, wanted: int | None = None) -> int:
    """Return how many workers a campaign gets: ``wanted``, or two a core, three with error paths,
    one with a guest; never more than there is memory for, and always one.
    """
    guest = settings.guest is not None
    each = _WORKER_BYTES + (_GUEST_BYTES if guest else 0)
    # Without a guest that computes, a worker waits for QEMU and for RCU half of its time, and
    # longer where QEMU refuses (qmp_device_add() drains RCU then).
    a_core = 1 if guest else 3 if settings.error_paths else 2
    return max(1, min(wanted or cores() * a_core, free_bytes() // each))


def cores() -> int:
    """Return how many processors this process may use; at least 1."""
    allowed = len(os.sched_getaffinity(0))
    quota, _, period = (_limit("cpu.max") or "").partition(" ")
    if quota.isdigit() and period.isdigit():
        allowed = min(allowed, int(quota) // int(period))
    return max(1, allowed)


def free_bytes() -> int:
    """Return how much memory this process may take without swapping, in bytes."""
    free = _available()
    most, used = _limit("memory.max"), _limit("memory.current")
    if most and used and most.isdigit() and used.isdigit():
        free = min(free, int(most) - int(used))
    return max(0, free)


def _available() -> int:
    with open("/proc/meminfo", encoding="ascii") as lines:
        for line in lines:
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                return int(value.split()[0]) << 10
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _limit(name: str) -> str | None:
    """Return a setting of our control group (cgroup v2), None where there is none."""
    try:
        own = Path("/proc/self/cgroup").read_text(encoding="utf-8").rpartition("0::/")[2].strip()
        return (_CGROUP / own / name).read_text(encoding="ascii").strip()
    except OSError:
        return None
