"""Where QEMU crashed, or stands
-----------------------------

After a crash the cycles are run once more, under GDB; a QEMU that hangs is looked at
where it is.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import threading

from ..errors import QmrError
from .kinds import Recipe
from .unplug import run_cycle
from .vm import Vm

__all__ = ["backtrace", "stacks"]

# Seconds that GDB may take for its start and for the backtrace.
_GDB_S = 30.0
_FRAMES = 24


_QUIET = ("set pagination off", "set debuginfod enabled off")


def stacks(pid: int) -> list[str]:
    """Return the frames of every thread of a process that hangs; nothing without GDB."""
    gdb = shutil.which("gdb")
    if gdb is None:
        return []
    words = _words(*_QUIET, f"thread apply all backtrace {_FRAMES}")
    try:
        done = subprocess.run(
            [gdb, "-nx", "-q", "-batch", "-p", str(pid), *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            errors="replace",
            timeout=_GDB_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    lines = (line.rstrip() for line in done.stdout.splitlines())
    return [line for line in lines if line.startswith(("#", "Thread "))]


def _words(*commands: str) -> list[str]:
    return [word for command in commands for word in ("-ex", command)]


def backtrace(vm: Vm, recipe: Recipe, cycles: int = 1) -> list[str]:
    """Return the frames of the crash, innermost first; nothing without GDB, or without a crash.

    :param vm: the one that crashed; another like it is started.
    :param cycles: so many of them it takes.
    """
    gdb = shutil.which("gdb")
    if gdb is None:
        return []
    try:
        with vm.another() as again:
            return _under(gdb, again, recipe, cycles)
    except (QmrError, OSError):
        return []


def _under(gdb: str, vm: Vm, recipe: Recipe, cycles: int) -> list[str]:
    words = _words(
        *_QUIET,
        "handle SIGUSR1 SIGPIPE nostop noprint pass",
        "echo qmr-attached\\n",
        "continue",
        f"backtrace {_FRAMES}",
        "kill",
    )
    with subprocess.Popen(
        [gdb, "-nx", "-q", "-batch", "-p", str(vm.pid), *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        errors="replace",
    ) as process:
        watch = threading.Timer(_GDB_S, process.kill)
        watch.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("qmr-attached"):
                    break
            else:
                return []
            run = threading.Thread(target=_cycles, args=(vm, recipe, cycles), daemon=True)
            run.start()
            frames = [line.rstrip() for line in process.stdout if line.startswith("#")]
            run.join(1.0)
            return frames
        finally:
            watch.cancel()
            process.kill()


def _cycles(vm: Vm, recipe: Recipe, cycles: int) -> None:
    with contextlib.suppress(QmrError), vm.monitor() as monitor:
        if not any(run_cycle(monitor, recipe, f"dut{n + 1}").died for n in range(cycles)):
            # Without a crash GDB would wait for ever.
            monitor.execute("quit")
