"""Inside GDB
----------

The only package that imports ``gdb``.  It runs on the Python of any GDB from 3.9
on, with the standard library alone.
"""

from __future__ import annotations

import gdb.printing

from .commands import Command, Group
from .session import Session
from .structs import dump_instance_structs, dump_layout, dwarf_layout, dwarf_structs
from .values import Locate, Printers

__all__ = [
    "dump_instance_structs",
    "dump_layout",
    "dwarf_layout",
    "dwarf_structs",
    "register",
]

_session = Session()


def register() -> None:
    """Define the commands, ``$qmr()`` and the pretty-printers; harmless when repeated."""
    from ..verbs import VERBS

    _session.listen()
    Group()
    for verb in VERBS.values():
        if "gdb" in verb.fronts:
            Command(_session, verb)
    Locate(_session)
    gdb.printing.register_pretty_printer(None, Printers(_session), replace=True)
