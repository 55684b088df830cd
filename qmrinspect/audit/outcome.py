"""What an unplug came to
---------------------

The word for it, the cause, and the sentence, from what is left of a device: the same
whether QEMU was seen to leave it or is foretold to.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ..ledger import Book
from ..text import Word, plural
from ..tuples import NamedTuple
from .cause import Cause, causes

__all__ = [
    "ALL_FINALIZED",
    "BAD",
    "FINALIZED",
    "UNJUDGED",
    "Ended",
    "Outcome",
    "is_of_a_view",
    "outcome_of",
]


class Outcome(Word):
    """How an unplug ended."""

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


#: Outcomes that are findings; the others say that nothing was wrong, or nothing tried.
BAD = frozenset((Outcome.LEAK, Outcome.PARTIAL_LEAK, Outcome.STALE, Outcome.CRASH, Outcome.HANG))
#: Outcomes with which the device itself was finalized.
FINALIZED = frozenset((Outcome.CLEAN, Outcome.PARTIAL_LEAK, Outcome.STALE))
#: Outcomes with which all objects that came with it are finalized, or seen to be later; a
#: callback that outlives them is the device's own fault.
ALL_FINALIZED = frozenset((Outcome.CLEAN, Outcome.DELAYED, Outcome.STALE))
#: Outcomes that say nothing of what an unplug leaves: it did not come to one.
UNJUDGED = frozenset((Outcome.REFUSED, Outcome.NOT_ACKED))


class Ended(NamedTuple):
    """Outcome and cause in the contract's words, None for none; ``text`` is one sentence."""

    outcome: Outcome
    cause: str | None
    causes: Sequence[Cause]
    text: str


def outcome_of(book: Book, device: int | None, lost: Collection[int], name: str) -> Ended:
    """Say what came of an unplug.

    :param book: after it.
    :param device: its address, None for what is no object.
    :param lost: what came with the device, is alive, and not reachable.
    :param name: what to call the device.
    """
    if device is not None and device in lost:
        return _leak(book, device, sorted(lost))
    if lost:
        return _partial(book, sorted(lost), name)
    return Ended(Outcome.CLEAN, None, (), f"{name} was finalized with all that came with it")


def _leak(book: Book, device: int, lost: Sequence[int]) -> Ended:
    found = causes(book, device, lost)
    own = [c for c in found if c.object == device]
    if own and all(c.name == "delayed" for c in own):
        return Ended(Outcome.DELAYED, None, tuple(own), own[0].text)
    reasons = [c for c in found if c.name != "delayed"]
    text = "; ".join(c.text for c in reasons) or "it has references that nothing known holds"
    cause = reasons[0].name if reasons else "unbalanced"
    return Ended(Outcome.LEAK, cause, tuple(reasons), text)


def _partial(book: Book, lost: Sequence[int], name: str) -> Ended:
    # What is below something that is lost goes with it.
    objects = book.index.snapshot.objects
    heads = [a for a in lost if objects[a].parent not in lost] or lost
    found = [c for a in heads for c in causes(book, a, (a,))]
    reasons = [c for c in found if c.name != "delayed"]
    if not reasons and found:
        text = f"{name} was finalized; {len(lost)} of its objects wait for RCU or a view"
        return Ended(Outcome.DELAYED, None, tuple(found), text)
    text = f"{name} was finalized, {len(lost)} of its objects were not: " + "; ".join(
        c.text for c in reasons[:4]
    )
    if not reasons:
        verb = "was" if len(lost) == 1 else "were"
        text = f"{name} was removed, {plural(len(lost), 'object')} that came with it {verb} not"
    cause = reasons[0].name if reasons else "unbalanced"
    return Ended(Outcome.PARTIAL_LEAK, cause, tuple(reasons), text)


def is_of_a_view(book: Book, address: int) -> bool:
    """Whether an object belongs to a flat view: a subpage goes when its view does."""
    region = book.index.snapshot.regions.get(address)
    return region is not None and not region.owner and not region.name
