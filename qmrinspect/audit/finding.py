"""What a check finds
------------------
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..ledger import Edge

__all__ = ["Finding"]


class Finding(NamedTuple):
    """One thing that is wrong; ``address`` is the object, 0 for the machine as a whole."""

    kind: str
    severity: str
    address: int
    observed: int
    expected: int
    references: Sequence[Edge]
    text: str
