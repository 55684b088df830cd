"""What came of a cycle
--------------------
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from ..audit.outcome import Outcome
from ..documents import HuntRow
from ..hotplug.kinds import Recipe
from ..hotplug.unplug import Cycle
from ..ledger import Book
from .foretell import Foretold
from .judge import Judgement

if TYPE_CHECKING:
    from ..trace.tracing import Trace

__all__ = ["NOT_PLUGGABLE", "Found", "Hunted"]

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


class Hunted(NamedTuple):
    """What came of one cycle; durations in microseconds.  What did not happen is None.

    :param plug_us: how long ``device_add`` took; ``unplug_us`` from ``device_del`` to its event or
        its acknowledgement, ``judge_us`` the readings after that.
    :param finalized_us: when the device was seen to be no more, since 1970.
    :param books: before the plug, with the device, and after the unplug, as far as
        they were made.
    :param used: links and disks that the guest used while it was plugged.
    :param foretold: what the unplug would have done under each policy, where that is known.
    :param under: the outcome by policy, as far as it is foretold or implied.
    :param trace: who took what is still held, where that was recorded.
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


class Found(NamedTuple):
    """What is said of a driver, or of one way to fail: a row, and what it was made of.

    :param argv: the command line of its QEMU, and ``transcript`` what went over the monitor; empty
        where no evidence is wanted.
    """

    hunted: Hunted
    row: HuntRow
    argv: Sequence[str] = ()
    transcript: Sequence[Mapping[str, object]] = ()
