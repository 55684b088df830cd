"""Verbs about files and instants
------------------------------
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ..audit import book_of
from ..audit.diff import diff
from ..errors import TargetError
from ..outfile import probe
from ..report import render, words
from ..report.differences import difference_json, difference_lines
from ..snapshot import Snapshot
from .verb import CLEAN, FINDINGS, Answer, Session

__all__ = ["compared", "run_diff", "run_save"]


def run_save(session: Session, args: argparse.Namespace) -> Answer:
    """Write a snapshot file (``qmr-snapshot/1``)."""
    from ..store import save

    probe(args.file)
    # What does not balance is saved with the words that point to it.
    book = book_of(session.snapshot())
    snapshot = book.index.snapshot
    odd = {address for address in snapshot.objects if book.residual(address)}
    snapshot = snapshot._replace(pointers=tuple(session.pointers(snapshot, odd)))
    save(snapshot, args.file)
    size = os.path.getsize(args.file)
    count = render.plural(len(snapshot.objects), "object")
    data = {
        **words.head_json("qmr-save/1", snapshot),
        "file": args.file,
        "size": size,
        "objects": len(snapshot.objects),
    }
    return Answer(data, [f"{args.file} holds {count} ({size / 1024:.0f} KiB)"])


# diff ------------------------------------------------------------------------------


def run_diff(session: Session, args: argparse.Namespace) -> Answer:
    """Compare two instants, object by object and reference by reference (``qmr-diff/1``)."""
    return compared(_instant(session, args.before), _instant(session, args.after))


def compared(before: Snapshot, after: Snapshot) -> Answer:
    """Compare two snapshots.

    :raises TargetError: they are not of the same QEMU process.
    """
    if before.target.build_id != after.target.build_id:
        raise TargetError(
            "the two snapshots are of different QEMU builds, so that they cannot be compared",
            "compare two instants of one VM",
        )
    if before.target.pid != after.target.pid:
        raise TargetError(
            f"the two snapshots are of different processes ({before.target.pid} and "
            f"{after.target.pid}), so that they cannot be compared",
            "compare two instants of one VM",
        )
    old, new = book_of(before), book_of(after)
    found = diff(old, new)
    differ = bool(found.appeared or found.gone or found.changed)
    code = FINDINGS if differ else CLEAN
    return Answer(difference_json(old, new, found), difference_lines(old, new, found), code)


def _instant(session: Session, name: str) -> Snapshot:
    from ..store import load

    return session.snapshot() if name == "-" else load(Path(name))
