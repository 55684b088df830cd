"""What a check finds
------------------
"""

from __future__ import annotations

from collections.abc import Sequence

from ..ledger import Edge
from ..text import Word
from ..tuples import NamedTuple

__all__ = ["Finding", "Severity"]


class Severity(Word):
    """How bad a finding is."""

    ERROR = "error"
    WARNING = "warning"
    #: Says what there is; nothing is wrong.
    NOTE = "note"


class Finding(NamedTuple):
    """One thing that is wrong; ``address`` is the object, 0 for the machine as a whole."""

    kind: str
    severity: Severity
    address: int
    observed: int
    expected: int
    references: Sequence[Edge]
    text: str
