"""What a call site says
---------------------

Which kind of reference a function takes or drops: QEMU's functions as the ledger's kinds
cite them, and those that compilers put them into.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..ledger import KINDS
from ..stacks.names import Frame

__all__ = ["kinds_of"]

_FUNCTION = re.compile(r"\b[a-z][a-z0-9]*_[a-z0-9_]+\b(?![./-])")

# Static functions, and those whose code has theirs inside where nothing tells them apart.
_INSIDE = {
    "object_initialize_with_type": (
        "object_new_with_type",
        "object_initialize",
        "object_new",
        "object_new_with_class",
    ),
    "bus_add_child": ("qdev_set_parent_bus",),
    "bus_free_bus_child": ("bus_remove_child",),
    "memory_region_update_container_subregions": (
        "memory_region_add_subregion_common",
        "memory_region_add_subregion",
        "memory_region_add_subregion_overlap",
    ),
    "flatview_insert": ("render_memory_region", "generate_memory_topology"),
    "flatview_new": ("generate_memory_topology",),
    "phys_section_add": ("register_subpage", "register_multipage", "flatview_add_to_dispatch"),
    "object_finalize_child_property": ("object_property_del_child",),
    "do_address_space_destroy": ("address_space_destroy",),
}


def _table() -> dict[str, frozenset[str]]:
    out: dict[str, set[str]] = {}
    for kind in KINDS:
        for function in _FUNCTION.findall(kind.source):
            out.setdefault(function, set()).add(kind.name)
    for inner, outers in _INSIDE.items():
        for outer in outers:
            out.setdefault(outer, set()).update(out.get(inner, ()))
    return {function: frozenset(kinds) for function, kinds in out.items()}


_TABLE = _table()


def kinds_of(frames: Iterable[Frame]) -> frozenset[str]:
    """Return the kinds of references that a call stack may be about, none when it is unknown.

    The innermost function that is known decides; what calls QEMU's own machinery has
    purposes of its own.
    """
    for frame in frames:
        kinds = _TABLE.get(frame.name)
        if kinds:
            return kinds
        if not frame.plumbing:
            break
    return frozenset()
