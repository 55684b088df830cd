"""References that a field keeps
-----------------------------

The kinds whose holders are declared in :mod:`qmrinspect.references`: a field of a known
structure with a counted pointer in it.
"""

from __future__ import annotations

from collections.abc import Iterator

from .. import references
from ..index import Index
from .edges import Edge, EdgeSource, Kind
from .policies import Policy

__all__ = ["KINDS", "declared"]


def _on_object(kind: str) -> EdgeSource:
    """References on the object that the field points to."""

    def edges(index: Index, policy: Policy) -> Iterator[Edge]:
        for field in index.fields(kind):
            yield Edge(
                kind,
                field.target,
                field.holder,
                index.enclosing(field.holder),
                field.field,
                question=field.question,
                presumed=field.presumed,
            )

    return edges


def _on_owner(kind: str) -> EdgeSource:
    """References on the owner of the region that the field points to or maps."""

    def edges(index: Index, policy: Policy) -> Iterator[Edge]:
        for field in index.fields(kind):
            region = index.snapshot.regions.get(field.target)
            if region is not None and region.owner:
                holder = index.enclosing(field.holder)
                yield Edge(kind, region.owner, field.holder, holder, field.field)

    return edges


_SOURCES = {"object": _on_object, "owner": _on_owner}


def declared(kind: references.Kind, edges: EdgeSource | None = None) -> Kind:
    """Return the ledger's kind for a declared one.

    :param edges: what makes its references, where it takes more than the fields.
    """
    edges = edges or _SOURCES[kind.on](kind.name)
    return Kind(kind.name, kind.holds, kind.source, kind.since, kind.transient, edges)


# Those that count on a flat view are no references on objects; those in ``initial`` follow
# rules of their own.
_ELSEWHERE = ("initial", "reset")

KINDS = tuple(
    declared(kind)
    for kind in references.KINDS
    if kind.on in _SOURCES and kind.name not in _ELSEWHERE
)
