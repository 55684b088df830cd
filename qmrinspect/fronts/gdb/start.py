"""The commands of GDB
-------------------
"""

from __future__ import annotations

import os

import gdb.printing

from ...layout.gdbchild import use_gdb
from ...target.proc import command_line
from .commands import Command, Group
from .session import Session
from .values import Locate, Printers

__all__ = ["register"]

_session = Session()


def register() -> None:
    """Define the commands, ``$qmr()`` and the pretty-printers; harmless when repeated."""
    from ...verbs.table import VERBS

    # The GDB that reads debug information is this one: another may not understand it.
    use_gdb([*_command(), "--data-directory", str(gdb.parameter("data-directory"))])
    _session.listen()
    Group()
    for verb in VERBS.values():
        if "gdb" in verb.fronts:
            Command(_session, verb)
    Locate(_session)
    gdb.printing.register_pretty_printer(None, Printers(_session), replace=True)


def _command() -> list[str]:
    """Return what this GDB was started with, its program first."""
    exe = os.readlink("/proc/self/exe")
    words = command_line("self")
    # One from PyPI is started by the dynamic loader, whose first argument it is.
    return [exe, words[1]] if os.path.basename(exe).startswith("ld-") else [exe]
