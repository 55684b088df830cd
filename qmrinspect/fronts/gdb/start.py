"""The commands of GDB
-------------------
"""

from __future__ import annotations

import os

import gdb.printing

from ...layout.gdbchild import use_gdb
from .commands import Command, Group
from .session import Session
from .values import Locate, Printers

__all__ = ["register"]

_session = Session()


def register() -> None:
    """Define the commands, ``$qmr()`` and the pretty-printers; harmless when repeated."""
    from ...verbs.table import VERBS

    # The GDB that reads debug information is this one: another may not understand it.
    directory = str(gdb.parameter("data-directory"))
    use_gdb([os.readlink("/proc/self/exe"), "--data-directory", directory])
    _session.listen()
    Group()
    for verb in VERBS.values():
        if "gdb" in verb.fronts:
            Command(_session, verb)
    Locate(_session)
    gdb.printing.register_pretty_printer(None, Printers(_session), replace=True)
