"""What an address is
------------------

The answer of ``show ADDRESS`` where no object begins at the address.
"""

from __future__ import annotations

from ..index import Index
from ..report.places import place_json, place_lines
from .verb import Answer, Session

__all__ = ["address_of", "show_address"]


def address_of(text: str) -> int | None:
    """Return the address that a text is, None when it is none."""
    if not text.lower().startswith("0x"):
        return None
    try:
        address = int(text, 16)
    except ValueError:
        return None
    return address if 0 < address < 1 << 64 else None


def show_address(session: Session, index: Index, address: int) -> Answer:
    """Answer what an address belongs to and who points there."""
    place = session.place(index.snapshot, address)
    return Answer(place_json(index, place), place_lines(index, place))
