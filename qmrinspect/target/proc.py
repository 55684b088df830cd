"""What /proc says of a process
----------------------------

The one reader of the text files of ``/proc/PID``, and of the kernel's settings: see proc(5).
"""

from __future__ import annotations

import os
import time

__all__ = [
    "command_line",
    "dead",
    "dying",
    "maps",
    "name",
    "owner",
    "pids",
    "setting",
    "stack_pointer",
    "stat",
    "status",
    "stopped",
    "threads",
    "tracer",
]

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


def status(pid: int | str, tid: int | None = None) -> dict[str, str]:
    """Return ``status`` of a process, or of one of its threads, by its keys.

    :raises OSError: there is no such process.
    """
    task = f"/task/{tid}" if tid is not None else ""
    with open(f"/proc/{pid}{task}/status", encoding="utf-8", errors="replace") as file:
        rows = (line.partition(":") for line in file)
        return {key: value.strip() for key, _, value in rows}


def tracer(pid: int) -> int | None:
    """Return the process that traces another, None when nothing does or it has ended."""
    try:
        return int(status(pid)["TracerPid"]) or None
    except (OSError, KeyError, ValueError):
        return None


def name(pid: int, tid: int | None = None) -> str | None:
    """Return the name of a process, or of one of its threads; None when it has ended."""
    try:
        with open(f"/proc/{pid}/task/{tid or pid}/comm", "rb") as file:
            return file.read().decode("utf-8", "replace").strip()
    except OSError:
        return None


def stack_pointer(pid: int, tid: int) -> int:
    """Return the stack pointer of a thread that is stopped, 0 of one that runs.

    :raises OSError: it has ended, or may not be read.
    :raises ValueError: it says something else.
    """
    # Of the system call, or -1; the stack pointer and the program counter end it.
    with open(f"/proc/{pid}/task/{tid}/syscall", encoding="ascii") as file:
        fields = file.read().split()
    return int(fields[-2], 16) if len(fields) > 2 else 0


def maps(pid: int) -> str:
    """Return what a process maps, a line each; nothing for one that is ending.

    :raises OSError: it has ended, or may not be read.
    """
    with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as file:
        return file.read()


def owner(pid: int) -> int | None:
    """Return the user whose a process is, None when it has ended."""
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return None


def setting(name: str) -> int | None:
    """Return a number that the kernel is set to, None where it has no such setting.

    :param name: its path below ``/proc/sys``.
    """
    try:
        with open(f"/proc/sys/{name}", encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None


def threads(pid: int) -> list[int]:
    """Return the threads of a process in order, none when it has ended."""
    try:
        return sorted(int(entry) for entry in os.listdir(f"/proc/{pid}/task"))
    except (FileNotFoundError, ProcessLookupError):
        return []
