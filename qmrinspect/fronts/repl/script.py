"""The REPL without a terminal
---------------------------

The commands of ``-c`` or of a file on standard input, one after the other.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterable
from functools import partial
from types import FrameType

from ...errors import QmrError
from ...monitor.base import Event
from ...report import render
from ...text import printable
from ..jobs import Job
from ..options import Options
from .engine import Engine, guarded
from .line import logical_lines
from .session import ReplSession
from .vm import Vm

__all__ = ["run_script"]


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


def run_script(options: Options, lines: Iterable[str]) -> int:
    """Run lines until one fails, and return the exit code: the failure's, or 1 for findings."""

    def say(text: str, look: str | None) -> None:
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
