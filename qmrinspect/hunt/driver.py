"""How a front reads and drives a VM
---------------------------------
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Callable, Protocol, TypeVar

from ..monitor.base import Monitor
from ..search.stale import Where
from ..snapshot import Snapshot, Stale

if TYPE_CHECKING:
    from ..search.blocks import Blocks
    from ..trace.tracing import Tracing

__all__ = ["Driver"]

T = TypeVar("T")


class Driver(Protocol):
    """How a front reads memory and drives the monitor."""

    def read(self) -> Snapshot:
        """Take a reading."""

    def stale(self, snapshot: Snapshot, where: Where) -> Sequence[Stale]:
        """Search the last reading for callbacks that outlive what they need."""

    def blocks(self, snapshot: Snapshot) -> Blocks | None:
        """Return the live blocks of the last reading, None where they are not known."""

    def drive(self, step: Callable[[Monitor], T]) -> T:
        """Run ``step`` with the monitor while the VM runs."""

    def death(self) -> str | None:
        """Return how QEMU died: signal and last message; None while it lives."""

    def tracing(self) -> Tracing:
        """Return what traces it; raises TargetError or UsageError where nothing can."""
