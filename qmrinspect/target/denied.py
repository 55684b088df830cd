"""Why a process cannot be read
----------------------------
"""

from __future__ import annotations

import os

from ..errors import TargetError
from . import proc

__all__ = ["denied", "ended"]


def ended(pid: int) -> TargetError:
    """Say that a process is no more."""
    return TargetError(f"process {pid} has ended", "qmr ps lists the QEMUs that run here")


def denied(pid: int) -> TargetError:
    """Say why ``pid`` may not be read, and what would help."""
    try:
        status = proc.status(pid)
    except OSError:
        return ended(pid)
    if "VmSize" not in status:
        return ended(pid)  # what ends has no memory any more, long before it is waited for
    text = f"process {pid} may not be read"
    tracer = proc.tracer(pid)
    if tracer is not None:
        name = proc.name(tracer) or "another program"
        return TargetError(
            f"{text}: {name} (pid {tracer}) is debugging it",
            "detach it there, or use qmr inside that GDB",
        )
    owner = proc.owner(pid)
    if owner != os.geteuid() and os.geteuid() != 0:
        return TargetError(f"{text}: it belongs to uid {owner}", "run qmr as that user or as root")
    scope = proc.setting("kernel/yama/ptrace_scope")
    if scope == 3:
        return TargetError(f"{text}: kernel.yama.ptrace_scope is 3", "it needs a reboot to change")
    if scope and os.geteuid() != 0:
        return TargetError(
            f"{text}: kernel.yama.ptrace_scope is {scope}",
            "run qmr as root, or: sysctl kernel.yama.ptrace_scope=0",
        )
    if len(status.get("NSpid", "").split()) > 1 or os.geteuid() == 0:
        return TargetError(
            f"{text}: it is in a container, or this one lacks CAP_SYS_PTRACE",
            "run qmr on the host, or start the container with --cap-add=SYS_PTRACE",
        )
    return TargetError(f"{text}: it is not dumpable", "run qmr as root")
