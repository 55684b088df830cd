"""What GDB debugs
---------------
"""

from __future__ import annotations

import gdb

from ...errors import TargetError
from ...target.core import Core
from ...target.debugger import Attached, Debugged, core_path
from ...target.image import Target

__all__ = ["Running", "ask", "dead", "inferior_kind", "memory", "open_target", "program", "runs"]


class Running(Exception):
    """The inferior runs in the background; it has to be stopped for a reading."""


def ask(command: str) -> str:
    try:
        return str(gdb.execute(command, to_string=True) or "")
    except gdb.error as error:
        raise TargetError(f"GDB refuses {command.split()[0]}: {error}") from None


def inferior_kind() -> str:
    """Return how GDB has its inferior: ``native``, ``core``, ..., empty for none."""
    inferior = gdb.selected_inferior()
    try:
        connection = inferior.connection
    except AttributeError:  # before GDB 12
        text = ask("info files")
        if core_path(text):
            return "core"
        return "native" if "Native process:" in text else "remote" if inferior.pid else ""
    return str(connection.type) if connection is not None else ""


def memory(address: int, size: int) -> bytes | None:
    try:
        return bytes(gdb.selected_inferior().read_memory(address, size))
    except (gdb.error, OverflowError):
        return None


def runs() -> bool:
    inferior = gdb.selected_inferior()
    if inferior.pid and inferior_kind() == "native" and dead(inferior.pid):
        raise TargetError(f"process {inferior.pid} has ended", "start it again, or attach PID")
    return any(t.is_valid() and t.is_running() for t in inferior.threads())


def program() -> str:
    space = gdb.current_progspace()
    return (space.filename if space is not None else "") or ""


def open_target() -> Target:
    inferior = gdb.selected_inferior()
    exe = program()
    how = inferior_kind()
    if how == "core":
        return Core(core_path(ask("info files")), exe or None)
    if not inferior.pid:
        raise TargetError("GDB debugs no process", "attach PID, run, or core-file FILE")
    if how == "native":
        return Attached(inferior.pid)
    return Debugged(inferior.pid, ask, memory, exe)


def dead(pid: int) -> bool:
    """Whether a process on this machine has ended, though GDB has not seen it yet."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return stat.read().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except OSError:
        return True
