"""Whose monitor it is
-------------------

A verb that reads one QEMU and drives another one would unplug in the wrong VM, so that a monitor
is used only when it is the target's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from ..errors import MonitorError
from ..target.proc import command_line, status, threads
from .base import CommandError, Monitor
from .qemuopts import qemu_options

__all__ = ["checked"]

_NO_UUID = "00000000-0000-0000-0000-000000000000"


def checked(monitor: Monitor, pid: int) -> Monitor:
    """Return a monitor that belongs to a process; close any other one.

    Asked are the kernel (whose socket it is), the threads of the CPUs, and then the name and
    the UUID of the VM.

    :raises MonitorError: it is another QEMU's, or nothing tells whose it is.
    """
    try:
        mine = monitor.served_by(pid) or _has_threads(monitor, pid)
        if mine is None:
            mine = _goes_by(monitor, command_line(pid))
        if mine:
            return monitor
        raise _refusal(monitor, pid, mine)
    except BaseException:
        monitor.close()
        raise


def _refusal(monitor: Monitor, pid: int, mine: bool | None) -> MonitorError:
    if mine is None:
        return MonitorError(
            f"nothing tells whether the monitor {monitor.address} is that of process {pid}",
            "start that QEMU with -name, or with a -qmp socket on this machine",
        )
    other = f" (process {monitor.peer})" if monitor.peer else ""
    return MonitorError(
        f"the monitor {monitor.address} is another QEMU's{other}, and the target is process {pid}",
        "leave out --qmp, or name the target that it belongs to: see qmr ps",
    )


def _has_threads(monitor: Monitor, pid: int) -> bool | None:
    """Whether the CPUs run in threads of a process, None where there are none."""
    try:
        cpus = monitor.execute("query-cpus-fast")
    except CommandError:
        return None
    wanted = {cpu["thread-id"] for cpu in cpus} if isinstance(cpus, list) else set()
    return wanted <= _threads(pid) if wanted else None


def _threads(pid: int) -> set[int]:
    """Return the threads of a process, by the numbers that it knows itself."""
    found = set()
    with contextlib.suppress(PermissionError):
        for tid in threads(pid):
            found.add(tid)
            # In a container they count from 1: NSpid has all numbers, its own last.
            with contextlib.suppress(OSError, ValueError, KeyError, IndexError):
                found.add(int(status(pid, tid)["NSpid"].split()[-1]))
    return found


def _goes_by(monitor: Monitor, argv: Sequence[str]) -> bool | None:
    """Whether a VM has the name and the UUID of a command line, None where it has neither."""
    same = []
    for command, key, option in (("query-name", "name", "-name"), ("query-uuid", "UUID", "-uuid")):
        try:
            answer = monitor.execute(command)
        except CommandError:
            continue
        said = answer.get(key) if isinstance(answer, dict) else None
        said = None if said == _NO_UUID else said
        given = _given(argv, option)
        if said or given:
            same.append(str(said or "").lower() == (given or "").lower())
    return all(same) if same else None


def _given(argv: Sequence[str], option: str) -> str | None:
    """Return the name or the UUID that an option gives, None where it is not there."""
    values = [
        v for o, v in zip(argv, argv[1:]) if o.startswith("-") and o.lstrip("-") == option[1:]
    ]
    return qemu_options(values[-1], "guest").get("guest") if values else None
