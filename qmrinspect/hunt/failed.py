"""What failed
-----------

A way to plug a driver that QEMU refused, or died of, and its words.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from ..hotplug.failing import Trial
from ..hotplug.unplug import Cycle
from .own_vm import OwnVm

__all__ = ["Failed", "end_of"]

# So many of the ways that came before are named in a sentence.
_NAMED = 8


class Failed(NamedTuple):
    """A way that QEMU refused, or died of.

    :param message: QEMU's words, or how it died.
    :param after: the ways of which one, or some together, must be tried before; None where this
        way alone is enough.
    """

    trial: Trial
    cycle: Cycle
    message: str
    after: tuple[Trial, ...] | None = None

    def with_before(self, text: str) -> str:
        """Add what came before, where a fresh QEMU does not die of this way alone."""
        if self.after is None:
            return text
        ways = [trial.describe() for trial in self.after]
        if len(ways) == 1:
            return f"{text}; not of this way alone, but after {ways[0]}"
        more = f" and {len(ways) - _NAMED} more" if len(ways) > _NAMED else ""
        one = f"one of these ways was before it: {', '.join(ways[:_NAMED])}{more}" if ways else ""
        return f"{text}; not of this way alone, {one or 'a fresh QEMU survives it'}"

    def shape(self) -> tuple[str, str]:
        """Return what ways alike have in common: the message, and what the device is without.

        Of two backends, say, each is looked for where other things were done already.
        """
        without = self.trial.property if self.trial.value is None else ""
        return without, re.sub(r"0x[0-9a-f]+|\d+|'[^']*'|\"[^\"]*\"|err\d+", "#", self.message)


def end_of(vm: OwnVm, cycle: Cycle) -> str:
    """Say how QEMU died of a cycle, or what it did not answer."""
    if cycle.crash is not None:
        return vm.death() or cycle.crash
    assert cycle.hang is not None
    return cycle.hang
