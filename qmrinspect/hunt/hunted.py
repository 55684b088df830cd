"""What came of a cycle
--------------------
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from ..audit.outcome import Outcome
from ..documents import ErrorPathJson, GrowthJson
from ..hotplug.kinds import Recipe
from ..hotplug.unplug import Cycle, Step
from ..ledger import Book
from .foretell import Foretold
from .judge import Judgement

if TYPE_CHECKING:
    from ..search.blocks import Blocks
    from ..search.memory import MemoryLeak
    from ..trace.tracing import Trace

__all__ = ["NOT_PLUGGABLE", "Hunted", "stable"]

#: QEMU's own words for what it does not mark hotpluggable, or has no bus for
#: (qdev_device_add_from_qdict(), softmmu/qdev-monitor.c), or only knows by name
#: (bdrv_open_inherit(), block.c); said before anything is made.
NOT_PLUGGABLE = re.compile(
    r"expects a (?:pluggable|dynamic sysbus) device type|does not support hotplugging"
    r"|can not be hotplugged on this machine|^No '.*' bus found for device"
    # The only device of such a bus is the one that came with it.
    r"|^A 'virtio-bus' bus was found but is full"
    r"|invalid object type|does not accept value|is not a valid (char|net|block)"
    r"|'.*' is not a valid device model name|^Unknown driver '"
)


# "rocker: 0x7f12..." and pids differ between two runs of the same crash.
_ADDRESS = re.compile(r"0x[0-9a-f]{6,}")


class Hunted(NamedTuple):
    """What came of one cycle, or of one way to fail: all that a row is made of.

    Durations are in microseconds.  What did not happen is None.

    :param plug_us: how long ``device_add`` took; ``unplug_us`` from ``device_del`` to its event or
        its acknowledgement, ``judge_us`` the readings after that.
    :param finalized_us: when the device was seen to be no more, since 1970.
    :param books: before the plug, with the device, and after the unplug, as far as
        they were made.
    :param used: links and disks that the guest used while it was plugged.
    :param foretold: what the unplug would have done under each policy, where that is known.
    :param under: the outcome by policy, as far as it is foretold or implied.
    :param trace: who took what is still held, where that was recorded.
    :param blocks: the live blocks after it, where they were counted.
    :param enough: whether it tells without more cycles what comes with each; None where that is
        not known.
    :param before: the drivers that were hunted in its VM before it, in this order.
    :param frames: where QEMU crashed, or stands.
    :param argv: the command line of its QEMU, and ``transcript`` what went over the monitor; empty
        where no evidence is wanted.
    :param guilty: those of ``before`` after which it ends otherwise than here.
    :param note: what else is to be said of it.
    :param number: of the cycle, from 1.
    :param growth: what grew over the cycles; ``memory`` and ``stays`` what stays with each, and
        its cause where the device was finalized.
    :param tried: how many ways to fail there were, and ``error_path`` the one that this came of.
    """

    recipe: Recipe
    machine: str
    outcome: Outcome
    judgement: Judgement
    cycle: Cycle
    plug_us: int | None = None
    unplug_us: int | None = None
    judge_us: int | None = None
    after: Book | None = None
    finalized_us: int | None = None
    books: tuple[Book, ...] = ()
    used: tuple[str, ...] = ()
    foretold: Foretold | None = None
    under: Mapping[str, str] = MappingProxyType({})
    trace: Trace | None = None
    blocks: Blocks | None = None
    enough: bool | None = True
    before: Sequence[str] = ()
    frames: Sequence[str] | None = None
    argv: Sequence[str] = ()
    transcript: Sequence[Mapping[str, object]] = ()
    guilty: Sequence[str] | None = None
    note: str | None = None
    number: int = 1
    growth: GrowthJson | None = None
    memory: MemoryLeak | None = None
    stays: str | None = None
    tried: int | None = None
    error_path: ErrorPathJson | None = None

    @property
    def text(self) -> str:
        """What came of it, in a sentence."""
        if self.outcome == Outcome.CRASH:
            return stable(self.judgement.text)
        kept = self.cycle.not_released if self.outcome == Outcome.CLEAN else ()
        rest = f"; QEMU did not release {'; '.join(kept)}" if kept else ""
        return self.judgement.text + rest

    @property
    def pluggable(self) -> bool:
        """Whether QEMU says of what was hunted that it can be plugged at all."""
        refused = self.cycle.refused if self.cycle.step == Step.DEVICE_ADD else None
        return refused is None or not NOT_PLUGGABLE.search(refused)


def stable(text: str) -> str:
    """Return QEMU's last message without what differs from run to run."""
    return _ADDRESS.sub("0x..", text).replace(os.sep + os.sep, os.sep)
