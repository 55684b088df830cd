"""The commands of GDB
-------------------
"""

from __future__ import annotations

import os

import gdb.printing

from ... import __version__
from ...layout.gdbchild import use_gdb
from ...target.proc import command_line
from ...verbs.verb import Verb
from .commands import Command, Group, Help
from .session import Session
from .values import Locate, Printers

__all__ = ["register"]

_session = Session()
# Of our own, which may be defined again.
_shorts: set[str] = set()


def register() -> None:
    """Define the commands, ``$qmr()`` and the pretty-printers; harmless when repeated."""
    from ...verbs.table import VERBS
    from ..repl.table import REPL_VERBS

    # The GDB that reads debug information is this one: another may not understand it.
    use_gdb([*_command(), "--data-directory", str(gdb.parameter("data-directory"))])
    _session.listen()
    Group()
    for verb in VERBS.values():
        if "gdb" in verb.fronts:
            Command(_session, verb)
            _short(verb)
    Help(REPL_VERBS["help"])
    Locate(_session)
    gdb.printing.register_pretty_printer(None, Printers(_session), replace=True)
    # Not to stdout, which is the answers' alone: a script may read it.
    gdb.write(
        f"qmr {__version__}: qmr check looks for leaks, help qmr lists the verbs; each has a short "
        "name, as qrefs\n",
        gdb.STDERR,
    )


def _short(verb: Verb) -> None:
    """Let a verb be named without its group: ``qrefs`` is ``qmr refs``."""
    name = f"q{verb.name}"
    if verb.name[0] == "q" or "-" in verb.name or (name not in _shorts and _taken(name)):
        return  # the user has a command of that name
    _shorts.add(name)
    Command(_session, verb, name)


def _taken(name: str) -> bool:
    try:
        gdb.execute(f"help {name}", to_string=True)
    except gdb.error:
        return False
    return True


def _command() -> list[str]:
    """Return what this GDB was started with, its program first."""
    exe = os.readlink("/proc/self/exe")
    words = command_line("self")
    # One from PyPI is started by the dynamic loader, whose first argument it is.
    return [exe, words[1]] if os.path.basename(exe).startswith("ld-") else [exe]
