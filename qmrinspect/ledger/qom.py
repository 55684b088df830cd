"""References of the object model
------------------------------
"""

from __future__ import annotations

from collections.abc import Iterator

from ..index import Index
from .edges import Edge, Kind
from .policies import Policy

__all__ = ["KINDS"]


def _child(index: Index, policy: Policy) -> Iterator[Edge]:
    for prop in index.snapshot.props:
        if prop.role == "child":
            yield Edge("child", prop.target, prop.holder, prop.holder, f'child "{prop.name}"')


def _link(index: Index, policy: Policy) -> Iterator[Edge]:
    for prop in index.snapshot.props:
        if prop.role == "strong":
            yield Edge("link", prop.target, prop.holder, prop.holder, f'link "{prop.name}"')


KINDS = (
    Kind(
        "child",
        "a parent's child property holds the child",
        "qom/object.c object_property_try_add_child, object_finalize_child_property",
        "",
        False,
        _child,
    ),
    Kind(
        "link",
        "a strong link property, of an instance or of its class, holds its target",
        "qom/object.c object_set_link_property, object_release_link_property; "
        "hw/core/qdev-properties.c create_link_property",
        "",
        False,
        _link,
    ),
)
