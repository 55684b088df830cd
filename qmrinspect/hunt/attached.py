"""A VM that runs already
----------------------

What a hunt on it reads and drives it with.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Callable, TypeVar

from ..errors import TargetError
from ..monitor.base import Monitor
from ..search.stale import Where
from ..snapshot import Snapshot, Stale
from ..target.proc import dead

if TYPE_CHECKING:
    from ..search.blocks import Blocks
    from ..trace.tracing import Tracing

__all__ = ["Attached"]

T = TypeVar("T")

# Seconds that a QEMU which has closed its monitor takes to be gone.
_DYING_S = 2.0
_DYING_POLL_S = 0.01


def ended(pid: int, timeout: float) -> bool:
    """Wait until a process has ended, for ``timeout`` seconds at most; say whether it has."""
    deadline = time.monotonic() + timeout
    while True:
        if dead(pid):
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(_DYING_POLL_S)


class Attached:
    """A QEMU that runs already; it is never restarted.

    :param read: takes a reading.
    :param monitor: of that QEMU.
    :param stale: searches the last reading for stale callbacks.
    :param tracing: makes what traces it.
    :param blocks: tells the live blocks of the last reading.
    """

    def __init__(
        self,
        read: Callable[[], Snapshot],
        monitor: Monitor,
        stale: Callable[[Snapshot, Where], Sequence[Stale]],
        tracing: Callable[[], Tracing] | None = None,
        blocks: Callable[[Snapshot], Blocks | None] | None = None,
    ) -> None:
        self._read, self._stale, self._blocks = read, stale, blocks
        self._monitor = monitor
        self._tracing = tracing
        self._pid: int | None = None

    def read(self) -> Snapshot:
        """Take a reading."""
        snapshot = self._read()
        self._pid = snapshot.target.pid
        return snapshot

    def stale(self, snapshot: Snapshot, where: Where) -> Sequence[Stale]:
        """Search the last reading for callbacks that outlive what they need."""
        return self._stale(snapshot, where)

    def blocks(self, snapshot: Snapshot) -> Blocks | None:
        """Return the live blocks of the last reading, None where they are not known."""
        return self._blocks(snapshot) if self._blocks is not None else None

    def drive(self, step: Callable[[Monitor], T]) -> T:
        """Run ``step``; the VM runs anyway."""
        return step(self._monitor)

    def death(self) -> str | None:
        """Say that the process has ended, None while it lives; how is for its parent to know."""
        if self._pid is None or not ended(self._pid, _DYING_S):
            return None
        return f"QEMU {self._pid} has ended"

    def tracing(self) -> Tracing:
        """Return what traces it.

        :raises TargetError: it is no process.
        """
        if self._tracing is None:
            raise TargetError("this is no process that can be traced")
        return self._tracing()
