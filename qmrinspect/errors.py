"""Errors
------

One root, :class:`QmrError`.  Every failure that a user can meet is one sentence
that says what happened and one hint that says what to do next; a front prints
both and leaves with :attr:`QmrError.exit_code`.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = [
    "LayoutError",
    "MonitorError",
    "NotStopping",
    "ObjectNotFound",
    "PeerMissing",
    "QmrError",
    "ReadingError",
    "TargetError",
    "UsageError",
]


class QmrError(Exception):
    """A failure that the user can act on.

    :param text: what happened, one sentence without a final full stop.
    :param hint: what to do next; None when the sentence says it already.
    :param lines: what was tried, or can be done, a line each; a front shows them below.
    """

    exit_code = 2

    def __init__(self, text: str, hint: str | None = None, lines: Iterable[str] = ()) -> None:
        super().__init__(text)
        self.text = text
        self.hint = hint
        self.lines = tuple(lines)

    def __str__(self) -> str:
        return f"{self.text}: {self.hint}" if self.hint else self.text


class UsageError(QmrError):
    """The command line or a verb's arguments make no sense."""


class TargetError(QmrError):
    """The process, core, snapshot or gdbserver cannot be used."""


class NotStopping(TargetError):
    """A thread of the process waits in the kernel and cannot be stopped for now."""


class MonitorError(QmrError):
    """QEMU's monitor cannot be reached, or refuses, or is lost."""


class ObjectNotFound(QmrError):
    """No object, or more than one, goes by the name that was given."""


class LayoutError(QmrError):
    """No structure layout is known that fits this process."""

    exit_code = 3


class ReadingError(QmrError):
    """The memory was read, but no trustworthy picture came out of it."""

    exit_code = 3


class PeerMissing(QmrError):
    """This machine does not have what a backend needs; the text begins with "needs"."""
