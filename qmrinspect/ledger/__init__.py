"""The ledger
----------

Who holds what, by which rule.  One small piece for each reference kind turns a
snapshot into counted references; the policies are data that
the pieces consult.
"""

from .book import Book, open_book, open_books
from .edges import Edge, Kind, Rule
from .kinds import KINDS, RULES
from .policies import POLICIES, Policy

__all__ = [
    "KINDS",
    "POLICIES",
    "RULES",
    "Book",
    "Edge",
    "Kind",
    "Policy",
    "Rule",
    "open_book",
    "open_books",
]
