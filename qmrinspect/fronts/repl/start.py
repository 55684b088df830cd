"""The REPL
--------

``qmr [TARGET] repl``: a session at a terminal, or the commands of ``-c`` or of a file
on standard input.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..options import Options

__all__ = ["start", "startup_file"]

# A thread that computes is asked to let another one go on after this many seconds: a key
# is to be echoed while a reading is decoded (Python's own default is five times that).
_SWITCH_S = 0.001


def start(options: Options, commands: list[str] | None, startup: bool) -> int:
    """Open the REPL, or run its commands, and return the exit code.

    :param commands: of ``-c``; None to read standard input.
    :param startup: whether the startup file is run; scripts run none.
    """
    sys.setswitchinterval(_SWITCH_S)
    if commands is None and sys.stdin.isatty() and sys.stdout.isatty():
        from .screen import Screen

        return Screen(options, startup_file() if startup else None).run()
    from .script import run_script

    lines = sys.stdin if commands is None else [line for c in commands for line in c.splitlines()]
    return run_script(options, lines)


def startup_file() -> Path | None:
    """Return the file of commands to run first, None when there is none."""
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    path = Path(base) / "qmr" / "replrc"
    return path if path.is_file() else None
