"""What an address is
------------------

The answer of ``show ADDRESS`` where no object begins at the address.
"""

from __future__ import annotations

from ..index import Index
from ..report.places import place_json, place_lines
from .verb import Outcome, Session

__all__ = ["address_of", "show_address"]


def address_of(text: str) -> int:
    """Return the address that a text is, 0 when it is none."""
    if not text.lower().startswith("0x"):
        return 0
    try:
        address = int(text, 16)
    except ValueError:
        return 0
    return address if address < 1 << 64 else 0


def show_address(session: Session, index: Index, address: int) -> Outcome:
    """Answer what an address belongs to and who points there."""
    place = session.place(index.snapshot, address)
    return Outcome(place_json(index, place), place_lines(index, place))
