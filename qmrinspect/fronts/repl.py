"""The REPL
--------

``qmr [TARGET] repl``: a session at a terminal, or the commands of ``-c`` or of a file
on standard input.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from types import FrameType

from ..errors import QmrError
from ..hotplug.monitor import Event
from ..index import printable
from . import render
from .cli import Options
from .repl_engine import Engine, guarded, logical_lines
from .repl_jobs import Job
from .repl_session import ReplSession, Vm

__all__ = ["start", "startup_file"]

_INTERRUPTED = 130

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
        from .repl_screen import Screen

        return Screen(options, startup_file() if startup else None).run()
    lines = sys.stdin if commands is None else [line for c in commands for line in c.splitlines()]
    return _script(options, lines)


def startup_file() -> Path | None:
    """Return the file of commands to run first, None when there is none."""
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    path = Path(base) / "qmr" / "replrc"
    return path if path.is_file() else None


def _named(options: Options) -> bool:
    return bool(options.name or options.values)


def _complain(number: int, text: str) -> None:
    print(f"qmr: line {number}: {text}", file=sys.stderr)


class _Printer:
    """Output of a script: plain lines on stdout."""

    def line(self, text: str) -> None:
        print(text, flush=True)

    def json(self, text: str) -> None:
        print(text, flush=True)


def _script(options: Options, lines: Iterable[str]) -> int:
    def say(text: str, look: str) -> None:
        print(printable(f"qmr: {text}", 4000), file=sys.stderr)

    def heard(vm: Vm, event: Event) -> None:
        return  # a script asks for events when it wants them

    session = ReplSession(say, lambda: None, heard)
    engine, out, worst = Engine(session), _Printer(), 0
    job = Job("")

    def interrupt(number: int, frame: FrameType | None) -> None:
        job.cancel()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        with job:
            try:
                session.attach(options)
            except QmrError:
                # A script may attach by itself.
                if _named(options):
                    raise
            for number, line in logical_lines(lines):
                code = guarded(engine, line, out, partial(_complain, number))
                if code > 1:
                    return code
                worst = max(worst, code)
                if session.over:
                    break
    finally:
        signal.signal(signal.SIGINT, before)
        session.close()
        render.use_style(None)
    return worst
