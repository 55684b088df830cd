"""Start of the program
--------------------

Imports next to nothing, so that a Ctrl-C while the rest is imported ends in a sentence.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

__all__ = ["main"]

_INTERRUPTED = 130


def main() -> NoReturn:
    """Run qmr, and exit with its code."""
    # Who started it in the background, or under nohup, wants no Ctrl-C to end it.
    heeded = signal.getsignal(signal.SIGINT) not in (signal.SIG_IGN, signal.SIG_DFL, None)
    if heeded:
        signal.signal(signal.SIGINT, _at_once)
    from .cli import main as run

    if heeded:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    code = run()
    # What is left is an end, where there is nothing to say any more.
    if heeded:
        signal.signal(signal.SIGINT, _silently)
    _leave(code)


def _leave(code: int) -> NoReturn:
    """End the process; to take all objects apart first would be a tenth of a check."""
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _at_once(number: int, frame: FrameType | None) -> None:
    begin = b"\n" if os.isatty(2) else b""
    os.write(2, begin + b"qmr: interrupted before anything was done\n")
    os._exit(_INTERRUPTED)


def _silently(number: int, frame: FrameType | None) -> None:
    os._exit(_INTERRUPTED)
