"""Verbs that show what is there
-----------------------------

The QOM tree, and everything known of one object.
"""

from __future__ import annotations

import argparse

from ..audit import check
from ..errors import UsageError
from ..report.objects import show_json, show_lines
from ..report.outside import lost_members, outside_json, outside_lines
from ..report.tree import nodes_below, tree_json, tree_lines
from .place import address_of, show_address
from .verb import Answer, Session

__all__ = ["run_show", "run_tree"]

_DEPTH_MAX = 256


def run_tree(session: Session, args: argparse.Namespace) -> Answer:
    """Show the QOM tree with observed and expected counts (``qmr-tree/1``)."""
    report = check(session.snapshot())
    index = report.book.index
    if args.outside:
        if args.path or args.depth is not None:
            raise UsageError(
                "--outside lists what is in no part of the tree", "leave the others out"
            )
        lost = lost_members(report.book)
        return Answer(outside_json(report.book, lost), outside_lines(report.book, lost))
    top = session.resolve(index, args.path).address if args.path else index.root
    depth = _DEPTH_MAX if args.depth is None else args.depth
    nodes = list(nodes_below(index, top, depth))
    return Answer(tree_json(report.book, nodes), tree_lines(report, nodes, depth, args.all))


def run_show(session: Session, args: argparse.Namespace) -> Answer:
    """Show all that is known of an object or an address (``qmr-show/1``)."""
    report = check(session.snapshot())
    index = report.book.index
    given = address_of(args.object)
    if given is not None and given not in index.snapshot.objects:
        return show_address(session, index, given)
    address = session.resolve(index, args.object).address
    return Answer(show_json(report, address), show_lines(report, address))
