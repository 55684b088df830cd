"""What /proc says of a process
----------------------------

The one reader of ``/proc/PID/stat`` and ``/proc/PID/cmdline``: see proc(5).
"""

from __future__ import annotations

import os
import time

__all__ = ["command_line", "dead", "dying", "pids", "stat", "stopped"]

# A process gives back its memory before it counts as ended.
_DYING_S = 5.0


def pids() -> list[int]:
    """Return the processes that can be seen, in order."""
    return sorted(int(name) for name in os.listdir("/proc") if name.isdigit())


def stat(pid: int | str) -> list[bytes]:
    """Return the fields of ``stat`` that follow the name; the first is the state's letter.

    :raises OSError: there is no such process.
    """
    with open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().rpartition(b")")[2].split()


def dead(pid: int) -> bool:
    """Whether a process on this machine has ended, though its parent may not know yet."""
    try:
        return stat(pid)[0] in (b"Z", b"X")
    except (OSError, IndexError):
        return True


def dying(pid: int) -> bool:
    """Whether a process that a debugger had stopped has ended, or does so within 5 seconds.

    What kills a stopped process lets it run to its end; until then it is not dead.
    """
    deadline = time.monotonic() + _DYING_S
    while not dead(pid):
        if stopped(pid) or time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def stopped(pid: int) -> bool:
    """Whether a process is stopped by a signal or a debugger; one that is gone is not."""
    try:
        return stat(pid)[0] in (b"t", b"T")
    except (OSError, IndexError):
        return False


def command_line(pid: int | str) -> list[str]:
    """Return the words that a process was started with, empty when they cannot be read."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().decode("utf-8", "surrogateescape").split("\0")
    except OSError:
        return []
    return words[:-1]
