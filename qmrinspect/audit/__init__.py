"""The audit
---------

Observed against expected: which policy balances the books, what does not
balance, and why an object is alive.
"""

from .check import Finding, Report, check
from .graph import Orphans, components, orphan_groups
from .policy import Verdict, book_of, choose
from .why import Why, why

__all__ = [
    "Finding",
    "Orphans",
    "Report",
    "Verdict",
    "Why",
    "book_of",
    "check",
    "choose",
    "components",
    "orphan_groups",
    "why",
]
