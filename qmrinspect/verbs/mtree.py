"""Memory as the guest sees it
---------------------------

Regions and flat views by address space, like QEMU's own ``info mtree``, with the
owner and the references.
"""

from __future__ import annotations

import argparse
import difflib

from ..audit import book_of
from ..errors import UsageError
from ..report.regions import flat_json, flat_lines, region_json, region_lines
from ..snapshot import Snapshot, Space
from ..text import printable
from .verb import Answer, Session

__all__ = ["run_mtree"]


def run_mtree(session: Session, args: argparse.Namespace) -> Answer:
    """Show memory regions by address space (``qmr-mtree/1``), or flat views.

    Those are ``qmr-mtree-flat/1``.
    """
    snapshot = session.snapshot()
    book = book_of(snapshot)
    spaces = _spaces(snapshot, args.space)
    if args.flat:
        return Answer(flat_json(book, spaces), flat_lines(book, spaces))
    return Answer(region_json(book, spaces), region_lines(book, spaces, args.disabled))


def _spaces(snapshot: Snapshot, wanted: str | None) -> list[Space]:
    spaces = sorted(snapshot.spaces.values(), key=lambda space: space.name != "memory")
    if not wanted:
        return spaces
    found = [space for space in spaces if space.name == wanted]
    found = found or [space for space in spaces if space.name.startswith(wanted)]
    if found:
        return found
    names = sorted({space.name for space in spaces})
    near = difflib.get_close_matches(wanted, names, 3, 0.4)
    hint = "did you mean " + " or ".join(map(printable, near)) + "?" if near else None
    raise UsageError(
        f"there is no address space {printable(wanted)}",
        hint or "there are: " + ", ".join(map(printable, names)),
    )
