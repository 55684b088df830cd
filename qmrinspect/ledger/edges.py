"""References
----------
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Callable

from ..index import Index
from ..tuples import NamedTuple
from .policies import Policy

__all__ = ["Edge", "EdgeSource", "Kind", "Rule"]


class Edge(NamedTuple):
    """One reference that a field holds on an object.

    :param holder: address of the object or structure with the field; 0 for a
        variable of the program.
    :param owner: the object that the holder is part of or works for, 0 when it
        is none: what reachability follows.
    :param rule: name of the :class:`Rule` when no holder can be enumerated.
    :param question: what decides whether QEMU counts it, empty when it always does.
    :param presumed: the answer while there is little evidence: ``yes``, ``no`` or empty.
    """

    kind: str
    target: int
    holder: int
    owner: int
    field: str
    rule: str = ""
    question: str = ""
    presumed: str = ""


EdgeSource = Callable[[Index, Policy], Iterable[Edge]]


class Kind(NamedTuple):
    """One kind of reference.

    :param name: its word in text, JSON, code and docs.
    :param holds: one sentence: what holds it, and on what.
    :param source: QEMU source, file and function.
    :param since: the QEMU in which it came, or went; empty when always there.
    :param ends: whether it is transient (RCU, a cached view).
    :param edges: from a snapshot to references.
    :param ruled: whether they depend on the policy.
    """

    name: str
    holds: str
    source: str
    since: str
    ends: bool
    edges: EdgeSource
    ruled: bool = False


class Rule(NamedTuple):
    """A reference that a documented rule grants although its holder is not visible here.

    :param forever: whether a variable of the program holds it, so that the object
        is reachable from a root.
    :param hides: whether QEMU took the object out of the tree, to go on using it.
    """

    name: str
    grants: str
    source: str
    forever: bool = True
    hides: bool = False
