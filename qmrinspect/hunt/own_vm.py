"""A hunt's own VM
---------------

A QEMU that is started for a hunt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Callable, TypeVar

from ..audit.outcome import Outcome
from ..closing import Closing
from ..hotplug.backtrace import backtrace, stacks
from ..hotplug.recipes import vm_arguments
from ..hotplug.vm import Vm
from ..layout import Layout
from ..monitor.base import Monitor
from ..monitor.recording import RecordingMonitor
from ..reading import Reader
from ..search.stale import Where
from ..snapshot import Snapshot, Stale
from ..target.process import Process
from .hunted import Hunted

if TYPE_CHECKING:
    from ..search.blocks import Blocks
    from ..trace.tracing import Tracing

__all__ = ["OwnVm"]

T = TypeVar("T")

# Seconds that a QEMU which has closed its monitor takes to be gone.
_DYING_S = 2.0


class OwnVm(Closing):
    """A QEMU of our own.

    :param needs: what it must have for what will be plugged, as of :attr:`Recipe.needs`.
    :param extra: more arguments for QEMU.
    :param accel: QEMU's accelerator.
    :param ready: waits for the guest of a VM that has one, and makes the VM run.
    :param layout: what fitted an earlier VM of this QEMU; it is tried first.
    :param met: the types that it was seen to fit there.
    """

    def __init__(
        self,
        needs: Collection[str],
        qemu: str = "qemu-system-x86_64",
        machine: str = "pc",
        extra: Sequence[str] = (),
        accel: str = "tcg",
        ready: Callable[[Vm], None] | None = None,
        layout: Layout | None = None,
        met: Collection[str] = (),
    ) -> None:
        #: What fitted.
        self.layout, self.met = layout, met
        stopped = ready is None
        self.vm = Vm(qemu, machine, accel, [*vm_arguments(needs, machine), *extra], stopped)
        try:
            if ready is not None:
                ready(self.vm)
            monitor = self.vm.monitor(RecordingMonitor)
            assert isinstance(monitor, RecordingMonitor)
            self.monitor = monitor
            self._process = Process(self.vm.pid)
        except BaseException:
            self.vm.close()
            raise
        # Where a guest runs, it is measured by nobody, but a long stop may time it out.
        layouts = [layout] if layout is not None else []
        self._reader = Reader(self._process, layouts, own=stopped, met=met)

    def read(self) -> Snapshot:
        """Take a reading."""
        snapshot = self._reader.read()
        self.layout, self.met = self._reader.layout, self._reader.met
        return snapshot

    def stale(self, snapshot: Snapshot, where: Where) -> Sequence[Stale]:
        """Search the last reading for callbacks that outlive what they need."""
        return self._reader.stale(snapshot, where)

    def blocks(self, snapshot: Snapshot) -> Blocks | None:
        """Return the live blocks of the last reading, None where they are not known."""
        return self._reader.blocks(snapshot)

    def tally(self) -> Counter[int] | None:
        """Return how many blocks of each size were live in the last reading, None for not known."""
        return self._reader.tally()

    def drive(self, step: Callable[[Monitor], T]) -> T:
        """Run ``step``; the VM runs anyway."""
        return step(self.monitor)

    def death(self) -> str | None:
        """Return how QEMU died: signal and last message; None while it lives."""
        self.vm.wait(_DYING_S)
        return self.vm.exit_text()

    def tracing(self) -> Tracing:
        """Return what traces it."""
        from ..trace.tracing import tracing_of

        return tracing_of(self._reader)

    def frames(self, hunted: Hunted, cycles: int) -> list[str]:
        """Return the frames of a QEMU that hangs, or of a crash that so many cycles end with."""
        if hunted.outcome == Outcome.HANG:
            return stacks(self.vm.pid)
        return backtrace(self.vm, hunted.recipe, cycles)

    def close(self) -> None:
        """End the VM."""
        self.monitor.close()
        self._process.close()
        self.vm.close()
