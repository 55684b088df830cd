"""What memory came with a device
-------------------------------

The blocks of malloc that a plug made, for what is no object: block nodes, netdevs, chardevs, and
what devices keep beside their objects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..ledger import Book
from .driver import Driver

__all__ = ["Came"]


class Came:
    """The blocks that one plug made.

    :param wanted: whether they are to be known.
    :ivar ranges: (start, end) of each, sorted.
    """

    def __init__(self, driver: Driver, wanted: bool = False) -> None:
        self._driver, self.wanted = driver, wanted
        self._before: Mapping[int, int] = {}
        self.ranges: Sequence[tuple[int, int]] = ()

    def begin(self, book: Book) -> None:
        """Remember the blocks of the last reading, of which ``book`` was made."""
        self._before = self._live(book)

    def end(self, book: Book) -> None:
        """Tell which blocks there are more in the last reading."""
        live = self._live(book) if self._before else {}
        self.ranges = [(a, a + n) for a, n in sorted(live.items()) if self._before.get(a) != n]

    def _live(self, book: Book) -> Mapping[int, int]:
        blocks = self._driver.blocks(book.index.snapshot) if self.wanted else None
        return blocks.sizes() if blocks is not None else {}
