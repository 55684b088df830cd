"""What stays with every cycle
---------------------------

The verdict on a device that was finalized, and left something behind with every cycle.
"""

from __future__ import annotations

from ..audit.outcome import Outcome
from ..documents import HuntRow
from ..search.memory import MemoryLeak

__all__ = ["with_what_stays"]


def with_what_stays(
    row: HuntRow, leak: MemoryLeak | None, grown: tuple[str, str] | None
) -> HuntRow:
    """Return the row of a last cycle with what comes with each.

    :param leak: the memory that stays, None for none.
    :param grown: the cause and a sentence on the objects that stay, None for none.
    """
    if leak is not None:
        row = {**row, "memory": leak.json()}
        grown = grown or (leak.cause, f"memory stays: {leak.text}")
    if grown is None or row["outcome"] != Outcome.CLEAN:
        return row
    cause, text = grown
    # It balances, or is no object, and nobody will ever take it back.
    text = f"{row['device']} was finalized, and {text}"
    outcome = str(Outcome.PARTIAL_LEAK)
    return {**row, "outcome": outcome, "cause": cause, "causes": [cause], "text": text}
