"""Why the kernel does not trace
-----------------------------
"""

from __future__ import annotations

import errno
import os

from ..errors import TargetError
from ..target.proc import owner, setting, status

__all__ = ["TooManyProbes", "refused"]


class TooManyProbes(TargetError):
    """The processor has no breakpoint left."""


def refused(pid: int, code: int) -> TargetError:
    """Say why the kernel does not trace ``pid``, and what would help."""
    text = f"the kernel does not let qmr trace process {pid}"
    if code == errno.ENOSPC:
        return TooManyProbes(
            "all breakpoints of the processor are in use: a debugger or another trace has them",
            "end it, or delete its hardware breakpoints and watchpoints",
        )
    if code in (errno.ENOSYS, errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP, errno.EINVAL):
        return TargetError(
            f"{text}: it has no breakpoints for perf_event_open ({os.strerror(code)})",
            "a kernel with CONFIG_PERF_EVENTS and CONFIG_HAVE_HW_BREAKPOINT has them",
        )
    if code in (errno.EMFILE, errno.ENFILE):
        return TargetError(f"{text}: {os.strerror(code)}", "raise the limit of open files")
    if code not in (errno.EPERM, errno.EACCES):
        return TargetError(f"{text}: {os.strerror(code)}")
    uid = owner(pid)
    if uid != os.geteuid() and os.geteuid():
        return TargetError(
            f"{text}: it belongs to uid {uid}",
            "run qmr as that user or as root, or give it CAP_PERFMON and CAP_SYS_PTRACE",
        )
    paranoid = setting("kernel/perf_event_paranoid")
    if paranoid is not None and paranoid > 2 and os.geteuid():
        return TargetError(
            f"{text}: kernel.perf_event_paranoid is {paranoid}",
            "sysctl kernel.perf_event_paranoid=2, or run qmr as root or with CAP_PERFMON",
        )
    if _filtered():
        return TargetError(
            f"{text}: a seccomp filter forbids perf_event_open, as containers have it",
            "run qmr on the host, or start the container with --cap-add=PERFMON "
            "(or --security-opt seccomp=unconfined)",
        )
    if os.geteuid():
        return TargetError(
            f"{text}: {os.strerror(code)}",
            "run qmr as root, or with CAP_PERFMON and CAP_SYS_PTRACE",
        )
    return TargetError(
        f"{text}, although qmr runs as root: it lacks CAP_PERFMON, or the kernel is locked down",
        "run qmr on the host; cat /sys/kernel/security/lockdown",
    )


def _filtered() -> bool:
    """Whether a seccomp filter watches this process (``Seccomp: 2``, proc(5))."""
    try:
        return status("self").get("Seccomp") == "2"
    except OSError:
        return False
