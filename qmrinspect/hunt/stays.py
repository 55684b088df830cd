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
    driver: str, row: HuntRow, leak: MemoryLeak | None, grown: tuple[str, str]
) -> HuntRow:
    """Return the row of a last cycle with what comes with each.

    :param leak: the memory that stays.
    :param grown: the cause and a sentence on the objects that stay; empty for none.
    """
    row = {**row, "memory": leak.json()} if leak is not None else row
    cause, text = grown
    if leak is not None and not cause:
        cause, text = leak.cause, f"memory stays: {leak.text}"
    if not cause or row["outcome"] != Outcome.CLEAN:
        return row
    # It balances, or is no object, and nobody will ever take it back.
    text = f"{driver} was finalized, and {text}"
    outcome = str(Outcome.PARTIAL_LEAK)
    return {**row, "outcome": outcome, "cause": cause, "causes": [cause], "text": text}
