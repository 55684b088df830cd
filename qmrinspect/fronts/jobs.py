"""Commands that can be given up
-----------------------------

A command of the REPL runs in a thread of its own.  Cancelling it drops what it would
have answered: the thread ends at the next step that touches the VM, never between
stopping it and letting it go.
"""

from __future__ import annotations

import threading
import time
from typing import Callable

from ..errors import QmrError

__all__ = ["Cancelled", "Job", "check_cancelled", "current"]

_local = threading.local()


class Cancelled(QmrError):
    """The user gave the command up."""


class Job:
    """One command on its way.

    :param line: what was typed.
    """

    def __init__(self, line: str) -> None:
        self.line = line
        self.started = time.monotonic()
        self._cancelled = threading.Event()
        self._undo: list[Callable[[], None]] = []

    @property
    def cancelled(self) -> bool:
        """Whether it was given up."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Give it up; may be called by any thread, and repeated."""
        self._cancelled.set()
        for undo in self._undo:
            undo()

    def on_cancel(self, undo: Callable[[], None]) -> None:
        """Have something done when it is given up, like ending a pipeline."""
        self._undo.append(undo)

    def check(self) -> None:
        """End here when it was given up.

        :raises Cancelled: it was.
        """
        if self._cancelled.is_set():
            raise Cancelled("cancelled")

    def __enter__(self) -> Job:
        _local.job = self
        return self

    def __exit__(self, *_: object) -> None:
        _local.job = None


def current() -> Job | None:
    """Return the job of this thread, None in a thread that has none."""
    return getattr(_local, "job", None)


def check_cancelled() -> None:
    """End this thread's job here when it was given up.

    :raises Cancelled: it was.
    """
    job = current()
    if job is not None:
        job.check()
