"""Who caused it
-------------

What a device did may be due to one that was in its VM before: when that may be so, and which
one it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Callable

from ..audit.outcome import Outcome
from ..errors import QmrError
from ..hotplug.unplug import Step
from .hunted import Hunted

__all__ = ["caused_by", "cleared"]

# So many of the devices before a victim, the last ones and its relatives, may have harmed its VM.
_SUSPECTS = 2
# Of the last ones so many are searched, by halves, when it was none of those.
_HALVED = 16

_DOES = {
    Outcome.CRASH: "QEMU dies of it",
    Outcome.REFUSED: "QEMU refuses it",
    Outcome.NOT_ACKED: "the guest does not release it",
}


def cleared(hunted: Hunted, again: Callable[[Sequence[str]], Hunted], search: bool) -> Hunted:
    """Return what comes of a driver alone, where one that was before it may be to blame.

    :param hunted: what came of it after others.
    :param again: hunts it in a VM where only the drivers that it is given were before.
    :param search: whether to say which one was to blame.
    """
    suspected = _suspicion(hunted) if hunted.before else None
    if suspected is None:
        return hunted
    alone = again(())
    if alone.outcome == hunted.outcome:
        return alone

    def causes(names: Sequence[str]) -> bool:
        try:
            return again(names).outcome != alone.outcome
        except QmrError:
            return True

    before = hunted.before
    guilty = caused_by(hunted.recipe.driver, before, causes) if search else []
    who = " and ".join(guilty) or f"{len(before)} others, {before[-1]} last,"
    note = f"{suspected} where {who} came before: {hunted.text}"
    return alone._replace(guilty=guilty, note=note)


def _suspicion(hunted: Hunted) -> str | None:
    """Say what a device that was there before may be to blame for, None for nothing."""
    if hunted.outcome == Outcome.CRASH and hunted.foretold is not None:
        aborts = [found.abort for found in hunted.foretold.forecasts if found.abort is not None]
        # What follows from the device's own references needs nobody else.
        if any(abort.expression in hunted.judgement.text for abort in aborts):
            return None
    if hunted.outcome == Outcome.REFUSED:
        # Of a refusal, where nothing else is.
        tried = hunted.cycle.step == Step.DEVICE_ADD and hunted.pluggable
        if not tried or hunted.recipe.missing:
            return None
    return _DOES.get(hunted.outcome)


def caused_by(
    driver: str, before: Sequence[str], causes: Callable[[Sequence[str]], bool]
) -> list[str]:
    """Return the devices after which a driver does not end as it does alone.

    :param before: what was in the VM, in this order.
    :param causes: whether it ends otherwise in a fresh VM, after these.
    :return: one mostly; nothing where none of the likely ones did it.
    """
    names = list(dict.fromkeys(before))
    # Relatives share code, and what was last is fresh in memory.
    related = get_close_matches(driver, names, _SUSPECTS, 0.0)
    for suspect in dict.fromkeys([*related, *reversed(names[-_SUSPECTS:])]):
        if causes([suspect]):
            return [suspect]
    group = names[-_HALVED:]
    while len(group) > 1:
        half = group[: len(group) // 2]
        group = half if causes(half) else group[len(half) :]
    return group if causes(group) else []
