"""What stays with every cycle
---------------------------

The verdict on a device that was finalized, and left something behind with every cycle.
"""

from __future__ import annotations

from ..audit.growth import GROWS
from ..audit.outcome import Outcome
from ..documents import HuntRow
from ..search.memory import MemoryLeak

__all__ = ["with_what_stays"]


def with_what_stays(driver: str, row: HuntRow, leak: MemoryLeak | None, grown: str) -> HuntRow:
    """Return the row of a last cycle with what comes with each.

    :param leak: the memory that stays.
    :param grown: what more there is in the QOM tree, a sentence; empty for nothing.
    """
    row = {**row, "memory": leak.json()} if leak is not None else row
    cause, text = (GROWS, grown) if grown else ("", "")
    if leak is not None and not grown:
        cause, text = leak.cause, f"memory stays: {leak.text}"
    if not cause or row["outcome"] != Outcome.CLEAN:
        return row
    # It balances, or is no object, and nobody will ever take it back.
    text = f"{driver} was finalized, and {text}"
    outcome = str(Outcome.PARTIAL_LEAK)
    return {**row, "outcome": outcome, "cause": cause, "causes": [cause], "text": text}
