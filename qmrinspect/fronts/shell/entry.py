"""Start of the program
--------------------

Imports next to nothing, so that a Ctrl-C while the rest is imported ends in a sentence.
"""

from __future__ import annotations

import gc
import os
import signal
from types import FrameType

__all__ = ["main"]

_INTERRUPTED = 130


def main() -> int:
    """Run qmr and return its exit code."""
    # Who started it in the background, or under nohup, wants no Ctrl-C to end it.
    heeded = signal.getsignal(signal.SIGINT) not in (signal.SIG_IGN, signal.SIG_DFL, None)
    if heeded:
        signal.signal(signal.SIGINT, _at_once)
    from .cli import main as run

    if heeded:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return run()
    finally:
        # All memory goes at once: to look for garbage in it first is a tenth of a check.
        gc.freeze()
        # What is left is Python's own end, where there is nothing to say any more.
        if heeded:
            signal.signal(signal.SIGINT, _silently)


def _at_once(number: int, frame: FrameType | None) -> None:
    begin = b"\n" if os.isatty(2) else b""
    os.write(2, begin + b"qmr: interrupted before anything was done\n")
    os._exit(_INTERRUPTED)


def _silently(number: int, frame: FrameType | None) -> None:
    os._exit(_INTERRUPTED)
