"""What GDB debugs
---------------
"""

from __future__ import annotations

import gdb

from ...errors import TargetError
from ...target.core import Core
from ...target.debugger import Attached, Debugged, core_path, exec_path
from ...target.image import Target
from ...target.proc import dead

__all__ = [
    "Running",
    "ask",
    "inferior_kind",
    "memory",
    "open_target",
    "runs",
    "symbol_files",
]


class Running(Exception):
    """The inferior runs in the background; it has to be stopped for a reading."""


def ask(command: str) -> str:
    """Return what a command of GDB prints.

    :raises TargetError: GDB refuses it.
    """
    try:
        return str(gdb.execute(command, to_string=True) or "")
    except gdb.error as error:
        raise TargetError(f"GDB refuses {command.split()[0]}: {error}") from None


def inferior_kind() -> str | None:
    """Return how GDB has its inferior: ``native``, ``core``, ..., None for none."""
    inferior = gdb.selected_inferior()
    try:
        connection = inferior.connection
    except AttributeError:  # before GDB 12
        text = ask("info files")
        if core_path(text) is not None:
            return "core"
        return "native" if "Native process:" in text else "remote" if inferior.pid else None
    return str(connection.type) if connection is not None else None


def memory(address: int, size: int) -> bytes | None:
    """Return memory of the inferior, None where it cannot be read."""
    try:
        return bytes(gdb.selected_inferior().read_memory(address, size))
    except (gdb.error, OverflowError):
        return None


def runs() -> bool:
    """Whether a thread of the inferior runs.

    :raises TargetError: the process has ended, and GDB has not noticed.
    """
    inferior = gdb.selected_inferior()
    if inferior.pid and inferior_kind() == "native" and dead(inferior.pid):
        raise TargetError(f"process {inferior.pid} has ended", "start it again, or attach PID")
    return any(t.is_valid() and t.is_running() for t in inferior.threads())


def program() -> str | None:
    """Return the path of the program that GDB has, None for none."""
    space = gdb.current_progspace()
    return space.filename if space is not None else None


def symbol_files() -> tuple[str, ...]:
    """Return the files that GDB has symbols of the program from."""
    main = program()
    builds = {file.build_id for file in gdb.objfiles() if file.filename == main and file.build_id}
    names = [main, *(file.filename for file in gdb.objfiles() if file.build_id in builds)]
    return tuple(dict.fromkeys(name for name in names if name and name.startswith("/")))


def open_target() -> Target:
    """Return the target for what GDB debugs: a process, a core, or a stub's.

    :raises TargetError: it debugs nothing.
    """
    inferior = gdb.selected_inferior()
    how = inferior_kind()
    # The file of the symbols (symbol-file) need not be the program's.
    files = ask("info files")
    exe, core = exec_path(files) or program(), core_path(files)
    target: Target
    if how == "core" and core is not None:
        target = Core(core, exe)
    elif not inferior.pid:
        raise TargetError("GDB debugs no process", "attach PID, run, or core-file FILE")
    elif how == "native":
        target = Attached(inferior.pid)
    else:
        target = Debugged(inferior.pid, ask, memory, exe or "")
    target.symbol_files = symbol_files()
    return target
