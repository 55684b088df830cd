"""Arrays of links
---------------

A property that is an array of links references each target as a single link does; no
link property shows that, only the device's own array.
"""

from __future__ import annotations

from .record import Holder, Kind, OfType

__all__ = ["HOLDERS", "KINDS"]

_SOURCE = "hw/core/qdev-properties.c set_link, set_prop_array"

KINDS = (
    Kind("link-array", "a device holds what its array of links leads to", _SOURCE, "since 11.0"),
)

HOLDERS = (
    # DEFINE_PROP_LINK_ARRAY (hw/intc/arm_gicv5_common.c), the only one up to 11.1.
    Holder(
        "link-array",
        OfType("arm-gicv5-common"),
        "GICv5Common.cpus ->[GICv5Common.num_cpus]",
        "cpu",
        _SOURCE,
        since="since 11.0",
    ),
)
