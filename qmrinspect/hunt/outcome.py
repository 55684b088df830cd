"""Outcomes of an unplug
---------------------

The words of the contract, and which of them are findings: one list for the hunt, the verbs
and the reports.
"""

from __future__ import annotations

from enum import Enum

__all__ = ["BAD", "Outcome"]


class Outcome(str, Enum):
    """How an unplug ended; equal to its word in JSON."""

    #: Finalized, with all that came with it.
    CLEAN = "clean"
    #: Alive, and all that holds it is transient.
    DELAYED = "delayed"
    #: Unparented, alive, and held.
    LEAK = "leak"
    #: The device was finalized, something that came with it was not.
    PARTIAL_LEAK = "partial-leak"
    #: Finalized, and something live would still call or read it.
    STALE = "stale"
    #: The guest never released it.
    NOT_ACKED = "not-acked"
    #: QEMU refused ``device_add`` or ``device_del``.
    REFUSED = "refused"
    #: QEMU died.
    CRASH = "crash"
    #: QEMU did not answer in time.
    HANG = "hang"

    def __str__(self) -> str:
        return str(self.value)

    def __format__(self, spec: str) -> str:
        return format(str(self.value), spec)


#: Outcomes that are findings; the others say that nothing was wrong, or nothing tried.
BAD = frozenset((Outcome.LEAK, Outcome.PARTIAL_LEAK, Outcome.STALE, Outcome.CRASH, Outcome.HANG))
